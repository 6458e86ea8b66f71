"""PSF files (CHARMM, X-PLOR, NAMD) as mdtraj topologies, with atom numbers in any order."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import CGALWarning
from cgal_plugin.mapping.residues import ONE_TO_THREE, standard_name

if TYPE_CHECKING:
    import mdtraj


def read_psf(path: Path) -> mdtraj.Topology:
    """Read atoms, residues, segments (as chains) and bonds of a PSF file.

    Atoms are numbered by their place in the file, as in its bond list; their own numbers are not used. In a
    file of CA beads (torchmd-cg) a residue that is not standard, such as NLE, is read as the standard residue
    of its atom type (CAL: LEU), with a warning.

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
    kinds: list[str] = []
    for number, line in enumerate(lines[first : first + n_atoms], 1):
        own, residue_id, residue_name, name, mass, kind = _atom(line, number)
        if chain is None or own != segment:
            chain, segment, key = top.add_chain(own or None), own, None
        if (residue_id, residue_name) != key:
            digits = residue_id if residue_id.lstrip("-").isdigit() else residue_id[:-1]
            if not digits.lstrip("-").isdigit():
                raise ValueError(f"atom {number} has residue number {residue_id!r}")
            residue = top.add_residue(residue_name, chain, int(digits), own)
            key = (residue_id, residue_name)
        top.add_atom(name, _element(mass), residue)
        kinds.append(kind)
    if top.n_atoms != n_atoms:
        raise ValueError(f"it is cut off: {n_atoms} atoms announced, {top.n_atoms} found")
    atoms = list(top.atoms)
    _standard_beads(path, atoms, kinds)
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


def _standard_beads(path: Path, atoms: list[Any], kinds: list[str]) -> None:
    """Rename residues of CA beads that are not standard to those whose atom type they have."""
    if any(atom.name != "CA" for atom in atoms):
        return
    said: dict[str, str] = {}
    for atom, kind in zip(atoms, kinds, strict=True):
        residue = ONE_TO_THREE.get(kind.removeprefix("CA"))
        if standard_name(atom.residue.name) is None and residue is not None and kind.startswith("CA"):
            said.setdefault(f"{atom.residue.name} as {residue}", kind)
            atom.residue.name = residue
    if said:
        text = ", ".join(f"{what} (atom type {kind})" for what, kind in said.items())
        warnings.warn(
            f"{path} has residues that are not standard: read {text}, in the priors and in the network",
            CGALWarning,
            stacklevel=2,
        )


def _atom(line: str, number: int) -> tuple[str, str, str, str, float, str]:
    """Return segment, residue number, residue name, atom name, mass and type; the segment may be blank."""
    words = line.split()
    # charge and mass are the first two neighbours with a decimal point
    charge = next((k for k in range(5, len(words) - 1) if "." in words[k] and "." in words[k + 1]), None)
    if charge is None:
        raise ValueError(f"atom {number} cannot be read: {line.strip()!r}")
    segment = " ".join(words[1 : charge - 4])
    residue, name, kind = words[charge - 3 : charge]
    return segment, words[charge - 4], residue, name, float(words[charge + 1]), kind


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
