"""Match the atoms of two topologies of one molecule by residue and atom name, never by index.

Programs order and name atoms differently: hydrogens at the end of a residue or behind their heavy atom, HB1
and HB2 or HB2 and HB3, CD or CD1 of isoleucine, one chain or none. Heavy atoms are matched by name. Hydrogens
are matched by name, or, if their names differ, by the heavy atom that they are bonded to: hydrogens of one
heavy atom have the same parameters in every force field that this package reads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.residues import IONS, WATER, same_cap, standard_name

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

#: names of other programs, by residue name or for all residues
_SAME_NAME = {
    "*": {
        **dict.fromkeys(("OT1", "OC1", "O1", "OXT1"), "O"),
        **dict.fromkeys(("OT2", "OC2", "O2", "OXT2"), "OXT"),
    },
    "ILE": {"CD": "CD1"},
}
#: Å; longest bond to a hydrogen
_H_BOND = 1.35
_LISTED = 5


def solute_residues(topology: mdtraj.Topology, ignore: Collection[str] = ()) -> list[Any]:
    """Return the residues that are neither water nor single ions nor named in ``ignore``."""
    found = []
    for residue in topology.residues:
        name = residue.name.strip().upper()
        if name in WATER or name in ignore or (name in IONS and residue.n_atoms == 1):
            continue
        found.append(residue)
    return found


def match_atoms(
    source: mdtraj.Topology,
    target: mdtraj.Topology,
    positions: NDArray[np.floating],
    *,
    what: str,
    ignore: Collection[str] = (),
) -> NDArray[np.int64]:
    """Return the atom of ``source`` for each atom of ``target``, ``(n_target,)`` int64.

    Parameters
    ----------
    source
        All-atom topology of a file; its water and ions are passed over.
    target
        Topology of the solute.
    positions
        ``(n_source, 3)`` Å: a frame of ``source``, which tells where hydrogens without bonds belong.
    what
        Name of the source, for messages.
    ignore
        Names of further residues of the source to pass over.

    Raises
    ------
    MappingError
        Residues differ, an atom is missing, or a heavy atom has another number of hydrogens (protonation).
        The message names residues and atoms.
    """
    own, wanted = solute_residues(source, ignore), solute_residues(target)
    names = [_residue_code(r.name) for r in own], [_residue_code(r.name) for r in wanted]
    if names[0] != names[1]:
        raise MappingError(f"{what} has other residues than the system: {_difference(*names)}")
    parents = _parents(source, own, positions), _parents(target, wanted, None)
    index = np.full(target.n_atoms, -1, dtype=np.int64)
    problems: list[str] = []
    for here, there in zip(own, wanted, strict=True):
        code = _residue_code(there.name)
        heavy, theirs = _heavy(here, code), _heavy(there, code)
        missing, extra = sorted(set(theirs) - set(heavy)), sorted(set(heavy) - set(theirs))
        if missing or extra:
            problems.append(_said(here, missing, extra))
            continue
        for name, atom in theirs.items():
            index[atom.index] = heavy[name].index
            problems += _match_hydrogens(
                [a for a in here.atoms if parents[0].get(a.index) == heavy[name].index],
                [a for a in there.atoms if parents[1].get(a.index) == atom.index],
                f"{here}, {name}",
                index,
            )
    if not problems and (index < 0).any():
        lost = [target.atom(int(i)) for i in np.flatnonzero(index < 0)]
        problems = [f"{atom} was not found" for atom in lost]
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise MappingError(
            f"the atoms of {what} are not those of the system: {'; '.join(problems[:_LISTED])}{more}"
        )
    return index


def bonds_of(topology: mdtraj.Topology, positions: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Return the bonds of a topology, and one for each hydrogen that has none, to the nearest heavy atom.

    ``positions`` is ``(n_atoms, 3)`` Å. Topologies of mdtraj lack bonds of atoms with other names than in
    the PDB.
    """
    bonds = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds}
    parents = _parents(topology, list(topology.residues), positions)
    bonds |= {(min(pair), max(pair)) for pair in parents.items()}
    return sorted(bonds)


def _residue_code(name: str) -> str:
    upper = name.strip().upper()
    # a cap has two names
    return standard_name(upper) or min(upper, same_cap(upper) or upper)


def _difference(own: list[str], wanted: list[str]) -> str:
    if len(own) != len(wanted):
        return f"{len(own)} residues ({_short(own)}), expected {len(wanted)} ({_short(wanted)})"
    k = next(i for i, (a, b) in enumerate(zip(own, wanted, strict=True)) if a != b)
    return f"residue {k + 1} is {own[k]}, expected {wanted[k]}"


def _short(names: list[str]) -> str:
    return " ".join(names[:4]) + (" ..." if len(names) > 4 else "")


def is_hydrogen(atom: Any) -> bool:
    """Return whether an atom of an mdtraj topology is a hydrogen, by its element or else its name."""
    if atom.element is not None and atom.element.atomic_number:
        return bool(atom.element.atomic_number == 1)
    return bool(atom.name.lstrip("0123456789")[:1].upper() == "H")


def _heavy(residue: Any, code: str) -> dict[str, Any]:
    atoms = [a for a in residue.atoms if not is_hydrogen(a)]
    names = {a.name for a in atoms}
    found = {}
    for atom in atoms:
        alias = _SAME_NAME.get(code, {}).get(atom.name) or _SAME_NAME["*"].get(atom.name)
        # O1 of a lone name is a name of its own
        found[alias if alias and alias not in names else atom.name] = atom
    return found


def _parents(
    topology: mdtraj.Topology, residues: list[Any], positions: NDArray[np.floating] | None
) -> dict[int, int]:
    """Return the heavy atom of each hydrogen: by a bond, or else the nearest one of the residue."""
    found = {}
    for a, b in topology.bonds:
        if is_hydrogen(a) != is_hydrogen(b):
            found[(a if is_hydrogen(a) else b).index] = (b if is_hydrogen(a) else a).index
    if positions is None:
        return found
    for residue in residues:
        heavy = [a.index for a in residue.atoms if not is_hydrogen(a)]
        for atom in residue.atoms:
            if heavy and is_hydrogen(atom) and atom.index not in found:
                distance = np.linalg.norm(positions[heavy] - positions[atom.index], axis=1)
                if distance.min() < _H_BOND:
                    found[atom.index] = heavy[int(distance.argmin())]
    return found


def _match_hydrogens(own: list[Any], wanted: list[Any], what: str, index: NDArray[np.int64]) -> list[str]:
    if len(own) != len(wanted):
        return [f"{what} has {len(own)} hydrogens, expected {len(wanted)}"]
    by_name = {a.name: a for a in own}
    if by_name.keys() != {a.name for a in wanted}:
        own, wanted = sorted(own, key=lambda a: a.name), sorted(wanted, key=lambda a: a.name)
        by_name = {b.name: a for a, b in zip(own, wanted, strict=True)}
    for atom in wanted:
        index[atom.index] = by_name[atom.name].index
    return []


def _said(residue: Any, missing: list[str], extra: list[str]) -> str:
    parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)} too"] * bool(extra)
    return f"{residue} {' and '.join(parts)}"
