"""Force matching of dihedrals and pairs: least squares on the forces that the other terms leave.

Both energies are linear in their coefficients (the cosine series as a cos mφ + b sin mφ), and so are the
forces: multiscale coarse-graining, Noid, Chu, Ayton, Krishna, Izvekov, Voth, Das, Andersen, J. Chem. Phys.
128, 244114 (2008). Bonds, angles and repulsion are stiff and known well from distributions; they stay as
they were fitted. A ridge keeps coefficients that few frames speak of near zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import PriorFitError
from cgal_plugin.priors.linear import linear_blocks
from cgal_plugin.priors.prior_set import TERMS, PriorSet
from cgal_plugin.priors.settings import FitSettings

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_FRAMES = 200
#: numbers in the largest array of a chunk of frames
_CHUNK = 4_000_000


def check_forces(frames: NDArray[np.float64], forces: ArrayLike | None) -> NDArray[np.float64]:
    """Forces as float64.

    Raises
    ------
    PriorFitError
        They are missing, of another shape than the frames, not finite, or too few.
    """
    if forces is None:
        raise PriorFitError(
            "force matching needs the forces of the frames: forces (n, n_beads, 3), kcal/mol/Å"
        )
    array = np.asarray(forces, dtype=np.float64)
    if array.shape != frames.shape:
        raise PriorFitError(f"forces have shape {array.shape}; the frames have {frames.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise PriorFitError(f"forces of {bad.size} of {len(array)} frames are not finite (first: {bad[0]})")
    if len(array) < MIN_FRAMES:
        raise PriorFitError(f"{len(array)} frames; force matching needs {MIN_FRAMES} or more")
    return array


def check_weights(n_frames: int, weights: ArrayLike | None) -> NDArray[np.float64] | None:
    """Weights as float64.

    Raises
    ------
    PriorFitError
        Their number is not that of the frames, or one is not a positive number.
    """
    if weights is None:
        return None
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n_frames,):
        raise PriorFitError(f"weights have shape {array.shape}; expected one for each of {n_frames} frames")
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if bad.size:
        raise PriorFitError(f"weight {array[bad[0]]} of frame {bad[0]} is not a positive number")
    return array


def match_forces(
    fitted: PriorSet,
    frames: NDArray[np.float64],
    forces: NDArray[np.float64],
    terms: Sequence[str],
    settings: FitSettings,
    weights: NDArray[np.float64] | None = None,
) -> PriorSet:
    """Add dihedrals and pairs, fitted together to the forces that the fitted terms leave.

    Parameters
    ----------
    fitted
        The other terms.
    frames, forces
        ``(n, n_beads, 3)`` float64, Å and kcal/mol/Å.
    terms
        All terms that are wanted.
    settings
        Of the fit.
    weights
        ``(n,)`` of the frames' squared residuals: a frame of weight 3 counts as three. Default: 1.

    Returns
    -------
    :class:`PriorSet`. Standard errors are those of the ridge estimate, from the inverse normal matrix and
    the variance of the residual; they take frames and force components as independent, which those of one
    trajectory are not.

    Raises
    ------
    PriorFitError
        The frames do not determine the coefficients.
    """
    blocks = linear_blocks(fitted.topology, terms, settings)
    size = sum(b.n_parameters for b in blocks)
    normal, right, square = np.zeros((size, size)), np.zeros(size), 0.0
    widest = max(b.n_parameters * max(b.index.shape[0], fitted.topology.n_beads) for b in blocks)
    step = max(1, _CHUNK // (3 * max(widest, size * fitted.topology.n_beads)))
    for lo in range(0, len(frames), step):
        x = frames[lo : lo + step]
        rest = (forces[lo : lo + step] - _forces(fitted, x)).reshape(-1)
        design = np.concatenate([b.forces(x) for b in blocks], axis=0).reshape(size, -1)
        if weights is not None:
            root = np.repeat(np.sqrt(weights[lo : lo + step]), frames[0].size)
            rest, design = rest * root, design * root
        normal += design @ design.T
        right += design @ rest
        square += float(rest @ rest)
    n = frames.size if weights is None else round(float(weights.sum()) * frames[0].size)
    ridge = np.concatenate([np.full(b.n_parameters, b.ridge) for b in blocks]) * n
    c, covariance = _solve(normal, right, square, ridge, n)
    rows, at = [], 0
    for block in blocks:
        part = slice(at, at + block.n_parameters)
        rows.append(block.row(c[part], covariance[part, part], len(frames)))
        at += block.n_parameters
    return replace(
        fitted,
        terms=tuple(t for t in TERMS if t in terms),
        rows=(*fitted.rows, *rows),
        pair_range=(float(settings.first), float(settings.last)) if "pairs" in terms else None,
    )


def _solve(
    normal: NDArray[np.float64], right: NDArray[np.float64], square: float, ridge: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients and their covariance."""
    full = normal + np.diag(ridge)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(full), 1e-300))
    values, vectors = np.linalg.eigh(full * scale[:, None] * scale)
    # the second: a coefficient of 1 kcal/mol that changes forces by less than 1e-6 kcal/mol/Å
    if not values[0] > 1e-12 * values[-1] or np.diag(full).min() < 1e-12 * n:
        raise PriorFitError(
            "the frames do not determine the coefficients of dihedrals and pairs (singular normal matrix): "
            "raise ridge_pairs and ridge_dihedrals, or take first and last closer to the distances seen"
        )
    inverse = (vectors / values) @ vectors.T * scale[:, None] * scale
    c = inverse @ right
    residual = max(0.0, square - 2.0 * float(c @ right) + float(c @ normal @ c))
    return c, inverse * residual / max(1, n - len(c))


def _forces(priors: PriorSet, frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forces of fitted terms, ``(n, n_beads, 3)`` kcal/mol/Å, by the classes that models use."""
    if not priors.terms:
        return np.zeros_like(frames)
    import torch

    from cgal_plugin.priors.modules import PRIORS

    n, beads = frames.shape[:2]
    pos = torch.from_numpy(frames.reshape(-1, 3).copy()).requires_grad_(True)
    types = torch.from_numpy(np.tile(priors.topology.types, n))
    batch = torch.arange(n).repeat_interleave(beads)
    energy = torch.zeros(n, 1, dtype=torch.float64)
    with torch.enable_grad():
        for term in priors.terms:
            energy = PRIORS[term](**priors.arguments(term)).post_reduce(energy, types, pos, batch, None, None)
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
    return -gradient.numpy().reshape(frames.shape)
