"""Populations from short trajectories: a known chain's comes back, and the model's where data are silent."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.errors import AnalysisError
from cgal_plugin.refinement import DynamicStates, Populations, populations


def chain(energy: np.ndarray, rate: float = 0.3) -> np.ndarray:
    """Metropolis walk between neighbours on a line; its stationary distribution is exp(−energy)."""
    n = len(energy)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in (i - 1, i + 1):
            if 0 <= j < n:
                matrix[i, j] = rate * min(1.0, np.exp(energy[i] - energy[j]))
        matrix[i, i] = 1.0 - matrix[i].sum()
    return matrix


def walk(matrix: np.ndarray, start: int, n: int, rng: np.random.Generator) -> np.ndarray:
    state, path = start, np.empty(n, dtype=np.int64)
    steps = np.cumsum(matrix, axis=1)
    for k, u in enumerate(rng.random(n)):
        path[k] = state
        state = min(int(np.searchsorted(steps[state], u)), len(matrix) - 1)
    return path


ENERGY = np.array([0.0, 1.0, 2.0, 0.5, -0.5, 1.0])
EXACT = np.exp(-ENERGY) / np.exp(-ENERGY).sum()


def test_short_trajectories_from_anywhere_give_the_equilibrium() -> None:
    """Starts that are far from it, and a model that is wrong by 2 kT: neither shows."""
    rng = np.random.default_rng(1)
    matrix, wrong = chain(ENERGY), chain(ENERGY[::-1].copy())
    data = [walk(matrix, k % 2, 60, rng) for k in range(600)]
    assert np.abs(np.bincount(np.concatenate(data)) / 36_000 - EXACT).max() > 0.1
    model = [walk(wrong, 0, 5000, rng) for _ in range(4)]
    found = populations(data, model, 6, 5)
    assert found.target.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.log(found.target), np.log(EXACT), atol=0.35)
    np.testing.assert_allclose(found.target, EXACT, atol=0.06)
    np.testing.assert_allclose(found.model, EXACT[::-1], atol=0.06)
    assert found.divergence > 0.3


def test_where_the_data_do_not_pass_the_ratio_is_the_models() -> None:
    """Two halves, each sampled well, never joined; the second is where most data are, which says nothing."""
    rng = np.random.default_rng(2)
    halves = chain(ENERGY)
    halves[2, 2] += halves[2, 3]
    halves[3, 3] += halves[3, 2]
    halves[2, 3] = halves[3, 2] = 0.0
    data = [walk(halves, 0, 4000, rng)] + [walk(halves, 4, 4000, rng) for _ in range(5)]
    model = [walk(chain(ENERGY), 0, 20_000, rng) for _ in range(5)]
    found = populations(data, model, 6, 5)
    assert found.target[:3].sum() == pytest.approx(EXACT[:3].sum(), abs=0.08)


def test_states_that_only_the_model_has_keep_their_share() -> None:
    rng = np.random.default_rng(3)
    near = chain(ENERGY[:4])
    data = [walk(near, k, 4000, rng) for k in range(4)]
    model = [walk(chain(ENERGY), 0, 20_000, rng) for _ in range(5)]
    np.testing.assert_allclose(populations(data, model, 6, 5).target, EXACT, atol=0.06)


def test_a_state_that_is_entered_once_and_not_left_is_no_trap() -> None:
    """A trajectory ends in state 2: by its transitions alone that absorbs everything."""
    rng = np.random.default_rng(6)
    energy = np.array([0.0, 1.0, 2.5])
    data = [walk(chain(energy[:2]), k, 60, rng) for k in (0, 1)]
    data.append(np.array([1, 1, 1, 2, 2, 2]))
    model = [walk(chain(energy), 0, 20_000, rng) for _ in range(5)]
    found = populations(data, model, 3, 5)
    assert found.target[2] / found.target[1] == pytest.approx(np.exp(-1.5), rel=0.1)  # the model's
    other = found.with_model([np.zeros(5, dtype=np.int64)])
    np.testing.assert_array_equal(other.target, found.target)
    np.testing.assert_array_equal(other.model, [1.0, 0.0, 0.0])


def test_what_nothing_connects_is_left_out_and_counted() -> None:
    """The model stays in the first two states, the data are there and, apart, in the last two."""
    rng = np.random.default_rng(5)
    pair = chain(np.array([0.0, 1.0]))
    data = [walk(pair, 0, 3000, rng), walk(pair, 0, 1000, rng) + 4]
    found = populations(data, [walk(pair, 0, 3000, rng)], 6, 5)
    assert found.connected == pytest.approx(0.75)
    np.testing.assert_array_equal(found.target[2:], 0.0)
    assert found.target[0] / found.target[1] == pytest.approx(np.e, rel=0.25)


def test_divergence() -> None:
    same = Populations(EXACT, EXACT)
    assert same.divergence == pytest.approx(0.0, abs=1e-12)
    # a state that the model does not visit counts
    assert Populations(np.array([0.5, 0.5]), np.array([0.0, 1.0])).divergence == pytest.approx(
        0.5 * np.log(0.5 / 1e-4) + 0.5 * np.log(0.5)
    )
    assert Populations(np.array([0.5, 0.5]), np.array([0.25, 0.75])).divergence == pytest.approx(
        0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0)
    )


def test_states_are_those_of_both_and_bad_input_is_named() -> None:
    rng = np.random.default_rng(4)
    data = [np.cumsum(rng.normal(size=(200, 4, 3)), axis=0) for _ in range(3)]
    states = DynamicStates.fit(data, data[:1], lag_frames=5, n_states=8, seed=1)
    assigned = states.assign(data)
    assert [len(a) for a in assigned] == [200] * 3
    assert set(np.concatenate(assigned)) == set(range(8))
    with pytest.raises(AnalysisError, match=r"none of the 3 .* longer than the lag of 300 frames"):
        DynamicStates.fit(data, data, lag_frames=300, n_states=8, seed=1)
    with pytest.raises(AnalysisError, match="too few for 900 states"):
        DynamicStates.fit(data, data, lag_frames=5, n_states=900, seed=1)
    with pytest.raises(AnalysisError, match="no frames"):
        populations(assigned, [np.zeros(0, dtype=np.int64)], 8, 5)
