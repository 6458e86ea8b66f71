"""Markov state models: known chains give known probabilities, and estimates converge or are refused."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.analysis import markov_states
from cgal_plugin.analysis.markov_states import (
    ReferenceStates,
    implied_timescales,
    newton_reversible,
    reversible_model,
    reweight,
)
from cgal_plugin.errors import AnalysisError

CENTRES = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
TRANSITION = np.array([[0.95, 0.04, 0.01], [0.02, 0.97, 0.01], [0.03, 0.07, 0.90]])


def _stationary(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(matrix.T)
    vector = np.real(vectors[:, np.argmax(np.real(values))])
    return vector / vector.sum()


def _chain(start: int, n: int, rng: np.random.Generator, matrix: np.ndarray = TRANSITION) -> np.ndarray:
    states, steps = [start], np.cumsum(matrix, axis=1)[:, :-1]
    for u in rng.random(n - 1):
        states.append(int(np.searchsorted(steps[states[-1]], u, side="right")))
    return CENTRES[states] + rng.normal(0, 0.2, (n, 2))


def test_weights_undo_the_choice_of_starts() -> None:
    # all short trajectories start in the rarest state: the raw populations are far from equilibrium
    rng = np.random.default_rng(0)
    points = [_chain(2, 25, rng) for _ in range(400)]
    states = ReferenceStates.fit(points, n_states=3, seed=1)
    found = reweight(states, lag_frames=1)
    assert found.connected == 1.0
    weights = np.concatenate(found.weights)
    assert weights.sum() == pytest.approx(1.0)
    nearest = np.argmin(np.linalg.norm(np.concatenate(points)[:, None] - CENTRES, axis=-1), axis=1)
    population = np.array([weights[nearest == k].sum() for k in range(3)])
    raw = np.bincount(nearest, minlength=3) / len(nearest)
    expected = _stationary(TRANSITION)
    assert np.abs(population - expected).max() < 0.05
    assert np.abs(raw - expected).max() > 0.15


def test_timescales_of_a_known_chain_do_not_depend_on_the_lag() -> None:
    points = [_chain(0, 60_000, np.random.default_rng(3))]
    states = ReferenceStates.fit(points, n_states=3, seed=1)
    expected = -1.0 / np.log(np.sort(np.real(np.linalg.eigvals(TRANSITION)))[::-1][1])
    for found in implied_timescales(states, (1, 2, 5)).values():
        assert found[0] == pytest.approx(expected, rel=0.1)


def test_an_absorbing_reference_is_left_unweighted_and_says_so() -> None:
    one_way = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rng = np.random.default_rng(5)
    points = [_chain(0, 200, rng, one_way) for _ in range(4)] + [
        _chain(2, 200, rng, one_way) for _ in range(4)
    ]
    found = reweight(ReferenceStates.fit(points, n_states=3, seed=0), lag_frames=1)
    assert found.weights is None
    assert found.connected < 0.95
    assert "UNWEIGHTED" in found.note


def _weakly_connected() -> np.ndarray:
    """Counts of two wells joined by one rare transition, of which the exact ratio is 0.02."""
    return np.array([[1e4, 10, 0, 0], [10, 1e4, 1e-3, 0], [0, 2e-5, 1e4, 10], [0, 0, 10, 1e4]])


def test_newton_gives_the_maximum_likelihood_model() -> None:
    rng = np.random.default_rng(7)
    counts = rng.gamma(0.5, 20.0, (12, 12))
    matrix, stationary = newton_reversible(counts)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    flow = stationary[:, None] * matrix
    np.testing.assert_allclose(flow, flow.T, rtol=1e-12)
    # Prinz et al. 2011, eq. 26: x_ij = (c_ij + c_ji) / (c_i / x_i + c_j / x_j)
    ratio = counts.sum(axis=1) / stationary
    expected = (counts + counts.T) / (ratio[:, None] + ratio)
    np.testing.assert_allclose(flow, expected / expected.sum(), rtol=1e-9)
    # a birth-death chain is reversible: its estimate reproduces the counted rates
    _, stationary = newton_reversible(_weakly_connected())
    exact = np.array([1.0, 1.0, 0.0, 0.0])
    exact[2:] = (1e-3 / 10_010.001) / (2e-5 / 10_010.00002)
    np.testing.assert_allclose(stationary, exact / exact.sum(), rtol=1e-6)


def test_an_estimate_that_converges_slowly_is_finished_by_newton(monkeypatch: pytest.MonkeyPatch) -> None:
    from deeptime.markov import TransitionCountModel

    rng = np.random.default_rng(8)
    counts = TransitionCountModel(rng.gamma(0.5, 20.0, (12, 12)))
    fixed_point = reversible_model(counts)
    monkeypatch.setattr(markov_states, "_FIXED_POINT_STEPS", 3)
    newton = reversible_model(counts)  # pytest turns deeptime's warning into an error
    np.testing.assert_allclose(newton.stationary_distribution, fixed_point.stationary_distribution, rtol=1e-5)
    np.testing.assert_allclose(newton.timescales(3), fixed_point.timescales(3), rtol=1e-5)


def test_tiny_populations_are_estimated() -> None:
    """deeptime's iteration refuses populations below 1e-15."""
    from deeptime.markov import TransitionCountModel

    model = reversible_model(TransitionCountModel(np.array([[10.0, 1e-17], [1.0, 10.0]])))
    np.testing.assert_allclose(model.stationary_distribution, [1.0, 1.1e-17], rtol=1e-6)


def test_an_estimate_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from deeptime.markov import TransitionCountModel

    monkeypatch.setattr(markov_states, "_FIXED_POINT_STEPS", 3)
    monkeypatch.setattr(markov_states, "_NEWTON_STEPS", 1)
    with pytest.raises(AnalysisError, match="Markov state model of 4 states did not converge"):
        reversible_model(TransitionCountModel(_weakly_connected()))


def test_visited_counts_the_states_that_are_reached() -> None:
    rng = np.random.default_rng(6)
    points = [_chain(0, 3000, rng)]
    states = ReferenceStates.fit(points, n_states=3, seed=0)
    assert states.visited(points) == 1.0
    assert states.visited([CENTRES[:1] + rng.normal(0, 0.1, (50, 2))]) == pytest.approx(1 / 3)
    same = [np.bincount(a, minlength=3) for a in (states.assign(points)[0], states.assignments[0])]
    np.testing.assert_array_equal(*same)


def test_bad_input() -> None:
    points = [np.random.default_rng(0).normal(size=(20, 2))]
    with pytest.raises(AnalysisError, match="n_states"):
        ReferenceStates.fit(points, n_states=50)
    with pytest.raises(AnalysisError, match="does not vary"):
        ReferenceStates.fit([np.zeros((20, 2))], n_states=3)
    with pytest.raises(AnalysisError, match="longer than the lag"):
        reweight(ReferenceStates.fit(points, n_states=3), lag_frames=20)
