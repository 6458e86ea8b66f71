"""Read a PDB or mmCIF file, plain or gzip-compressed, as residues with their atoms."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np

from cgal_plugin.errors import OracleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CIF = (".cif", ".mmcif", ".pdbx")
#: formats that hold no elements or no residues as the oracle needs them
_OTHER = {
    ".gro": "convert it with `gmx editconf -f x.gro -o x.pdb`",
    ".psf": "it has no coordinates; give a PDB file",
    ".prmtop": "it has no coordinates; give a PDB file",
    ".mol2": "convert it to PDB",
    ".xyz": "it has no residues; give a PDB file",
    ".json": "it has beads only; give an all-atom PDB file",
}
_LISTED = 10
_GZIP = b"\x1f\x8b"
_LISTED = 6


@dataclass
class Atom:
    """An atom: its name, its element's symbol, and its position ``(3,)`` Å."""

    name: str
    element: str
    xyz: NDArray[np.float64]

    @property
    def is_hydrogen(self) -> bool:
        """Whether the atom is hydrogen or deuterium."""
        return self.element in ("H", "D")


@dataclass
class Residue:
    """A residue of the file: name, number with insertion code, chain, and atoms.

    ``given`` is its name in the file if ``name`` was changed, ``replaced`` the name that the user wants
    instead, and ``several`` says that there are several chains.
    """

    name: str
    number: str
    chain: str
    atoms: list[Atom]
    het: bool = False
    given: str = ""
    replaced: str = ""
    several: bool = False

    def __str__(self) -> str:
        return f"{self.given or self.name}{self.number}" + (f" of chain {self.chain}" if self.several else "")

    def atom(self, name: str) -> Atom | None:
        """Return the atom with this name, or None."""
        return next((a for a in self.atoms if a.name == name), None)

    @property
    def hydrogens(self) -> list[Atom]:
        """The hydrogens of the residue."""
        return [a for a in self.atoms if a.is_hydrogen]

    @property
    def heavy(self) -> list[Atom]:
        """The other atoms of the residue."""
        return [a for a in self.atoms if not a.is_hydrogen]


