"""Structure files of any common format, also compressed, as mdtraj objects."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.hdf5_trajectory import LH5_SUFFIX, NO_LH5, open_hdf5
from cgal_plugin.mapping.psf import read_psf
from cgal_plugin.provenance import BAD_ARCHIVE, read_json, unsealed

if TYPE_CHECKING:
    import mdtraj

#: endings of structure files → the ending that mdtraj knows
_SUFFIXES = {
    ".pdb": ".pdb", ".ent": ".pdb", ".brk": ".pdb", ".pdb1": ".pdb",
    ".cif": ".cif", ".mmcif": ".cif", ".pdbx": ".cif",
    ".gro": ".gro", ".psf": ".psf", ".mol2": ".mol2", ".h5": ".h5", ".hdf5": ".h5",
    ".prmtop": ".prmtop", ".parm7": ".prmtop", ".prm7": ".prmtop", ".arc": ".arc", ".gsd": ".gsd",
    ".hoomdxml": ".hoomdxml",
}  # fmt: skip
#: formats with coordinates
_WITH_FRAMES = (".pdb", ".cif", ".gro", ".h5", ".mol2")
_UNREADABLE: tuple[type[Exception], ...] = (*BAD_ARCHIVE, AttributeError, AssertionError)


def structure_suffix(path: str | os.PathLike[str]) -> str | None:
    """Return the format of a structure file as the ending that mdtraj knows; None for any other ending.

    Upper case and a further ``.gz`` do not matter.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    return _SUFFIXES.get(Path(name).suffix)


def lists_all_bonds(path: str | os.PathLike[str]) -> bool:
    """Return whether files of this format list all bonds, so that a missing bond is a gap (PSF)."""
    return structure_suffix(path) == ".psf"


def load_structure(path: str | os.PathLike[str]) -> mdtraj.Trajectory | mdtraj.Topology:
    """Read a structure file: PDB, mmCIF, GRO, PSF, or another topology format of mdtraj.

    The ending gives the format, in upper or lower case, also ``.ent`` and ``.mmcif``, and with ``.gz``.
    Atom numbers of a PSF need not be consecutive. SSBOND records of a PDB file become bonds.

    Returns
    -------
    A trajectory of the first frame, or a topology if the format has no coordinates.

    Raises
    ------
    MappingError
        The file is missing, its ending is unknown, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise MappingError(f"structure file {str(path)!r} does not exist")
    suffix = structure_suffix(path)
    if path.suffix.lower() == LH5_SUFFIX:
        raise MappingError(f"structure file {str(path)!r}: {NO_LH5}")
    if suffix is None:
        raise MappingError(
            f"structure file {str(path)!r} has an ending that is not known; use one of "
            f"{', '.join(_SUFFIXES)}, also with .gz"
        )
    try:
        if suffix == ".pdb" and _holds_mmcif(path):
            suffix = ".cif"
        with _readable(path, suffix) as name:
            return _load(name, suffix)
    except ImportError as error:
        raise MappingError(f"structure file {str(path)!r} needs another package: {error}") from error
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise MappingError(f"structure file {str(path)!r} cannot be read: {reason}") from error


def load_topology(path: str | os.PathLike[str]) -> mdtraj.Topology:
    """Return the topology of :func:`load_structure`, for trajectories without one; same errors."""
    structure = load_structure(path)
    return getattr(structure, "topology", structure)


def _holds_mmcif(path: Path) -> bool:
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else path.open("rb") as source:
        return source.read(1000).lstrip()[:5].lower() == b"data_"


@contextmanager
def _readable(path: Path, suffix: str) -> Iterator[Path]:
    """Yield a file with this content and ending: the file itself, or a temporary copy."""
    if path.name.endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"structure{suffix}"
        packed = path.name.lower().endswith(".gz")
        with gzip.open(path, "rb") if packed else path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


def _load(path: Path, suffix: str) -> mdtraj.Trajectory | mdtraj.Topology:
    import mdtraj

    if suffix == ".psf":
        return read_psf(path)
    if suffix == ".h5":
        with open_hdf5(path) as file:
            return file.read(0, 1)
    if suffix not in _WITH_FRAMES:
        return mdtraj.load_topology(str(path))
    with warnings.catch_warnings():
        # on cells of 1 × 1 × 1 Å, which are not used, and on numbers beyond the columns of a PDB file
        warnings.filterwarnings("ignore", module="mdtraj")
        if suffix == ".cif":
            try:
                return mdtraj.load_frame(str(path), 0)
            except _UNREADABLE:
                return _by_gemmi(path)
        if suffix == ".gro":  # its reader cannot choose a frame
            return mdtraj.load(str(path))[0]
        structure = mdtraj.load_frame(str(path), 0)
    if suffix == ".pdb":
        _add_ssbonds(structure.topology, path)
    return structure


def _by_gemmi(path: Path) -> mdtraj.Trajectory:
    """Read an mmCIF file that mdtraj cannot read, such as one without cell lengths."""
    import gemmi
    import mdtraj

    structure = gemmi.read_structure(str(path))
    if len(structure) == 0:
        raise ValueError("it has no atoms")
    structure.remove_alternative_conformations()
    while len(structure) > 1:
        del structure[1]
    structure.shorten_chain_names()
    with tempfile.TemporaryDirectory() as folder:
        pdb = Path(folder) / "structure.pdb"
        structure.write_pdb(str(pdb))
        return mdtraj.load_frame(str(pdb), 0)


def _add_ssbonds(topology: mdtraj.Topology, path: Path) -> None:
    """Add the bonds of SSBOND records: SG–SG, or in a file of beads CB–CB or CA–CA."""
    lines = [x for x in path.read_text(encoding="utf-8", errors="replace").splitlines() if x[:6] == "SSBOND"]
    if not lines:
        return
    residues: dict[tuple[str, str], Any] = {}
    for residue in topology.residues:
        residues.setdefault(((residue.chain.chain_id or "").strip(), str(residue.resSeq)), residue)
    there = {frozenset((a.index, b.index)) for a, b in topology.bonds}
    for line in lines:
        ends = [residues.get((line[k].strip(), line[k + 2 : k + 6].strip())) for k in (15, 29)]
        same_image = line[59:65].strip() == line[66:72].strip()
        atoms = [{a.name: a for a in residue.atoms} for residue in ends if residue is not None]
        if len(atoms) != 2 or ends[0] is ends[1] or not same_image:
            continue
        name = next((n for n in ("SG", "CB", "CA") if all(n in a for a in atoms)), None)
        pair = [a[name] for a in atoms] if name else []
        if pair and frozenset(a.index for a in pair) not in there:
            topology.add_bond(*pair)


def read_topology_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values in a file of :meth:`CGTopology.save`; its checksum is checked if it has one.

    Raises
    ------
    MappingError
        The file is missing, damaged or not JSON.
    """
    if not Path(path).is_file():
        raise MappingError(f"topology file {str(path)!r} does not exist")
    try:
        data = read_json(path)
    except ValueError as error:
        raise MappingError(f"topology file {str(path)!r} is not JSON: {error}") from error
    try:
        content: dict[str, Any] = unsealed(data)
    except ValueError as error:
        raise MappingError(
            f"topology file {str(path)!r} is damaged or was edited: {error}. If you edited it on "
            'purpose, delete its line "seal"; otherwise make it again'
        ) from error
    return content
