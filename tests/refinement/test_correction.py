"""A step recovers the tilt that separates two distributions of one family."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.errors import AnalysisError
from cgal_plugin.refinement import Populations, correction
from cgal_plugin.refinement.correction import DAMPING

KT = 0.8
#: of states, on a line
EDGES = np.linspace(-2.0, 2.0, 30)


def sample(mean: float, n: int = 200_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x of a Gaussian well, features x and an unrelated one, and states."""
    rng = np.random.default_rng(1)
    x = mean + rng.normal(size=n)
    return x, np.stack([x, rng.normal(size=n)], axis=1), np.digitize(x, EDGES)


def shares(states: np.ndarray) -> np.ndarray:
    return np.bincount(states, minlength=len(EDGES) + 1) / len(states)


def test_a_tilt_comes_back() -> None:
    """U = kT x²/2 and U + c x: the second has its mean at −c/kT."""
    _, features, states = sample(0.0)
    tilt = 0.15
    wanted = shares(sample(-tilt / KT)[2])
    step = correction(
        features, states, features[:0], states[:0], Populations(wanted, shares(states)), kT=KT, ridge=1e-9
    )
    np.testing.assert_allclose(step.change / DAMPING, [tilt, 0.0], atol=0.01)
    assert step.spread == pytest.approx(DAMPING * tilt, rel=0.1)


def test_nothing_to_mend_changes_nothing() -> None:
    _, features, states = sample(0.0, 5000)
    same = Populations(shares(states), shares(states))
    step = correction(features, states, features, states, same, kT=KT, ridge=0.05)
    np.testing.assert_allclose(step.change, 0.0, atol=1e-12)


def test_data_stand_in_where_the_model_has_no_frames() -> None:
    """The target is where the model never went; only the data's frames know what it is like there."""
    _, features, states = sample(-2.0, 20_000)
    _, far, far_states = sample(2.0, 20_000)
    found = Populations(shares(far_states), shares(states))
    step = correction(features, states, far, far_states, found, kT=KT, ridge=0.05)
    assert step.change[0] < -0.2  # pulls x up
    assert abs(step.change[1]) < 0.1 * abs(step.change[0])


def test_a_ridge_holds_and_a_bad_one_is_named() -> None:
    _, features, states = sample(0.0, 5000)
    found = Populations(shares(sample(1.0, 5000)[2]), shares(states))
    loose, firm = (
        correction(features, states, features, states, found, kT=KT, ridge=r).spread for r in (1e-6, 10.0)
    )
    assert firm < 0.2 * loose
    with pytest.raises(AnalysisError, match=r"ridge is 0\.0"):
        correction(features, states, features, states, found, kT=KT, ridge=0.0)
