"""Forces of fitted priors, from the prior classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.priors.base import CGPrior
    from cgal_plugin.priors.prior_set import PriorSet


def prior_modules(priors: PriorSet) -> list[CGPrior]:
    """Return the prior of each term."""
    from cgal_plugin.priors.modules import PRIORS

    return [PRIORS[term](**priors.arguments(term)) for term in priors.terms]


def prior_forces(
    priors: PriorSet, frames: NDArray[np.float64], modules: Sequence[CGPrior] | None = None
) -> NDArray[np.float64]:
    """Return the forces of fitted terms, ``(n, n_beads, 3)`` kcal/mol/Å, from the prior classes.

    ``modules`` are those of :func:`prior_modules`, for many calls.
    """
    if not priors.terms:
        return np.zeros_like(frames)
    import torch

    modules = prior_modules(priors) if modules is None else modules
    n, beads = frames.shape[:2]
    pos = torch.from_numpy(frames.reshape(-1, 3).copy()).requires_grad_(True)
    types = torch.from_numpy(np.tile(priors.molecule.types, n))
    batch = torch.arange(n).repeat_interleave(beads)
    energy = torch.zeros(n, 1, dtype=torch.float64)
    with torch.enable_grad():
        for prior in modules:
            energy = prior.post_reduce(energy, types, pos, batch, None, None)
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
    forces: NDArray[np.float64] = -gradient.numpy().reshape(frames.shape)
    return forces
