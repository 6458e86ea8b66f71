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
from cgal_plugin.priors.linear import LinearTerm, build_terms
from cgal_plugin.priors.normal import NormalProblem
from cgal_plugin.priors.pooling import Key, PooledRows
from cgal_plugin.priors.prior_set import FORCE_TERMS, TERMS, PriorSet
from cgal_plugin.priors.samples import MoleculeFrames, kinds_of
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tension import shared_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray


def match_forces(
    fitted: PriorSet, molecules: Sequence[MoleculeFrames], terms: Sequence[str], settings: FitSettings
) -> PriorSet:
    """Add angle series, dihedrals and pairs, fitted together to the forces minus those of ``fitted``.

    Parameters
    ----------
    fitted
        The other terms; of one molecule, or for any molecule.
    molecules
        Frames with forces, float64. A frame of weight 3 counts as three frames.
    terms
        All terms of the result, those of ``fitted`` included.
    settings
        Settings of the fit.

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
    shared = fitted.topology is None
    topologies = [m.topology for m in molecules]
    kinds = kinds_of(topologies)
    linear = [
        build_terms(t, terms, settings, k if shared else None) for t, k in zip(topologies, kinds, strict=True)
    ]
    rows: dict[Key, LinearTerm] = {}
    counts: dict[Key, int] = {}
    for molecule, own in zip(molecules, linear, strict=True):
        for term in own:
            key = term.term, term.types
            rows.setdefault(key, term)
            counts[key] = counts.get(key, 0) + len(molecule.positions) * len(term.index)
    if shared:
        rows = {key: rows[key] for key in sorted(rows, key=lambda k: (FORCE_TERMS.index(k[0]), k[1]))}
    sizes = [t.n_parameters for t in rows.values()]
    size = sum(sizes)
    columns = dict(zip(rows, np.split(np.arange(size), np.cumsum(sizes)[:-1]), strict=True))
    # a small molecule may have none of the terms
    problems = [NormalProblem(fitted, m, own) for m, own in zip(molecules, linear, strict=True) if own]
    at_once = shared_frames(sum(p.products for p in problems) if np.isfinite(settings.ridge_tension) else 0.0)
    normal, right, square, freedom = np.zeros((size, size)), np.zeros(size), 0.0, 0.0
    for problem in problems:
        at = np.concatenate([columns[t.term, t.types] for t in problem.terms])
        problem.accumulate(settings.ridge_tension, at_once)
        normal[np.ix_(at, at)] += problem.normal
        right[at] += problem.right
        square += problem.square
        freedom += problem.freedom
    n = sum(p.n_components for p in problems)
    penalty = np.diag(np.concatenate([np.full(t.n_parameters, t.ridge) for t in rows.values()])) * n
    pooled: list[tuple[PooledRows, NDArray[np.int64]]] = []
    if shared:
        kind_of = {
            name: kind
            for t, wild in zip(topologies, kinds, strict=True)
            for name, kind in zip(t.type_names, wild, strict=True)
        }
        components = {
            key: sum(p.n_components for p in problems if key in {(t.term, t.types) for t in p.terms})
            for key in rows
        }
        for name in dict.fromkeys(name for name, _ in rows):
            keys = [key for key in rows if key[0] == name]
            block = PooledRows([rows[k] for k in keys], kind_of, [components[k] for k in keys])
            at = np.concatenate([columns[key] for key in keys])
            penalty[np.ix_(at, at)] = block.penalty()
            pooled.append((block, at))
    c, covariance = _solve(normal, right, square, penalty, n, freedom)
    made = [rows[key].row(c[own], covariance[np.ix_(own, own)], counts[key]) for key, own in columns.items()]
    made += [row for block, at in pooled for row in block.unseen(c[at])]
    return replace(
        fitted,
        terms=tuple(t for t in TERMS if t in terms),
        rows=(*fitted.rows, *made),
        pair_range=(float(settings.first), float(settings.last)) if "pairs" in terms else None,
    )


def _solve(
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
    square: float,
    penalty: NDArray[np.float64],
    n: int,
    freedom: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients and their covariance; ``freedom`` is that of the tensions."""
    full = normal + penalty
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
