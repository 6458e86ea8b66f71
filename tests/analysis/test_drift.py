"""What trajectories keep of their start: found if it is there, rarely found if it is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cgal_plugin.analysis import drift as module
from cgal_plugin.analysis.drift import ALPHA, LEAST, Difference, Drift, drift
from cgal_plugin.errors import AnalysisError

REFERENCE = np.random.default_rng(7).normal([3.0, -1.0], [2.0, 0.5], size=(2000, 2))


def replicas(
    rng: np.random.Generator, n: int, frames: int, memory: float = 0.9, start: float = 0.0
) -> list[NDArray[np.float64]]:
    """Return stationary chains in the units of the reference; with ``start``, alternating starts decay."""
    x = np.empty((n, frames, 2))
    x[:, 0] = rng.normal(size=(n, 2))
    for k in range(1, frames):
        x[:, k] = memory * x[:, k - 1] + np.sqrt(1 - memory**2) * rng.normal(size=(n, 2))
    kept = memory ** np.arange(frames)
    x[:, :, 0] += start * kept * np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
    return list(x * [2.0, 0.5] + [3.0, -1.0])


def halves_of(n: int) -> list[int]:
    return [i % 2 for i in range(n)]


def test_false_alarms_are_as_rare_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correlated replicas of one distribution: each check finds a difference in a share ALPHA of them."""
    monkeypatch.setattr(module, "_PERMUTATIONS", 39)  # ALPHA × 40 = 1: exact as well, and five times faster
    monkeypatch.setattr(module, "_POINTS", 25)
    n = 200
    found = np.zeros((n, 3))
    for seed in range(n):
        rng = np.random.default_rng([2026, seed])
        one = [r[:, :1] for r in replicas(rng, 12, 12)]  # optimal transport in one dimension is fast
        result = drift(one, REFERENCE[:, :1], groups=halves_of(12), seed=seed)
        found[seed] = result.starts.significant, result.halves.significant, result.drifts
    expected, error = n * ALPHA, np.sqrt(n * ALPHA * (1 - ALPHA))
    counts = found.sum(axis=0)
    assert abs(counts[0] - expected) < 3 * error
    assert abs(counts[1] - expected) < 3 * error
    assert counts[2] <= counts[0] + counts[1]


def test_starts_that_are_not_forgotten_are_found_and_named() -> None:
    rng = np.random.default_rng(0)
    slow = drift(replicas(rng, 32, 60, memory=0.99, start=2.0), REFERENCE, groups=halves_of(32))
    assert slow.starts.counts
    assert slow.drifts
    assert f"starts still differ: {slow.starts.w1:.2f}, by chance" in slow.text
    fast = drift(replicas(rng, 32, 60, memory=0.5, start=2.0), REFERENCE, groups=halves_of(32))
    assert not fast.starts.counts
    # the unit is the standard deviation of the reference, and weights change it
    weights = np.where(REFERENCE[:, 0] > 3.0, 3.0, 1.0)
    assert drift(replicas(np.random.default_rng(0), 32, 60, 0.99, 2.0), REFERENCE, weights,
                 groups=halves_of(32)).starts.w1 != slow.starts.w1  # fmt: skip


def test_a_common_drift_in_time_is_found_by_the_halves_alone() -> None:
    rng = np.random.default_rng(1)
    moving = [r + np.linspace(0, 4, 60)[:, None] * [1.0, 0.0] for r in replicas(rng, 32, 60)]
    result = drift(moving, REFERENCE, groups=halves_of(32))
    assert result.halves.counts
    assert not result.starts.counts
    assert result.text.startswith("halves in time still differ")
    assert drift(moving, REFERENCE).to_dict()["starts"] == {"w1": None, "expected": None, "typical": None}


def test_a_small_difference_does_not_count_however_sure_it_is() -> None:
    rng = np.random.default_rng(2)
    many = replicas(rng, 200, 40, memory=0.1)
    shifted = [r + (i % 2) * np.array([0.24, 0.0]) for i, r in enumerate(many)]  # 0.12 standard deviations
    result = drift(shifted, REFERENCE, groups=halves_of(200))
    assert result.starts.significant
    assert not result.drifts
    assert result.text == ""
    larger = [r + (i % 2) * np.array([0.5, 0.0]) for i, r in enumerate(many)]
    assert drift(larger, REFERENCE, groups=halves_of(200)).drifts


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_too_few_replicas_tell_nothing(n: int) -> None:
    rng = np.random.default_rng(3)
    far = [r + 50.0 * (i % 2) for i, r in enumerate(replicas(rng, n, 30))]
    result = drift(far, REFERENCE, groups=halves_of(n))
    assert result.starts.expected is None
    assert not result.drifts
    assert result.halves.w1 is not None


def test_replicas_of_different_length_and_short_ones() -> None:
    """Replicas that blew up are shorter; one frame has no halves."""
    rng = np.random.default_rng(4)
    cut = [r[: 1 + 5 * i] for i, r in enumerate(replicas(rng, 12, 80))]
    result = drift(cut, REFERENCE, groups=halves_of(12))
    assert result.halves.expected is not None
    single = drift([r[:1] for r in cut], REFERENCE, groups=halves_of(12))
    assert single.halves == Difference()
    same = drift([np.full((9, 2), 3.0)] * 12, REFERENCE, groups=halves_of(12))
    assert not same.drifts


def test_a_constant_reference_is_refused_and_results_are_reproducible() -> None:
    rng = np.random.default_rng(5)
    chains = replicas(rng, 8, 20)
    with pytest.raises(AnalysisError, match="does not vary in coordinate 1"):
        drift(chains, REFERENCE * [0.0, 1.0])
    assert drift(chains, REFERENCE, seed=1) == drift(chains, REFERENCE, seed=1)
    assert isinstance(drift(chains, REFERENCE), Drift)
    assert 0 < LEAST < 0.2
