"""Beads, bonds and bridges of chains of residues: the fields of a CG topology."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.residues import THREE_TO_ONE, standard_name

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

    from cgal_plugin.mapping.spec import MapSpec


#: elements of beads that are one atom in the built-in maps
_ELEMENTS = {"N": "N", "CA": "C", "CB": "C", "C": "C", "O": "O"}


def bead_values(values: Any, n_beads: int, name: str) -> NDArray[Any]:
    """Return one value per bead, ``(n_beads,)``: masses as float64, others as int64; read-only.

    Raises
    ------
    MappingError
        The shape differs; the message names the array.
    """
    array = np.array(values, dtype=np.float64 if name == "masses" else np.int64)
    if array.shape != (n_beads,):
        raise MappingError(f"{name} has shape {array.shape}; expected ({n_beads},), one value per bead")
    array.setflags(write=False)
    return array


def saved_values(data: Any, wanted: set[str]) -> dict[str, Any]:
    """Return the values of a saved topology by field.

    Raises
    ------
    MappingError
        Keys are missing or unknown; those that later releases added may be missing.
    """
    if not isinstance(data, dict) or set(data) | {"bridge_index", "embedding"} != wanted:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise MappingError(f"not a saved CG topology: expected keys {sorted(wanted)}, found {found}")
    tuples = ("bead_names", "residue_names", "type_names")
    return {k: tuple(v) if k in tuples else v for k, v in data.items()}


def check_unique(chains: NDArray[np.int64], residues: NDArray[np.int64], names: Sequence[str]) -> None:
    """Check that no residue has two beads of one name.

    Raises
    ------
    MappingError
        The message names bead and residue.
    """
    keys = Counter(zip(chains.tolist(), residues.tolist(), names, strict=True))
    duplicates = sorted({f"{name} of residue {r + 1}" for (_, r, name), n in keys.items() if n > 1})
    if duplicates:
        raise MappingError(f"duplicate beads: {', '.join(duplicates)}")


def one_letter_sequence(
    chains: NDArray[np.int64], residues: NDArray[np.int64], residue_names: Sequence[str]
) -> str:
    """Return one-letter codes, ``X`` for other residues, chains joined by ``:``."""
    found: dict[int, dict[int, str]] = {}
    for chain, residue, name in zip(chains.tolist(), residues.tolist(), residue_names, strict=True):
        found.setdefault(chain, {})[residue] = THREE_TO_ONE.get(name, "X")
    return ":".join("".join(letters.values()) for letters in found.values())


def bead_fields(
    chains: Sequence[Sequence[str]], bridges: Sequence[tuple[int, int]], spec: MapSpec
) -> dict[str, Any]:
    """Return the fields of the :class:`~cgal_plugin.mapping.CGTopology` of some chains.

    Parameters
    ----------
    chains
        Residue names of each chain.
    bridges
        Pairs of residue indices, counted over all chains.
    spec
        Beads of the residues.

    Raises
    ------
    MappingError
        The map has no beads for a residue.
    """
    names: list[str] = []
    residue_names: list[str] = []
    residue_index: list[int] = []
    chain_index: list[int] = []
    masses: list[float] = []
    bonds: list[tuple[int, int]] = []
    ends: list[int] = []
    r = 0
    for c, residues in enumerate(chains):
        previous = None
        for residue in residues:
            key = spec.key_of(residue)
            index = {}
            for bead in spec.beads_of(residue):
                index[bead.name] = len(names)
                names.append(bead.name)
                residue_names.append(key)
                residue_index.append(r)
                chain_index.append(c)
                masses.append(bead.mass)
            bonds += [(index[a], index[b]) for a, b in spec.bonds_of(residue)]
            first, last = spec.ends_of(residue)
            if previous is not None:
                bonds.append((previous, index[first]))
            previous = index[last]
            ends.append(index[spec.bridge_bead(residue)] if standard_name(residue) == "CYS" else -1)
            r += 1
    type_names = tuple(spec.type_name(n, res) for n, res in zip(names, residue_names, strict=True))
    # neighbours may be bridged; the chain already bonds their CA beads
    bonded = {(min(pair), max(pair)) for pair in bonds}
    ends_of = [(min(ends[i], ends[j]), max(ends[i], ends[j])) for i, j in bridges]
    return {
        "bead_names": tuple(names),
        "residue_names": tuple(residue_names),
        "residue_index": np.array(residue_index),
        "chain_index": np.array(chain_index),
        "types": np.array(spec.embedding.numbers(type_names)),
        "type_names": type_names,
        "masses": np.array(masses),
        "bond_index": np.array(bonds, dtype=np.int64).reshape(-1, 2),
        "mapping": spec.name,
        "mapping_hash": spec.hash,
        "bridge_index": np.array([p for p in ends_of if p not in bonded], dtype=np.int64).reshape(-1, 2),
        "embedding": spec.embedding.name,
    }


def mdtraj_topology(
    bead_names: Sequence[str],
    residue_names: Sequence[str],
    places: Sequence[tuple[int, int]],
    bonds: Sequence[Sequence[int]],
) -> mdtraj.Topology:
    """Return an :class:`mdtraj.Topology` of beads, one atom each.

    Parameters
    ----------
    bead_names, residue_names
        One per bead.
    places
        Chain and residue index of each bead.
    bonds
        Pairs of beads.
    """
    import mdtraj

    top = mdtraj.Topology()
    chains: dict[int, Any] = {}
    residues: dict[tuple[int, int], Any] = {}
    atoms = []
    for bead, residue, (c, r) in zip(bead_names, residue_names, places, strict=True):
        if c not in chains:
            chains[c] = top.add_chain()
        if (c, r) not in residues:
            residues[c, r] = top.add_residue(residue, chains[c], resSeq=r + 1)
        element = _ELEMENTS.get(bead)
        kind = mdtraj.element.virtual if element is None else mdtraj.element.get_by_symbol(element)
        atoms.append(top.add_atom(bead, kind, residues[c, r]))
    for i, j in bonds:
        top.add_bond(atoms[i], atoms[j])
    return top
