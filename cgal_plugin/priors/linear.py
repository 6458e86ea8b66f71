"""Terms whose energy is linear in its coefficients: angle series, dihedral series, pairs.

Energies and forces per unit of each coefficient, for force matching and for the refinement of populations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cgal_plugin.errors import PriorFitError
from cgal_plugin.priors.nonbonded import molecule_pairs, spacing
from cgal_plugin.priors.prior_set import FORCE_TERMS, PriorSet
from cgal_plugin.priors.samples import kinds_of
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tables import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology


@dataclass(frozen=True, eq=False)
class LinearTerm:
    """The energy of one row of the table; ``index`` ``(n_terms, width)`` lists the beads of its terms."""

    term: ClassVar[str]

    types: tuple[str, ...]
    index: NDArray[np.int64]
    n_parameters: int
    ridge: float

    def energies(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``(n, n_parameters)``: energy per unit of each coefficient."""
        raise NotImplementedError

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``(n_parameters, n, n_beads, 3)`` 1/Å: forces per unit of each coefficient."""
        raise NotImplementedError

    def parameters(self, c: NDArray[np.float64]) -> dict[str, Any]:
        """Return the parameters of the table row that has these coefficients."""
        return {"c": c.tolist()}

    def coefficients(self, parameters: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the coefficients of a row's parameters."""
        return np.asarray(parameters["c"], dtype=np.float64)

    def errors(self, c: NDArray[np.float64], covariance: NDArray[np.float64]) -> dict[str, Any]:
        """Return the standard errors of :meth:`parameters`."""
        return {"c": np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()}

    def row(self, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> dict[str, Any]:
        """Return the table row for coefficients that were fitted to ``n`` samples with this covariance."""
        return {
            "term": self.term,
            "types": list(self.types),
            "n": n,
            "parameters": self.parameters(c),
            "standard_error": self.errors(c, covariance),
            "at_bound": False,
            "fallback": None,
        }


class DihedralSeries(LinearTerm):
    """Coefficients a₁, b₁, a₂, b₂ ... of f (aₘ cos mφ + bₘ sin mφ), with the fade factor f of the energy."""

    term = "dihedrals"

    def energies(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        import torch

        from cgal_plugin.priors.bonded import dihedral_angle

        own = torch.from_numpy(frames[:, self.index].reshape(-1, 3))
        with torch.no_grad():
            both = dihedral_angle(own, torch.arange(len(own)).view(-1, 4).T)
        phi, f = (x.numpy().reshape(len(frames), -1) for x in both)
        waves = [(np.sin if k % 2 else np.cos)((k // 2 + 1) * phi) for k in range(self.n_parameters)]
        return np.stack([(f * wave).sum(axis=1) for wave in waves], axis=1)

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        import torch

        from cgal_plugin.priors.bonded import dihedral_angle

        n, terms = len(frames), len(self.index)
        # each dihedral gets copies of its beads, so that one backward pass gives all gradients
        own = torch.from_numpy(frames[:, self.index].reshape(-1, 3)).requires_grad_(True)
        with torch.enable_grad():
            angle, fade = dihedral_angle(own, torch.arange(len(own)).view(-1, 4).T)
            gradients = [
                torch.autograd.grad(x.sum(), own, retain_graph=True)[0].numpy().reshape(n, terms, 4, 3)
                for x in (angle, fade)
            ]
        phi, f = (x.detach().numpy().reshape(n, terms) for x in (angle, fade))
        out = np.zeros((self.n_parameters, *frames.shape))
        for k in range(self.n_parameters):
            m = k // 2 + 1
            value, slope = (np.sin(m * phi), m * np.cos(m * phi))
            if k % 2 == 0:
                value, slope = np.cos(m * phi), -m * np.sin(m * phi)
            force = -((f * slope)[..., None, None] * gradients[0] + value[..., None, None] * gradients[1])
            for t, beads in enumerate(self.index):
                out[k][:, beads] += force[:, t]
        return out

    def parameters(self, c: NDArray[np.float64]) -> dict[str, Any]:
        """See the base class."""
        a, b = c[0::2], c[1::2]
        return {"k": np.hypot(a, b).tolist(), "phase": np.arctan2(b, a).tolist()}

    def coefficients(self, parameters: Mapping[str, Any]) -> NDArray[np.float64]:
        """See the base class."""
        k, phase = (np.asarray(parameters[name], dtype=np.float64) for name in ("k", "phase"))
        return np.stack([k * np.cos(phase), k * np.sin(phase)], axis=1).reshape(-1)

    def errors(self, c: NDArray[np.float64], covariance: NDArray[np.float64]) -> dict[str, Any]:
        """See the base class."""
        k, phase = (np.array(x) for x in self.parameters(c).values())
        found = []
        for m, angle in enumerate(phase):
            own = covariance[2 * m : 2 * m + 2, 2 * m : 2 * m + 2]
            u = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            found.append(np.sqrt(np.maximum(np.diag(u @ own @ u.T), 0.0)))
        along, across = np.array(found).T
        # the error of a phase is at most π
        phase_error = np.minimum(np.pi, across / np.maximum(k, 1e-300))
        return {"k": along.tolist(), "phase": phase_error.tolist()}


class AngleSeries(LinearTerm):
    """Coefficients of cos mθ."""

    term = "angle_series"

    def energies(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        import torch

        from cgal_plugin.priors.bonded import bond_angle

        own = torch.from_numpy(frames[:, self.index].reshape(-1, 3))
        theta = bond_angle(own, torch.arange(len(own)).view(-1, 3).T).numpy().reshape(len(frames), -1)
        return np.stack([np.cos((k + 1) * theta).sum(axis=1) for k in range(self.n_parameters)], axis=1)

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        import torch

        from cgal_plugin.priors.bonded import bond_angle

        n, terms = len(frames), len(self.index)
        own = torch.from_numpy(frames[:, self.index].reshape(-1, 3)).requires_grad_(True)
        with torch.enable_grad():
            angle = bond_angle(own, torch.arange(len(own)).view(-1, 3).T)
            (gradient,) = torch.autograd.grad(angle.sum(), own)
        theta, by_bead = angle.detach().numpy().reshape(n, terms), gradient.numpy().reshape(n, terms, 3, 3)
        out = np.zeros((self.n_parameters, *frames.shape))
        for k in range(self.n_parameters):
            force = ((k + 1) * np.sin((k + 1) * theta))[..., None, None] * by_bead
            for t, beads in enumerate(self.index):
                out[k][:, beads] += force[:, t]
        return out


@dataclass(frozen=True, eq=False)
class PairSeries(LinearTerm):
    """Coefficients of Gaussians of the distance, one per centre."""

    term = "pairs"

    first: float
    width: float

    def _distances(self, frames: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return vectors, lengths, and (length − centre)/width for every centre."""
        i, j = self.index.T
        d = frames[:, j] - frames[:, i]
        r = np.sqrt(np.maximum((d * d).sum(-1), 1e-12))
        return d, r, (r - self.first)[..., None] / self.width - np.arange(self.n_parameters)

    def energies(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        t = self._distances(frames)[2]
        per_unit: NDArray[np.float64] = np.exp(-0.5 * t * t).sum(axis=1)
        return per_unit

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        n, n_beads = frames.shape[:2]
        i, j = self.index.T
        d, r, t = self._distances(frames)
        # −dE/dr along d acts on bead j, the opposite force on bead i
        push = t * np.exp(-0.5 * t * t) / self.width / r[..., None]
        ends = np.zeros((n_beads, len(i)))
        ends[j, np.arange(len(i))] = 1.0
        ends[i, np.arange(len(i))] = -1.0
        along = (push[..., None] * d[:, :, None]).reshape(n, len(i), -1)
        force = (ends @ along).reshape(n, n_beads, self.n_parameters, 3)
        return np.ascontiguousarray(force.transpose(2, 0, 1, 3))


def build_terms(
    topology: CGTopology, terms: Sequence[str], settings: FitSettings, kinds: Sequence[str] | None = None
) -> list[LinearTerm]:
    """Return the linear terms of a fit, one per row of its table.

    ``kinds``: the wildcard of each bead, for rows that many molecules share. Their angles and dihedrals have
    the types of the inner beads only.
    """
    wild, exact = kinds_of([topology])[0], topology.type_names
    found: list[LinearTerm] = []
    for term in FORCE_TERMS:
        if term not in terms:
            continue
        names = exact if settings.per_type else wild
        ends = names if kinds is None else kinds
        if term == "dihedrals":
            index, size = topology.dihedral_index, 2 * settings.n_dihedral
            for types, members in _groups(index, names, ends).items():
                found.append(DihedralSeries(types, index[members], size, settings.ridge_dihedrals))
            continue
        if term == "angle_series":
            index, size = topology.angle_index, settings.n_angle
            for types, members in _groups(index, names, ends).items():
                found.append(AngleSeries(types, index[members], size, settings.ridge_angles))
            continue
        excluded = topology.bond_index, settings.exclude_bonds, topology.bridge_index
        index = molecule_pairs(topology.n_beads, *excluded).T
        width = spacing(settings.first, settings.last, settings.n_pairs)
        names = exact if settings.pairs_per_type else ["*"] * topology.n_beads
        for types, members in _groups(index, names, names).items():
            found.append(
                PairSeries(
                    types,
                    index[members],
                    settings.n_pairs,
                    settings.ridge_pairs,
                    float(settings.first),
                    width,
                )
            )
    return found


def _groups(
    index: NDArray[np.int64], names: Sequence[str], ends: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    """Group terms by the ``names`` of their beads, of the first and last bead by ``ends``."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, (first, *inner, last) in enumerate(index.tolist()):
        groups.setdefault(canonical([ends[first], *(names[b] for b in inner), ends[last]]), []).append(i)
    return dict(sorted(groups.items()))


def linear_terms(priors: PriorSet) -> list[LinearTerm]:
    """Return the linear terms of priors that were fitted by force matching.

    Raises
    ------
    PriorFitError
        The priors were not fitted by force matching, or have no pairs.
    """
    rows = {
        (row["term"], tuple(row["types"])): row["parameters"]
        for row in priors.rows
        if row["term"] in FORCE_TERMS and row["parameters"] is not None
    }
    if priors.pair_range is not None:
        first, last = priors.pair_range
        lengths = {term: len(next(iter(p.values()))) for (term, _), p in rows.items()}
        for per_type, pairs_per_type in product((True, False), repeat=2):
            settings = FitSettings(
                exclude_bonds=priors.exclude_bonds,
                per_type=per_type,
                pairs_per_type=pairs_per_type,
                first=first,
                last=last,
                n_pairs=lengths["pairs"],
                n_angle=lengths.get("angle_series", 1),
                n_dihedral=lengths.get("dihedrals", 1),
            )
            found = build_terms(priors.molecule, priors.terms, settings)
            if {(t.term, t.types) for t in found} == set(rows):
                return found
    raise PriorFitError(
        f"{priors!r} has no pair energies fitted to forces; fit priors with pairs by force_matching, "
        "per type or for all types"
    )


def energies(terms: Sequence[LinearTerm], frames: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``(n, n_parameters)``: energies of frames ``(n, n_beads, 3)`` Å per unit of each coefficient."""
    x = np.asarray(frames, dtype=np.float64)
    return np.concatenate([t.energies(x) for t in terms], axis=1)


def shifted(priors: PriorSet, terms: Sequence[LinearTerm], change: NDArray[np.float64]) -> PriorSet:
    """Return the priors with ``change`` ``(n_parameters,)`` kcal/mol added to the coefficients of ``terms``.

    The standard errors remain those of the fit.
    """
    ends = np.cumsum([t.n_parameters for t in terms])[:-1]
    added = {(t.term, t.types): (t, c) for t, c in zip(terms, np.split(change, ends), strict=True)}
    rows = []
    for row in priors.rows:
        found = added.get((row["term"], tuple(row["types"])))
        if found is not None:
            term, c = found
            row = {**row, "parameters": term.parameters(term.coefficients(row["parameters"]) + c)}
        rows.append(row)
    return replace(priors, rows=tuple(rows))
