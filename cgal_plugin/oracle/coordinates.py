"""Coordinates of a complete all-atom system: PDB, mmCIF, GROMACS, AMBER and CHARMM files."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import CGALError, OracleError
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openmm import app

_PDB, _CIF = (".pdb", ".ent"), (".cif", ".mmcif", ".pdbx")
_AMBER = (".inpcrd", ".rst7", ".ncrst", ".restrt", ".crd", ".rst")
FORMATS = "PDB, mmCIF, .gro, AMBER .inpcrd/.rst7/.ncrst, CHARMM .crd"


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Content of a coordinate file.

    Attributes
    ----------
    what
        Name of the file in messages.
    positions
        ``(n, 3)`` Å.
    box
        ``(3, 3)`` box vectors, Å; None if the file has none.
    names
        Residue and atom name of each atom; empty if the file has no names.
    topology
        ``openmm.app.Topology`` of a PDB or mmCIF file; None for the other formats.
    """

    what: str
    positions: NDArray[np.float64]
    box: NDArray[np.float64] | None
    names: tuple[tuple[str, str], ...] = ()
    topology: app.Topology | None = None


@contextmanager
def reading(what: str, remedy: str = "") -> Iterator[None]:
    """Turn the exceptions of OpenMM's readers, which are of many types, into an OracleError."""
    try:
        yield
    except CGALError:
        raise
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        if isinstance(error, KeyError | IndexError):  # the text is a name alone
            text = f"it is not a whole file of this kind ({type(error).__name__}: {text})"
        raise OracleError(f"{what} cannot be used: {text}{remedy}") from error


def read_coordinates(path: str | os.PathLike[str], kind: str) -> Coordinates:
    """Read the coordinates of all particles of a system.

    Parameters
    ----------
    path
        PDB or mmCIF (also ``.gz``), ``.gro``, AMBER ``.inpcrd``, ``.rst7``, ``.ncrst``, CHARMM ``.crd``.
    kind
        Of the force field; ``.crd`` is a file of CHARMM for ``"charmm"`` and of AMBER for the others.

    Raises
    ------
    OracleError
        The file is missing, damaged or of another format, or a coordinate is not finite.
    """
    path = Path(path)
    what = f"structure file {str(path)!r}"
    if not path.is_file():
        raise OracleError(f"{what} is a folder" if path.is_dir() else f"{what} does not exist")
    suffixes = [s.lower() for s in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if zipped else suffixes)[-1:]
    with reading(what):
        found = _read(path, suffix[0] if suffix else "", zipped, kind, what)
    if not len(found.positions) or not np.isfinite(found.positions).all():
        raise OracleError(f"{what} has no atoms, or coordinates that are not finite")
    return found


def _read(path: Path, suffix: str, zipped: bool, kind: str, what: str) -> Coordinates:
    from openmm import app

    if suffix in (*_PDB, *_CIF):
        content = path.read_bytes()
        text = (gzip.decompress(content) if zipped else content).decode()
        file = (app.PDBxFile if suffix in _CIF else app.PDBFile)(io.StringIO(text))
        names = tuple((a.residue.name, a.name) for a in file.topology.atoms())
        box = _box(file.topology.getPeriodicBoxVectors())
        return Coordinates(what, _angstrom(file.positions), box, names, file.topology)
    if zipped:
        raise OracleError(f"{what}: only PDB and mmCIF files may be compressed; unpack it")
    if suffix == ".gro":
        file = app.GromacsGroFile(str(path))
        names = tuple(zip(file.residueNames, file.atomNames, strict=True))
        return Coordinates(what, _angstrom(file.positions), _box(file.getPeriodicBoxVectors()), names)
    if kind == "charmm" and suffix in (".crd", ".cor"):
        file = app.CharmmCrdFile(str(path))
        names = tuple(zip(file.resname, file.attype, strict=True))
        return Coordinates(what, _angstrom(file.positions), None, names)
    if suffix in _AMBER and kind != "charmm":
        file = app.AmberInpcrdFile(str(path))
        return Coordinates(what, _angstrom(file.positions), _box(file.boxVectors))
    raise OracleError(f"{what}: {suffix or 'no suffix'} is not a format of coordinates; use {FORMATS}")


def _angstrom(positions: Any) -> NDArray[np.float64]:
    from openmm import unit

    values = positions.value_in_unit(unit.nanometer)
    return np.array([tuple(p) for p in values], dtype=np.float64).reshape(-1, 3) * ANGSTROM_PER_NM


def _box(vectors: Any) -> NDArray[np.float64] | None:
    """Return box vectors in Å; None for none, and for the placeholder of 1 Å of a PDB file."""
    from openmm import unit

    if vectors is None:
        return None
    box = np.array([tuple(v.value_in_unit(unit.nanometer)) for v in vectors]) * ANGSTROM_PER_NM
    return box if np.isfinite(box).all() and np.diagonal(box).min() > 2.0 else None


def box_vectors(box: NDArray[np.float64] | None) -> Any:
    """Return box vectors ``(3, 3)`` Å as OpenMM has them; None for None."""
    from openmm import Vec3, unit

    return None if box is None else [Vec3(*row) for row in box / ANGSTROM_PER_NM] * unit.nanometer


def make_whole(
    positions: NDArray[np.float64], bonds: NDArray[np.int64], box: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Join molecules that are split over periodic boundaries.

    ``positions`` ``(n, 3)`` and ``box`` ``(3, 3)`` in the same unit, ``bonds`` ``(m, 2)``. The first atom of
    each molecule keeps its place.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    n, xyz = len(positions), positions.copy()
    graph = coo_matrix((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(n, n)).tocsr()
    steps = nearest_image(xyz[bonds[:, 1]] - xyz[bonds[:, 0]], box)
    if np.allclose(xyz[bonds[:, 1]] - xyz[bonds[:, 0]], steps, atol=1e-6):
        return xyz
    _, molecule = connected_components(graph, directed=False)
    for start in np.unique(molecule, return_index=True)[1]:
        order, before = breadth_first_order(graph, start, directed=False)
        for i in order[1:]:
            xyz[i] = xyz[before[i]] + nearest_image(xyz[i] - xyz[before[i]], box)
    return xyz


def nearest_image(vectors: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shortest periodic images of vectors ``(..., 3)``; ``box`` is in OpenMM's reduced form."""
    moved = np.array(vectors, dtype=np.float64)
    for k in (2, 1, 0):
        moved -= np.round(moved[..., k : k + 1] / box[k, k]) * box[k]
    return moved
