"""Correct the coefficients of the priors towards target populations, by relative entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError
from cgal_plugin.refinement.populations import LEAST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.refinement.populations import Populations

#: fraction of the Newton step; below 1 because the populations are noisy
DAMPING = 0.7
#: largest change of the logarithm of a population in one step
MAX_LOG_RATIO = 2.0
#: smallest number of frames of the model for the mean energies of a state
_MIN_FRAMES = 20


@dataclass(frozen=True, eq=False)
class Correction:
    """One step of the refinement.

    Attributes
    ----------
    change
        ``(n_parameters,)`` change of the coefficients, kcal/mol.
    spread
        Standard deviation of the energy change over the model's frames, kcal/mol.
    """

    change: NDArray[np.float64]
    spread: float


def correction(
    model: NDArray[np.float64],
    model_states: NDArray[np.int64],
    data: NDArray[np.float64],
    data_states: NDArray[np.int64],
    found: Populations,
    *,
    kT: float,
    ridge: float,
) -> Correction:
    """Compute the step that moves the model's populations to the target, to first order.

    The relative entropy S(c) between a target and the model with energy U + Σ cₚ fₚ has the gradient
    β(⟨f⟩_target − ⟨f⟩_c) and the curvature β² Cov_c(f). The Newton step is
    c = kT Cov⁻¹ (⟨f⟩_model − ⟨f⟩_target) (Shell, J. Chem. Phys. 129, 144108, 2008). The target has the
    populations of ``found`` and, within each state, the distribution of the model, which force matching
    determines well. For states with too few frames of the model, frames of the data are used.

    Parameters
    ----------
    model, data
        ``(n, n_parameters)`` energies of the frames for unit coefficients
        (:func:`cgal_plugin.priors.linear.energies`).
    model_states, data_states
        ``(n,)`` states of these frames.
    found
        Target populations and those of the model.
    kT
        Thermal energy, kcal/mol.
    ridge
        Regularisation, added to the variance of each energy: coefficients that the model's frames determine
        poorly change little.

    Raises
    ------
    AnalysisError
        The ridge is not a positive number.
    """
    if not (np.isfinite(ridge) and ridge > 0):
        raise AnalysisError(f"ridge is {ridge!r}; it must be a positive number")
    means = _state_means(model, model_states, data, data_states, len(found.target))
    now, wanted = (np.maximum(p, LEAST) for p in (found.model, found.target))
    goal = now * np.exp(np.clip(np.log(wanted / now), -MAX_LOG_RATIO, MAX_LOG_RATIO))
    gap = now / now.sum() - goal / goal.sum()
    covariance = np.cov(model, rowvar=False).reshape(model.shape[1], model.shape[1])
    change = DAMPING * kT * np.linalg.solve(covariance + ridge * np.eye(len(covariance)), gap @ means)
    return Correction(change, float(np.std(model @ change)))


def _state_means(
    model: NDArray[np.float64],
    model_states: NDArray[np.int64],
    data: NDArray[np.float64],
    data_states: NDArray[np.int64],
    n_states: int,
) -> NDArray[np.float64]:
    """Return the mean energies of each state, ``(n_states, n_parameters)``."""
    n_model, n_data = (np.bincount(s, minlength=n_states) for s in (model_states, data_states))
    means = np.tile(model.mean(axis=0), (n_states, 1))
    for state in range(n_states):
        if n_model[state] >= _MIN_FRAMES or (n_model[state] and not n_data[state]):
            means[state] = model[model_states == state].mean(axis=0)
        elif n_data[state]:
            means[state] = data[data_states == state].mean(axis=0)
    return means
