"""Force matching of angle series, dihedrals and pairs by least squares on the forces.

The other terms are fitted before; their forces are subtracted first. Energies and forces of the
matched terms are linear in the coefficients (a dihedral series as a cos mφ + b sin mφ): multiscale
coarse-graining, Noid, Chu, Ayton, Krishna, Izvekov, Voth, Das, Andersen, J. Chem. Phys. 128, 244114 (2008).
A ridge keeps coefficients that the frames determine poorly near zero. Tensions of the bonds are free
(:mod:`.tension`), unless ``ridge_tension`` is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import PriorFitError
from cgal_plugin.priors.linear import build_terms
from cgal_plugin.priors.prior_set import TERMS, PriorSet
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tension import FreeTensions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.priors.base import CGPrior

#: size of the largest array of a chunk of frames
_CHUNK = 4_000_000


def match_forces(
    fitted: PriorSet,
    frames: NDArray[np.float64],
    forces: NDArray[np.float64],
    terms: Sequence[str],
    settings: FitSettings,
    weights: NDArray[np.float64] | None = None,
) -> PriorSet:
    """Add angle series, dihedrals and pairs, fitted together to the forces minus those of ``fitted``.

    Parameters
    ----------
    fitted
        The other terms.
    frames, forces
        ``(n, n_beads, 3)`` float64, Å and kcal/mol/Å.
    terms
        All terms of the result, those of ``fitted`` included.
    settings
        Settings of the fit.
    weights
        ``(n,)``, weights of the squared residuals of each frame: a frame of weight 3 counts as three frames.
        Default: 1.

    Returns
    -------
    :class:`PriorSet`. Its standard errors are those of the ridge estimate, from the inverse normal matrix
    and the variance of the residual. They assume independent frames and force components, so they are too
    small for correlated frames of one trajectory.

    Raises
    ------
    PriorFitError
        The frames do not determine the coefficients.
    """
    linear = build_terms(fitted.molecule, terms, settings)
    size = sum(t.n_parameters for t in linear)
    normal, right, square = np.zeros((size, size)), np.zeros(size), 0.0
    # most terms act on few beads: forces on these only, and products of the terms that act on the same bead
    beads = [np.unique(t.index) for t in linear]
    local = [replace(t, index=np.searchsorted(own, t.index)) for t, own in zip(linear, beads, strict=True)]
    columns = np.split(np.arange(size), np.cumsum([t.n_parameters for t in linear])[:-1])
    bonds = np.concatenate([fitted.molecule.bond_index, fitted.molecule.bridge_index])
    tensions = FreeTensions.choose(bonds, settings.ridge_tension, len(frames), size)
    shared, freedom = 1 if tensions is None else tensions.shared, 0.0
    step = max(1, _CHUNK // (3 * sum(t.n_parameters * len(t.index) for t in linear)) // shared) * shared
    for lo in range(0, len(frames), step):
        x = frames[lo : lo + step]
        w = np.ones(len(x)) if weights is None else weights[lo : lo + step]
        root = np.sqrt(w)[:, None, None]
        rest = forces[lo : lo + step] - prior_forces(fitted, x)
        found = [t.forces(x[:, own]) for t, own in zip(local, beads, strict=True)]
        if tensions is not None:
            matrix, vector, taken = tensions.products(x, w, rest, zip(found, beads, strict=True))
            normal -= matrix.T @ matrix
            right -= vector @ matrix
            square -= float(vector @ vector)
            freedom += taken
        rest, found = rest * root, [f * root for f in found]
        for bead in np.unique(np.concatenate(beads)):
            acting = [k for k, own in enumerate(beads) if bead in own]
            at = np.concatenate([columns[k] for k in acting])
            parts = [found[k][:, :, np.searchsorted(beads[k], bead)] for k in acting]
            design = np.concatenate(parts).reshape(len(at), -1)
            normal[np.ix_(at, at)] += design @ design.T
            right[at] += design @ rest[:, bead].reshape(-1)
        square += float((rest * rest).sum())
    n = frames.size if weights is None else round(float(weights.sum()) * frames[0].size)
    ridge = np.concatenate([np.full(t.n_parameters, t.ridge) for t in linear]) * n
    c, covariance = _solve(normal, right, square, ridge, n, freedom)
    rows = [
        term.row(c[own], covariance[np.ix_(own, own)], len(frames))
        for term, own in zip(linear, columns, strict=True)
    ]
    return replace(
        fitted,
        terms=tuple(t for t in TERMS if t in terms),
        rows=(*fitted.rows, *rows),
        pair_range=(float(settings.first), float(settings.last)) if "pairs" in terms else None,
    )


def _solve(
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
    square: float,
    ridge: NDArray[np.float64],
    n: int,
    freedom: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients and their covariance; ``freedom`` is that of the tensions."""
    full = normal + np.diag(ridge)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(full), 1e-300))
    values, vectors = np.linalg.eigh(full * scale[:, None] * scale)
    # second condition: a coefficient of 1 kcal/mol changes forces by less than 1e-6 kcal/mol/Å
    if not values[0] > 1e-12 * values[-1] or np.diag(full).min() < 1e-12 * n:
        raise PriorFitError(
            "the frames do not determine the coefficients of dihedrals and pairs (singular normal matrix): "
            "increase ridge_pairs and ridge_dihedrals, or set first and last closer to observed distances"
        )
    inverse = (vectors / values) @ vectors.T * scale[:, None] * scale
    c = inverse @ right
    residual = max(0.0, square - 2.0 * float(c @ right) + float(c @ normal @ c))
    return c, inverse * residual / max(1.0, n - freedom - len(c))


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
