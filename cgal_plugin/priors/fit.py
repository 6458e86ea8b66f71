"""Fit priors to CG frames, for each term and each tuple of bead types.

Bonds, angles and dihedrals: maximum likelihood (:mod:`.estimate`). A tuple with too few samples uses the
wildcard of its kind of beads, which pools all such terms; the table records this.

Repulsion: one σ such that a pair at the contact distance, by default the first percentile of all pair
distances, has the energy ``contact_kT`` (1 kT). A pair of types with a shorter contact distance gets a
smaller σ. No pair of types gets a larger σ: two types may be far apart in all frames only because sampling
was short, and the prior must not keep them apart.

Method ``force_matching``: bonds, angles and repulsion as above; angle series, dihedrals and pairs are fitted
to the remaining forces (:mod:`.force_matching`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError, PriorFitError
from cgal_plugin.priors import estimate as est
from cgal_plugin.priors.fit_input import (
    add_bridges,
    check_method,
    check_terms,
    complete_settings,
    usable_frames,
)
from cgal_plugin.priors.nonbonded import molecule_pairs
from cgal_plugin.priors.prior_set import DEFAULT_TERMS, FORCE_TERMS, TERMS, PriorSet
from cgal_plugin.priors.samples import Member, MoleculeFrames, TermValues, group_members, kinds_of
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tables import canonical
from cgal_plugin.priors.wells import check_well, same_well
from cgal_plugin.units import kT

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.mapping.topology import CGTopology

_DISTANCES = ("bonds", "bridges")


def fit_priors(
    topology: CGTopology,
    frames: ArrayLike,
    temperature: float,
    *,
    terms: Sequence[str] = DEFAULT_TERMS,
    method: str = "likelihood",
    forces: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    unit: str = "angstrom",
    settings: FitSettings | None = None,
    **options: Any,
) -> PriorSet:
    """Fit prior terms to CG frames at one temperature.

    Frames that are no structures (a bond of impossible length, an extreme force) are left out; see
    :func:`~cgal_plugin.priors.outliers.reject_outliers`. ``PriorSet.rejected`` has their numbers.

    Parameters
    ----------
    topology
        Beads, types, and bonded terms.
    frames
        ``(n, n_beads, 3)`` in ``unit``, or an ``mdtraj.Trajectory``. Frames must be in time order,
        because their correlation is estimated from it; concatenate several trajectories.
    temperature
        Temperature of the frames, K.
    terms
        Any of ``"bonds"``, ``"bridges"``, ``"angles"``, ``"dihedrals"``, ``"repulsion"``; with force matching
        also ``"angle_series"`` and ``"pairs"``. Bridges are added to bonds if the molecule has disulfide
        bridges.
    method
        ``"likelihood"``, or ``"force_matching"``: angle series, dihedrals and pairs together by least
        squares on the forces minus those of the other terms.
    forces
        For force matching: ``(n, n_beads, 3)`` kcal/mol/Å.
    weights
        For force matching: ``(n,)``, weight of the forces of each frame, such as their inverse variance
        (:func:`cgal_plugin.data.error_weights.frame_weights`). Fits to distributions do not use weights.
        Default: 1.
    unit
        Length unit of ``frames``.
    settings, **options
        :class:`FitSettings`, or its fields as keyword arguments. The default of ``exclude_bonds`` is 2 if
        angles or pairs are among the terms, else 1; with the dihedrals of the 5bead map it is 4. With pairs,
        the repulsion is by default a hard core: ``power`` 12 and ``contact_percentile`` 0.1.

    Warns
    -----
    CGALWarning
        Frames were left out.

    Raises
    ------
    PriorFitError
        Frames are too few for a wildcard, not finite, in another unit, or have another number of beads; more
        than a tenth of them are left out. Force matching:
        forces are missing, of another shape or not finite, a weight is not positive, there are fewer than
        200 frames, or the frames do not determine the coefficients.
    ConfigError
        A term or a setting is not valid.
    """
    terms = add_bridges([topology], terms)
    check_method(topology, terms, method)
    settings = complete_settings(topology, terms, settings, options)
    check_terms(topology, terms, settings.exclude_bonds)
    molecule, rejected = usable_frames(topology, frames, forces, weights, method, unit)
    return fit_molecules([molecule], topology, temperature, terms, method, settings, rejected)


def fit_molecules(
    molecules: Sequence[MoleculeFrames],
    topology: CGTopology | None,
    temperature: float,
    terms: Sequence[str],
    method: str,
    settings: FitSettings,
    rejected: Sequence[dict[str, Any]],
) -> PriorSet:
    """Fit checked frames of molecules; ``topology`` None: priors for any molecule, see :mod:`.shared`."""
    if temperature is None or not np.isfinite(temperature) or temperature <= 0:
        raise ConfigError(f"temperature of the frames is {temperature} K; a positive number is needed")
    beta = 1.0 / kT(temperature)
    matched = FORCE_TERMS if method == "force_matching" else ()
    rows: list[dict[str, Any]] = []
    histograms: list[dict[str, Any]] = []
    for term in TERMS:
        if term not in terms or term in matched:
            continue
        if term == "repulsion":
            rows += _fit_repulsion(molecules, beta, settings)
            continue
        new_rows, new_histograms = _fit_bonded(term, molecules, beta, settings)
        rows += new_rows
        histograms += new_histograms
    fitted = PriorSet(
        topology=topology,
        temperature=float(temperature),
        terms=tuple(t for t in TERMS if t in terms and t not in matched),
        angle_form=settings.angle_form,
        power=settings.power,
        exclude_bonds=settings.exclude_bonds,
        rows=tuple(rows),
        histograms=tuple(histograms),
        n_frames=sum(len(m.positions) for m in molecules),
        rejected=tuple(rejected),
    )
    if not matched:
        return fitted
    from cgal_plugin.priors.force_matching import match_forces  # imports TorchMD-Net

    return match_forces(fitted, molecules, terms, settings)


def _fit_bonded(
    term: str, molecules: Sequence[MoleculeFrames], beta: float, settings: FitSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    topologies = [m.topology for m in molecules]
    index = [
        {
            "bonds": t.bond_index,
            "bridges": t.bridge_index,
            "angles": t.angle_index,
            "dihedrals": t.dihedral_index,
        }[term]
        for t in topologies
    ]
    x = TermValues(molecules, index, term, settings.angle_form)
    independent = [
        [est.effective_samples(_linear(term, column)) for column in own.T] for own in x.of_molecule
    ]
    kinds = kinds_of(topologies)
    wild = group_members(index, kinds)
    exact = group_members(index, [t.type_names for t in topologies]) if settings.per_type else {}
    rows, histograms = [], []
    stiff = [[spec.stiff for _, spec in t.named_dihedrals] if term == "dihedrals" else [] for t in topologies]
    wells: dict[tuple[str, ...], list[Member]] = {}
    for types, members in [*wild.items(), *exact.items()]:
        is_wild = any("*" in t for t in types)
        turns = [stiff[m][i] for m, i in members] if any(stiff) else []
        if turns and min(turns) == 1:
            wells[types] = same_well(x, members)
            if is_wild:
                members = wells[types]
            else:
                check_well(topologies, x, members, wells[types])
        n = sum(len(molecules[m].positions) for m, _ in members)
        n_effective = float(np.sum([independent[m][i] for m, i in members]))
        facts = {"term": term, "types": list(types), "n": n, "n_effective": round(n_effective, 1)}
        needed = settings.min_effective_wildcard if is_wild else settings.min_effective
        enough = n >= settings.min_count and n_effective >= needed
        if not enough and is_wild:
            raise PriorFitError(
                f"{term} {'-'.join(types)}: {n} samples, {n_effective:.0f} of them independent; needed are "
                f"{settings.min_count} and {needed:.0f}. Give more frames, or remove the term "
                "(or set lower min_count and min_effective_wildcard in fit_priors)"
            )
        if not enough:
            m, i = members[0]
            fallback = canonical([kinds[m][b] for b in index[m][i]])
            if fallback in wells:
                check_well(topologies, x, members, wells[fallback])
            rows.append({**facts, "parameters": None, "fallback": list(fallback)})
            continue
        samples = x.pooled(members)
        # a wildcard of a stiff dihedral before proline and others has the multiplicity of the others
        turns = [stiff[m][i] for m, i in members] if any(stiff) else []
        fit = _estimate(term, samples, beta, settings, min(turns, default=0))
        rows.append(_row(facts, fit, samples, n_effective))
        histograms.append(_histogram(term, types, samples, fit))
    return rows, histograms


def _linear(term: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a series for the autocorrelation: dihedrals relative to their mean, without the jump at ±π."""
    if term != "dihedrals":
        return x
    about_mean: NDArray[np.float64] = np.angle(np.exp(1j * x) * np.exp(-1j * np.angle(np.exp(1j * x).sum())))
    return about_mean


