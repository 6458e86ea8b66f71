"""PDB texts of small molecules for the tests of structure reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from cgal_plugin.oracle.peptide import build_peptide

DATA = Path(__file__).parent / "data"
Line = tuple[str, str, str, int, tuple[float, float, float], str]


@cache
def _built(sequence: str) -> tuple[Line, ...]:
    built = build_peptide(sequence)
    return tuple(
        (a.name, a.residue.name, "A", a.residue.index + 1, tuple(xyz), a.element.symbol)
        for a, xyz in zip(built.topology.atoms(), built.positions, strict=True)
    )


def text(lines: list[Line], end: str = "END") -> str:
    """PDB text of atoms (name, residue, chain, number, xyz, element)."""
    rows = []
    for i, (name, residue, chain, number, xyz, element) in enumerate(lines, 1):
        if name == "TER":
            rows.append("TER")
            continue
        record = "HETATM" if residue in ("HOH", "ZN", "NA", "GOL") else "ATOM  "
        shown = name if len(name) > 3 else f" {name}"
        at = "".join(f"{v:8.3f}" for v in xyz)
        rows.append(
            f"{record}{i:5d} {shown:<4} {residue:>3} {chain}{number:4d}    {at}  1.00  0.00{element:>12}"
        )
    return "\n".join([*rows, end]) + "\n"


def peptide(sequence: str, *, hydrogens: bool = False, chain: str = "A", shift: float = 0.0) -> list[Line]:
    """Atoms of a built peptide, moved along x by ``shift`` Å."""
    return [
        (name, residue, chain, number, (x + shift, y, z), element)
        for name, residue, _, number, (x, y, z), element in _built(sequence)
        if hydrogens or element != "H"
    ]


def renamed(lines: list[Line], names: Mapping[int, str]) -> list[Line]:
    """The atoms with other names of the residues with these numbers."""
    return [(a, names.get(n, r), c, n, x, e) for a, r, c, n, x, e in lines]


def kept(lines: list[Line], keep: Callable[[str, int], bool]) -> list[Line]:
    """The atoms for which ``keep(name, number)`` is true."""
    return [line for line in lines if keep(line[0], line[3])]


def capped(sequence: str, *, hydrogens: bool = False) -> list[Line]:
    """The peptide with ACE and NME made of its first and last residue."""
    last = len(sequence)
    start, end = {"CA": "CH3", "C": "C", "O": "O"}, {"N": "N", "CA": "C"}
    found = []
    for name, residue, chain, number, xyz, element in peptide(sequence, hydrogens=hydrogens):
        if number in (1, last):
            names = start if number == 1 else end
            if name in names:
                found.append((names[name], "ACE" if number == 1 else "NME", chain, number, xyz, element))
            continue
        found.append((name, residue, chain, number, xyz, element))
    return found


def atom(name: str, residue: str, number: int, xyz: tuple[float, float, float], element: str) -> Line:
    """One atom of chain B."""
    return (name, residue, "B", number, xyz, element)


def position(lines: list[Line], name: str, number: int) -> np.ndarray:
    """Position of an atom, Å."""
    return np.array(next(x for a, _, _, n, x, _ in lines if (a, n) == (name, number)))
