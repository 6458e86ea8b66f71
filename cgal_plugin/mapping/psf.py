"""PSF files (CHARMM, X-PLOR, NAMD) as mdtraj topologies, with atom numbers in any order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mdtraj


def read_psf(path: Path) -> mdtraj.Topology:
    """Read atoms, residues, segments (as chains) and bonds of a PSF file.

    Atoms are numbered by their place in the file, as in its bond list; their own numbers are not used.

    Raises
    ------
    ValueError
        The file is not a PSF, is cut off, or a bond names an atom that it does not have.
    """
    import mdtraj

    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[0].upper().startswith("PSF"):
        raise ValueError("it does not start with PSF")
    first, n_atoms = _section(lines, "!NATOM")
    start, n_bonds = _section(lines, "!NBOND")
    top = mdtraj.Topology()
    chain: Any = None
    residue: Any = None
    segment = key = None
    for number, line in enumerate(lines[first : first + n_atoms], 1):
        own, residue_id, residue_name, name, mass = _atom(line, number)
        if chain is None or own != segment:
            chain, segment, key = top.add_chain(own or None), own, None
        if (residue_id, residue_name) != key:
            digits = residue_id if residue_id.lstrip("-").isdigit() else residue_id[:-1]
            if not digits.lstrip("-").isdigit():
                raise ValueError(f"atom {number} has residue number {residue_id!r}")
            residue = top.add_residue(residue_name, chain, int(digits), own)
            key = (residue_id, residue_name)
        top.add_atom(name, _element(mass), residue)
    if top.n_atoms != n_atoms:
        raise ValueError(f"it is cut off: {n_atoms} atoms announced, {top.n_atoms} found")
    atoms = list(top.atoms)
    numbers: list[int] = []
    for line in lines[start:]:
        if len(numbers) >= 2 * n_bonds:
            break
        numbers += _numbers(line)
    if len(numbers) != 2 * n_bonds:
        raise ValueError(f"it is cut off: {n_bonds} bonds announced, {len(numbers) // 2} found")
    for i, j in zip(numbers[::2], numbers[1::2], strict=True):
        if not (1 <= i <= n_atoms and 1 <= j <= n_atoms):
            raise ValueError(f"bond {i}–{j} names an atom outside 1..{n_atoms}")
        top.add_bond(atoms[i - 1], atoms[j - 1])
    return top


def _section(lines: list[str], name: str) -> tuple[int, int]:
    """Return the first line of a section and its count."""
    for k, line in enumerate(lines):
        if name in line and line.split()[0].isdigit():
            return k + 1, int(line.split()[0])
    raise ValueError(f"it has no section {name}")


def _atom(line: str, number: int) -> tuple[str, str, str, str, float]:
    """Return segment, residue number, residue name, atom name and mass; the segment may be blank."""
    words = line.split()
    # charge and mass are the first two neighbours with a decimal point
    charge = next((k for k in range(5, len(words) - 1) if "." in words[k] and "." in words[k + 1]), None)
    if charge is None:
        raise ValueError(f"atom {number} cannot be read: {line.strip()!r}")
    segment = " ".join(words[1 : charge - 4])
    return segment, words[charge - 4], words[charge - 3], words[charge - 2], float(words[charge + 1])


def _numbers(line: str) -> list[int]:
    """Return the atom numbers of a line; columns of 8 or 10 characters may touch."""
    words = line.split()
    if all(len(w) < 8 for w in words):
        return [int(w) for w in words]
    width = next(w for w in (10, 8) if len(line.rstrip()) % w == 0)
    return [int(line[k : k + width]) for k in range(0, len(line.rstrip()), width)]


def _element(mass: float) -> Any:
    """Return the element of a mass in amu; beads without a mass are virtual."""
    import mdtraj

    if mass < 0.5:
        return mdtraj.element.virtual
    known = {e for e in mdtraj.element.Element._elements_by_symbol.values() if e.mass > 0.5}
    return min(known, key=lambda e: abs(e.mass - mass))