def _estimate(
    term: str, x: NDArray[np.float64], beta: float, settings: FitSettings, stiff: int = 0
) -> est.Estimate:
    if term in _DISTANCES:
        return est.fit_harmonic(x, beta, np.square, (0.0, np.inf), settings.bond_k)
    if term == "dihedrals" and stiff:
        fit = est.fit_cosines(x, beta, stiff, settings.stiff_dihedral_k, 0.0, narrow=True)
        return est.with_multiplicities(fit, max(stiff, settings.n_dihedral))
    if term == "dihedrals":
        return est.fit_cosines(x, beta, settings.n_dihedral, settings.dihedral_k, settings.uniform_fraction)
    if settings.angle_form == "theta":
        return est.fit_harmonic(x, beta, np.sin, (0.0, np.pi), settings.angle_k)
    return est.fit_harmonic(x, beta, np.ones_like, (-1.0, 1.0), settings.angle_k)


def _row(
    facts: dict[str, Any], fit: est.Estimate, samples: NDArray[np.float64], n_effective: float
) -> dict[str, Any]:
    parameters, error = dict(fit.parameters), dict(fit.error)
    if facts["term"] in _DISTANCES:
        parameters, error = ({"k": d["k"], "r0": d["x0"]} for d in (parameters, error))
    if not np.isfinite(np.concatenate([np.atleast_1d(v) for v in parameters.values()])).all():
        raise PriorFitError(f"{facts['term']} {'-'.join(facts['types'])}: the fit gave {parameters}")
    root = np.sqrt(n_effective)
    return {
        **facts,
        "parameters": parameters,
        "standard_error": {name: (np.asarray(value) / root).tolist() for name, value in error.items()},
        "ks": round(est.kolmogorov_smirnov(samples, fit), 4),
        "overlap": round(est.overlap(samples, fit), 4),
        "at_bound": fit.bounded,
        "fallback": None,
    }


