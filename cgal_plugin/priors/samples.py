"""Frames of one or more molecules for a prior fit, and the values of their bonded terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cgal_plugin.priors.tables import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

_DISTANCES = ("bonds", "bridges")
#: a term of one of the molecules: numbers of the molecule and of its term
Member: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class MoleculeFrames:
    """Frames of one molecule.

    Attributes
    ----------
    topology
        CG topology.
    positions
        ``(n, n_beads, 3)`` Å.
    forces
        ``(n, n_beads, 3)`` kcal/mol/Å; only force matching needs them.
    weights
        ``(n,)``, see :func:`~cgal_plugin.priors.fit_priors`. None: 1.
    """

    topology: CGTopology
    positions: NDArray[np.floating]
    forces: NDArray[np.floating] | None = None
    weights: NDArray[np.floating] | None = None


def kinds_of(topologies: Sequence[CGTopology]) -> list[list[str]]:
    """Return the wildcard of each bead of each molecule: ``*``, or for several kinds of beads ``CA_*``."""
    names = {name for topology in topologies for name in topology.bead_names}
    return [
        ["*"] * t.n_beads if len(names) == 1 else [f"{name}_*" for name in t.bead_names] for t in topologies
    ]


def group_members(
    indices: Sequence[NDArray[np.int64]], names: Sequence[Sequence[str]]
) -> dict[tuple[str, ...], list[Member]]:
    """Group the terms of the index tables ``(n, width)`` of molecules by the names of their beads."""
    groups: dict[tuple[str, ...], list[Member]] = {}
    for m, (index, own) in enumerate(zip(indices, names, strict=True)):
        for i, term in enumerate(index.tolist()):
            groups.setdefault(canonical([own[b] for b in term]), []).append((m, i))
    return dict(sorted(groups.items()))


class TermValues:
    """Bond lengths (Å), angles (rad, or cosines) or dihedrals (rad) of all frames of molecules.

    Parameters
    ----------
    molecules
        Frames.
    indices
        Of each molecule, the beads of its terms ``(n_terms, width)``.
    term, angle_form
        See :func:`internal_coordinate`.
    """

    def __init__(
        self,
        molecules: Sequence[MoleculeFrames],
        indices: Sequence[NDArray[np.int64]],
        term: str,
        angle_form: str = "theta",
    ) -> None:
        self.of_molecule = [
            internal_coordinate(term, m.positions, index, angle_form)
            for m, index in zip(molecules, indices, strict=True)
        ]

    def column(self, member: Member) -> NDArray[np.float64]:
        """Return the values of one term, in time order."""
        values: NDArray[np.float64] = self.of_molecule[member[0]][:, member[1]]
        return values

    def pooled(self, members: Sequence[Member]) -> NDArray[np.float64]:
        """Return all values of some terms, ``(n,)``."""
        own: dict[int, list[int]] = {}
        for m, i in members:
            own.setdefault(m, []).append(i)
        return np.concatenate([self.of_molecule[m][:, i].reshape(-1) for m, i in own.items()])


def internal_coordinate(
    term: str, frames: NDArray[np.floating], index: NDArray[np.int64], angle_form: str = "theta"
) -> NDArray[np.float64]:
    """Return bond lengths (Å), angles (rad, or cosines) or dihedrals (rad) of all frames.

    ``frames`` ``(n, n_beads, 3)`` Å, ``index`` ``(n_terms, width)``; returns ``(n, n_terms)``. Uses the
    functions of the prior energies.
    """
    import torch

    from cgal_plugin.priors import bonded

    n, beads = frames.shape[:2]
    if len(index) == 0:
        return np.empty((n, 0))
    pos = torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float64)).reshape(-1, 3)
    shift = torch.arange(n).view(1, n, 1) * beads
    table = torch.from_numpy(np.array(index.T)).unsqueeze(1) + shift
    flat = table.reshape(index.shape[1], -1)
    if term in _DISTANCES:
        x = bonded.bond_length(pos, flat)
    elif term == "angles":
        x = (bonded.bond_angle if angle_form == "theta" else bonded.bond_angle_cosine)(pos, flat)
    else:
        x = bonded.dihedral_angle(pos, flat)[0]
    values: NDArray[np.float64] = x.reshape(n, len(index)).numpy()
    return values
