"""Energies of mlcg's priors from their formulas, to check that prior tables of this package give the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.priors import PriorSet

#: largest accepted difference of energies, relative to the largest energy
_TOLERANCE = 1e-9


def part_energies(
    part: Mapping[str, Any], types: NDArray[np.int64], frames: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the energy of a prior, ``(n_frames,)`` kcal/mol.

    Parameters
    ----------
    part
        Prior with ``index``, as in :class:`~cgal_plugin.models.mlcg_files.MlcgFile`.
    types
        ``(n_beads,)`` ids of the file's embedding.
    frames
        ``(n_frames, n_beads, 3)`` Å.

    Raises
    ------
    ConfigError
        The prior has no parameters for a term of the molecule.
    """
    index = part["index"]
    rows = np.arange(index.shape[1]) if part["types"] is None else _rows(part, types[index])
    x = frames[:, index]
    if part["kind"] == "fourier":
        m = np.arange(1, part["k1s"].shape[1] + 1)
        angle = _dihedral(x)[..., None] * m
        series = part["k1s"][rows] * np.sin(angle) + part["k2s"][rows] * np.cos(angle)
        energy = series.sum(-1) + part["v_0"][rows]
    elif part["kind"] == "repulsion":
        energy = (part["sigma"][rows] / np.linalg.norm(x[:, 1] - x[:, 0], axis=-1)) ** 6
    else:
        value = _cosine(x) if part["kind"].endswith("_cos") else np.linalg.norm(x[:, 1] - x[:, 0], axis=-1)
        constant = part["v_0"][rows] if "v_0" in part else 0.0
        if part["kind"] == "polynomial_cos":
            powers = value[..., None] ** np.arange(1, part["ks"].shape[1] + 1)
            energy = (part["ks"][rows] * powers).sum(-1) + constant
        else:
            energy = part["k"][rows] * (value - part["x_0"][rows]) ** 2 + constant
    total: NDArray[np.float64] = energy.sum(axis=1)
    return total


def _rows(part: Mapping[str, Any], types: NDArray[np.int64]) -> NDArray[np.int64]:
    known = {tuple(row): n for n, row in enumerate(part["types"].tolist())}
    wanted = [tuple(column) for column in types.T.tolist()]
    missing = [t for t in wanted if t not in known]
    if missing:
        raise ConfigError(f"a prior of {part['term']} has no parameters for bead types {missing[0]}")
    return np.array([known[t] for t in wanted], dtype=np.int64)


def _cosine(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]
    cosine: NDArray[np.float64] = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return cosine


def _dihedral(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1], x[:, 3] - x[:, 2]
    n1, n2 = np.cross(a, b), np.cross(b, c)
    y = np.linalg.norm(b, axis=-1) * (a * n2).sum(-1)
    angle: NDArray[np.float64] = np.arctan2(y, (n1 * n2).sum(-1))
    return angle


def check_priors(
    priors: PriorSet,
    parts: Mapping[str, Mapping[str, Any]],
    topology: CGTopology,
    positions: NDArray[np.float64],
    name: str,
    file_types: NDArray[np.int64],
) -> float:
    """Return the energy (kcal/mol) by which the priors of a file exceed ``priors``: a constant.

    Compared on the structures ``positions`` ``(n, n_beads, 3)`` Å and on distorted copies, term by term, so
    that pairs, angles or dihedrals that one side lacks are found. ``file_types`` are the numbers of the bead
    types in the file, ``(n_beads,)``.

    Raises
    ------
    ConfigError
        The difference is not constant.
    """
    import torch

    from cgal_plugin.priors.modules import PRIORS

    rng = np.random.default_rng(3)
    frames = np.concatenate([positions, *(positions + rng.normal(0.0, 0.2, positions.shape) for _ in "12")])
    types = torch.from_numpy(np.tile(topology.types, len(frames)))
    batch = torch.arange(len(frames)).repeat_interleave(topology.n_beads)
    offset = 0.0
    for term in sorted({*priors.terms, *(part["term"] for part in parts.values())}):
        theirs = [
            part_energies(p, file_types, frames)
            for p in parts.values()
            if p["term"] == term or (p["kind"] == "polynomial_cos" and term == "angle_series")
        ]
        ours = np.zeros(len(frames))
        if term in priors.terms:
            prior = PRIORS[term](**priors.arguments(term))
            zero = torch.zeros(len(frames), 1, dtype=torch.float64)
            pos = torch.from_numpy(frames.reshape(-1, 3))
            with torch.no_grad():
                ours = prior.post_reduce(zero, types, pos, batch).numpy()[:, 0]
        gap = np.sum(theirs, axis=0) - ours
        scale = max(float(np.abs(ours).max()), float(np.abs(gap).max()), 1e-3)
        if np.ptp(gap) > _TOLERANCE * scale:
            raise ConfigError(
                f"{name}: its {term} cannot be represented by a table of bead types for {topology!r}: "
                f"energies differ by up to {np.ptp(gap):.1e} kcal/mol; the neighbour lists of the file have "
                "other pairs, angles or dihedrals, or parameters that depend on the place in the chain"
            )
        offset += float(gap[0])
    return offset