def _histogram(
    term: str, types: Sequence[str], samples: NDArray[np.float64], fit: est.Estimate
) -> dict[str, Any]:
    counts, edges = est.histogram(samples)
    wide = 0.15 * (edges[-1] - edges[0])
    x = np.linspace(max(edges[0] - wide, fit.grid[0]), min(edges[-1] + wide, fit.grid[-1]), 121)
    model = np.interp(x, fit.grid, fit.density)
    return {
        "term": term,
        "types": list(types),
        "range": [float(edges[0]), float(edges[-1])],
        "counts": counts.tolist(),
        "model_range": [float(x[0]), float(x[-1])],
        "model": [float(f"{v:.4g}") for v in model],
    }


def _fit_repulsion(
    molecules: Sequence[MoleculeFrames], beta: float, settings: FitSettings
) -> list[dict[str, Any]]:
    topologies = [m.topology for m in molecules]
    pairs = [
        molecule_pairs(t.n_beads, t.bond_index, settings.exclude_bonds, t.bridge_index).T for t in topologies
    ]
    r = TermValues(molecules, pairs, "bonds")
    kinds = kinds_of(topologies)
    epsilon = 1.0
    factor = (settings.contact_kT / (beta * epsilon)) ** (1.0 / settings.power)

    def row(types: tuple[str, ...], distances: NDArray[np.float64], contact: float) -> dict[str, Any]:
        sigma = float(np.clip(contact * factor, *settings.sigma))
        return {
            "term": "repulsion",
            "types": list(types),
            "n": len(distances),
            "parameters": {"epsilon": epsilon, "sigma": sigma},
            "contact": float(contact),
            "closest": float(distances.min()),
            "at_bound": sigma in settings.sigma,
            "fallback": None,
        }

    rows, limit = [], {}
    for types, members in group_members(pairs, kinds).items():
        distances = r.pooled(members)
        if len(distances) < settings.min_count:
            raise PriorFitError(
                f"repulsion {'-'.join(types)}: {len(distances)} distances; {settings.min_count} are needed: "
                "give more frames"
            )
        limit[types] = float(np.percentile(distances, settings.contact_percentile))
        rows.append(row(types, distances, limit[types]))
    exact = group_members(pairs, [t.type_names for t in topologies]) if settings.per_type else {}
    for types, members in exact.items():
        m, i = members[0]
        wild = canonical([kinds[m][b] for b in pairs[m][i]])
        distances = r.pooled(members)
        contact = float(np.percentile(distances, settings.contact_percentile))
        if len(distances) >= settings.min_count and contact < limit[wild]:
            rows.append(row(types, distances, contact))
        else:
            facts = {"term": "repulsion", "types": list(types), "n": len(distances), "parameters": None}
            rows.append({**facts, "contact": contact, "fallback": list(wild)})
    return rows
