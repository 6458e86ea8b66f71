"""Force matching of dihedrals and pairs: least squares on the forces that the other terms leave.

Both energies are linear in their coefficients (the cosine series as a cos mφ + b sin mφ), and so are the
forces: multiscale coarse-graining, Noid, Chu, Ayton, Krishna, Izvekov, Voth, Das, Andersen, J. Chem. Phys.
128, 244114 (2008). Bonds, angles and repulsion are stiff and known well from distributions; they stay as
they were fitted. A ridge keeps coefficients that few frames speak of near zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import PriorFitError
from cgal_plugin.priors.nonbonded import molecule_pairs, spacing
from cgal_plugin.priors.prior_set import FORCE_TERMS, TERMS, PriorSet
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tables import bead_kinds, group_terms

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.mapping.topology import CGTopology

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
    blocks = _blocks(fitted.topology, terms, settings)
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


@dataclass(frozen=True, eq=False)
class _Block:
    """The terms of one row of the table; ``index`` ``(n_terms, width)`` are their beads."""

    types: tuple[str, ...]
    index: NDArray[np.int64]
    n_parameters: int
    ridge: float

    def _facts(self, term: str, n: int) -> dict[str, Any]:
        return {"term": term, "types": list(self.types), "n": n * len(self.index)}

    def _coefficients(
        self, term: str, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int
    ) -> dict[str, Any]:
        return {
            **self._facts(term, n),
            "parameters": {"c": c.tolist()},
            "standard_error": {"c": np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()},
            "at_bound": False,
            "fallback": None,
        }

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(n_parameters, n, n_beads, 3)`` 1/Å: forces for a coefficient of one."""
        raise NotImplementedError

    def row(self, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> dict[str, Any]:
        """Row of the table from coefficients and their covariance."""
        raise NotImplementedError


class _DihedralBlock(_Block):
    """Coefficients a₁, b₁, a₂, b₂ ... of f (aₘ cos mφ + bₘ sin mφ); f fades as in the energy."""

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        import torch

        from cgal_plugin.priors.bonded import dihedral_angle

        n, terms = len(frames), len(self.index)
        # beads of their own for each dihedral, so that one backward pass has the gradient of every one
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

    def row(self, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> dict[str, Any]:
        """See the base class."""
        a, b = c[0::2], c[1::2]
        k, phase = np.hypot(a, b), np.arctan2(b, a)
        errors = []
        for m, angle in enumerate(phase):
            own = covariance[2 * m : 2 * m + 2, 2 * m : 2 * m + 2]
            u = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            errors.append(np.sqrt(np.maximum(np.diag(u @ own @ u.T), 0.0)))
        along, across = np.array(errors).T
        # of a phase at most π
        turn = np.minimum(np.pi, across / np.maximum(k, 1e-300))
        return {
            **self._facts("dihedrals", n),
            "parameters": {"k": k.tolist(), "phase": phase.tolist()},
            "standard_error": {"k": along.tolist(), "phase": turn.tolist()},
            "at_bound": False,
            "fallback": None,
        }


class _AngleBlock(_Block):
    """Coefficients of cos mθ."""

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

    def row(self, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> dict[str, Any]:
        """See the base class."""
        return self._coefficients("angle_series", c, covariance, n)


@dataclass(frozen=True, eq=False)
class _PairBlock(_Block):
    """Coefficients of the centres."""

    first: float
    width: float

    def forces(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """See the base class."""
        n, n_beads = frames.shape[:2]
        i, j = self.index.T
        d = frames[:, j] - frames[:, i]
        r = np.sqrt(np.maximum((d * d).sum(-1), 1e-12))
        t = (r - self.first)[..., None] / self.width - np.arange(self.n_parameters)
        # −dE/dr along d: on bead j, and the opposite on bead i
        push = t * np.exp(-0.5 * t * t) / self.width / r[..., None]
        ends = np.zeros((n_beads, len(i)))
        ends[j, np.arange(len(i))] = 1.0
        ends[i, np.arange(len(i))] = -1.0
        along = (push[..., None] * d[:, :, None]).reshape(n, len(i), -1)
        force = (ends @ along).reshape(n, n_beads, self.n_parameters, 3)
        return np.ascontiguousarray(force.transpose(2, 0, 1, 3))

    def row(self, c: NDArray[np.float64], covariance: NDArray[np.float64], n: int) -> dict[str, Any]:
        """See the base class."""
        return self._coefficients("pairs", c, covariance, n)


def _blocks(topology: CGTopology, terms: Sequence[str], settings: FitSettings) -> list[_Block]:
    wild, exact = bead_kinds(topology), topology.type_names
    found: list[_Block] = []
    for term in FORCE_TERMS:
        if term not in terms:
            continue
        names = exact if settings.per_type else wild
        if term == "dihedrals":
            index, size = topology.dihedral_index, 2 * settings.n_dihedral
            for types, members in group_terms(index, names).items():
                found.append(_DihedralBlock(types, index[members], size, settings.ridge_dihedrals))
            continue
        if term == "angle_series":
            index, size = topology.angle_index, settings.n_angle
            for types, members in group_terms(index, names).items():
                found.append(_AngleBlock(types, index[members], size, settings.ridge_angles))
            continue
        index = molecule_pairs(topology.n_beads, topology.bond_index, settings.exclude_bonds).T
        width = spacing(settings.first, settings.last, settings.n_pairs)
        names = exact if settings.pairs_per_type else ["*"] * topology.n_beads
        for types, members in group_terms(index, names).items():
            found.append(
                _PairBlock(
                    types,
                    index[members],
                    settings.n_pairs,
                    settings.ridge_pairs,
                    float(settings.first),
                    width,
                )
            )
    return found