@dataclass
class StructureFile:
    """Residues of one model, in parts that the file separates (chains, TER records).

    Attributes
    ----------
    parts
        Lists of residues.
    bridges
        Pairs of residues, as (chain, number), that the file declares as disulfides.
    notes
        What the choice of the model and of alternative locations did.
    """

    parts: list[list[Residue]]
    bridges: list[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_structure_file(path: str | os.PathLike[str], model: int | None = None) -> StructureFile:
    """Read one model of a PDB or mmCIF file.

    Parameters
    ----------
    path
        ``.pdb``, ``.ent``, ``.cif``, ``.mmcif``, each also with ``.gz``, in lower or upper case.
    model
        Number of the model; default: the first.

    Raises
    ------
    OracleError
        The file is missing, damaged, of another format or without atoms, or has no such model.
    """
    path = Path(path)
    what = f"structure file {str(path)!r}"
    if not path.is_file():
        raise OracleError(f"{what} is a folder" if path.is_dir() else f"{what} does not exist")
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in _OTHER:
        raise OracleError(f"{what}: formats are PDB and mmCIF (also .gz), not {suffix}; {_OTHER[suffix]}")
    structure = _parse(_text(path, what), suffix in _CIF, what)
    return _one_model(structure, model, what)


def read_pdb_text(text: str, source: str) -> StructureFile:
    """Read the first model of a PDB text; ``source`` names it in errors.

    Raises
    ------
    OracleError
        The text has no atoms or cannot be read.
    """
    return _one_model(_parse(text, False, source), None, source)


def _text(path: Path, what: str) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise OracleError(f"{what} cannot be read: {error}") from error
    if b"\x00" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise OracleError(f"{what} is not a text file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # old headers have names with accents


def _parse(text: str, cif: bool, what: str) -> gemmi.Structure:
    cif = cif or text.lstrip()[:5].lower() == "data_"
    try:
        if cif:
            document = gemmi.cif.read_string(text)
            blocks = [
                b for b in document if b.find_loop("_atom_site.Cartn_x") or b.find_value("_atom_site.id")
            ]
            if not blocks:
                raise OracleError(f"{what} has no protein residue: no _atom_site records")
            structure = gemmi.make_structure_from_block(blocks[0])
        else:
            structure = gemmi.read_pdb_string(_with_chain_ends(text), split_chain_on_ter=True)
    except (ValueError, RuntimeError, IndexError) as error:
        raise OracleError(f"{what} cannot be read as {'mmCIF' if cif else 'PDB'}: {error}") from error
    if not len(structure) or not any(len(c) for c in structure[0]):
        raise OracleError(f"{what} has no protein residue: no {'_atom_site' if cif else 'ATOM'} record")
    return structure


def _with_chain_ends(text: str) -> str:
    """Write TER where an atom occurs again: numbers restart in a file without names of chains."""
    lines: list[str] = []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("ATOM", "HETATM")):
            _check_coordinates(number, line)
            atom = line[12:27]  # name, alternative location, residue, chain, number
            if atom in seen:
                lines.append("TER")
                seen = set()
            seen.add(atom)
        elif line.startswith(("MODEL", "TER")):
            seen = set()
        lines.append(line)
    return "\n".join(lines)


def _check_coordinates(number: int, line: str) -> None:
    """Raise ValueError for coordinates that are not numbers: gemmi reads them as zero."""
    try:
        values = [float(line[i : i + 8]) for i in (30, 38, 46)]
    except ValueError:
        values = [np.nan]
    if not np.isfinite(values).all():
        raise ValueError(f"line {number} has no coordinates in columns 31 to 54: {line.rstrip()!r}")


def _one_model(structure: gemmi.Structure, model: int | None, what: str) -> StructureFile:
    numbers = [m.num for m in structure]
    notes = []
    if model is not None and model not in numbers:
        raise OracleError(
            f"{what} has no model {model}; it has {_range(numbers)} (system.model, counted as in the file)"
        )
    chosen = structure[numbers.index(model)] if model is not None else structure[0]
    if len(numbers) > 1:
        first = "" if model is not None else ", the first"
        notes.append(f"model {chosen.num} ({len(numbers)} in the file{first})")
    parts = [_residues(chain) for chain in chosen if len(chain)]
    alternatives = _drop_alternatives(parts)
    if alternatives:
        listed = ", ".join(alternatives[:_LISTED]) + (" ..." if len(alternatives) > _LISTED else "")
        notes.append(f"of alternative locations the most occupied one is used: {listed}")
    bridges = [
        tuple((p.chain_name, str(p.res_id.seqid)) for p in (c.partner1, c.partner2))
        for c in structure.connections
        if c.type == gemmi.ConnectionType.Disulf
    ]
    result = StructureFile([[r for r, _ in part] for part in parts], bridges, notes)  # type: ignore[arg-type]
    several = len({part[0].chain for part in result.parts}) > 1
    for residue in (r for part in result.parts for r in part):
        residue.several = several
        _check_atoms(residue, what)
    return result


_Alternative = list[tuple[str, float]]


def _residues(chain: gemmi.Chain) -> list[tuple[Residue, _Alternative]]:
    """Return the residues of a part with the alternative location and occupancy of each atom.

    Atoms of a residue that come later in the file (such as hydrogens after all heavy atoms) are added to
    their residue.
    """
    found: dict[tuple[str, str], tuple[Residue, _Alternative]] = {}
    for residue in chain:
        key = (str(residue.seqid), residue.name)
        if key not in found:
            het = residue.het_flag == "H"
            found[key] = (Residue(residue.name, str(residue.seqid), chain.name, [], het), [])
        target, alternatives = found[key]
        for atom in residue:
            xyz = np.array([atom.pos.x, atom.pos.y, atom.pos.z])
            target.atoms.append(Atom(atom.name, atom.element.name, xyz))
            alternatives.append(("" if atom.altloc == "\0" else atom.altloc, atom.occ))
    return list(found.values())


def _drop_alternatives(parts: list[list[tuple[Residue, _Alternative]]]) -> list[str]:
    """Keep one alternative location of each residue, in place; return the residues that have several.

    Alternative residues at one position count as alternatives as well.
    """
    changed: list[str] = []
    for part in parts:
        positions: dict[str, list[tuple[Residue, _Alternative]]] = {}
        for residue, alternatives in part:
            positions.setdefault(residue.number, []).append((residue, alternatives))
        for entries in positions.values():
            occupancy: dict[str, float] = defaultdict(float)
            for _, alternatives in entries:
                for location, value in alternatives:
                    if location:
                        occupancy[location] += value
            if not occupancy:
                continue
            changed.append("/".join(dict.fromkeys(str(residue) for residue, _ in entries)))
            # the first in alphabetical order among equals
            kept = min(occupancy, key=lambda name: (-round(occupancy[name], 3), name))
            for residue, alternatives in entries:
                keep = [location in ("", kept) for location, _ in alternatives]
                residue.atoms = [a for a, good in zip(residue.atoms, keep, strict=True) if good]
        part[:] = [(r, a) for r, a in part if r.atoms]
    return changed


def _check_atoms(residue: Residue, what: str) -> None:
    names = [a.name for a in residue.atoms]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise OracleError(
            f"{what}: {residue} has two atoms named {', '.join(twice)}. Give every residue its own number, "
            "or remove one of the atoms"
        )
    bad = [a.name for a in residue.atoms if not np.isfinite(a.xyz).all()]
    if bad:
        raise OracleError(f"{what}: {residue} has coordinates that are not finite: {', '.join(bad)}")


def _range(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"model {numbers[0]} only"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"models {numbers[0]} to {numbers[-1]}"
    shown = numbers if len(numbers) <= _LISTED else [*numbers[: _LISTED - 1], "...", numbers[-1]]
    return f"models {', '.join(map(str, shown))}"
