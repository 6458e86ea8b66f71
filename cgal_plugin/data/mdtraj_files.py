"""Read files in the formats of mdtraj: any case of the extension, any characters in the path."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin._native import silent
from cgal_plugin.data.file_checks import check_file
from cgal_plugin.errors import CGALError, DataError, MappingError
from cgal_plugin.mapping.files import load_topology
from cgal_plugin.mapping.hdf5_trajectory import HDF5_SUFFIXES, LH5_SUFFIX, NO_LH5, open_hdf5
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import BAD_ARCHIVE

if TYPE_CHECKING:
    import mdtraj

#: exceptions of the mdtraj readers for damaged files
_UNREADABLE: tuple[type[Exception], ...] = (*BAD_ARCHIVE, AttributeError, AssertionError)
#: formats that hold a topology
_PDBX = (".cif", ".mmcif", ".pdbx", ".cif.gz", ".mmcif.gz", ".pdbx.gz")
_WITH_TOPOLOGY = (".pdb", ".pdb.gz", *HDF5_SUFFIXES, ".gro", ".gsd", ".arc", *_PDBX)
_WITHOUT_TOPOLOGY = (
    ".dcd", ".xtc", ".trr", ".nc", ".netcdf", ".ncdf", ".crd", ".mdcrd", ".binpos", ".dtr", ".tng", ".xyz",
    ".xyz.gz", ".lammpstrj", ".inpcrd", ".restrt", ".rst7", ".ncrst", ".stk",
)  # fmt: skip
#: formats of which mdtraj reads all frames at once, without seeking
_IN_ONE = (
    ".pdb",
    ".pdb.gz",
    ".gro",
    ".gsd",
    ".arc",
    ".xyz",
    ".xyz.gz",
    ".lammpstrj",
    ".crd",
    ".mdcrd",
    ".stk",
)
_READABLE = "npy, npz, dcd, xtc, trr, h5, nc, pdb, gro and other formats of mdtraj can be read"
_TEMPORARY = (None, "/tmp", "/var/tmp", "/dev/shm")


def extension(path: Path) -> str:
    """Return the extension in lower case, with ``.gz`` the last two."""
    suffixes = [s.lower() for s in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


@contextmanager
def plain_name(path: Path) -> Iterator[str]:
    """Yield a name of the file that mdtraj can read: ASCII, with its extension in lower case.

    mdtraj chooses a reader by an extension in lower case, and its XTC, TRR and DCD readers accept ASCII names
    only. If necessary, the name is that of a link in a temporary folder.
    """
    lower = extension(path)
    if str(path).isascii() and path.name.endswith(lower):
        yield str(path)
        return
    places = [place for place in _TEMPORARY if (place or tempfile.gettempdir()).isascii()]
    with tempfile.TemporaryDirectory(prefix="cgal-", dir=places[0] if places else None) as folder:
        link = Path(folder) / f"file{lower}"
        link.symlink_to(path.absolute())
        yield str(link)


def load_mdtraj(path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None) -> mdtraj.Trajectory:
    """Read a whole file in a format of mdtraj.

    Raises
    ------
    DataError
        The file, or its topology, cannot be read.
    """
    import mdtraj

    with _reading(path, top):
        _check(path)
        if extension(path) in HDF5_SUFFIXES:
            with open_hdf5(path) as file, _quiet():
                return file.read()
    with plain_name(path) as name, _reading(path, top):
        options = _options(path, top)
        with silent(1), _quiet():  # the DCD reader of mdtraj prints to standard output
            return mdtraj.load(name, **options)


def iterate_mdtraj(
    path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None, chunk: int, *, skip: int = 0
) -> Iterator[mdtraj.Trajectory]:
    """Yield the frames of a file in a format of mdtraj after the first ``skip``, at most ``chunk`` at a time.

    Raises
    ------
    DataError
        See :func:`load_mdtraj`.
    """
    import mdtraj

    if extension(path) in (*_PDBX, *(_IN_ONE if skip else ())):
        whole = load_mdtraj(path, top)  # mdtraj cannot read these in parts
        yield from (whole[lo : lo + chunk] for lo in range(skip, len(whole), chunk))
        return
    with _reading(path, top):
        _check(path)
    if extension(path) in HDF5_SUFFIXES:
        yield from _iterate_hdf5(path, top, chunk, skip)
        return
    with plain_name(path) as name:
        with _reading(path, top):
            options = _options(path, top)
            with silent(1), _quiet():
                pieces = mdtraj.iterload(name, chunk=chunk, skip=skip, **options)
        while True:
            with _reading(path, top), silent(1), _quiet():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def count_frames(path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None) -> int:
    """Return the number of frames of a file in a format of mdtraj, from its index if it has one.

    Raises
    ------
    DataError
        See :func:`load_mdtraj`.
    """
    import mdtraj

    with _reading(path, top):
        _check(path)
        if extension(path) in HDF5_SUFFIXES:
            with open_hdf5(path) as file:
                return file.n_frames
    if extension(path) not in (*_PDBX, *_IN_ONE):
        with plain_name(path) as name, _reading(path, top), silent(1), _quiet():
            handle = mdtraj.open(name)
            with handle:
                if hasattr(handle, "__len__"):
                    return len(handle)
    return sum(len(piece) for piece in iterate_mdtraj(path, top, 1000))


def count_atoms(path: Path) -> int | None:
    """Return the number of atoms of a file by its bare reader, which knows no topology; None if it fails."""
    import mdtraj

    try:
        _check(path)
        if extension(path) in HDF5_SUFFIXES:
            with open_hdf5(path) as file:
                return file.n_atoms
        with mdtraj.open(str(path)) as handle:
            first: Any = handle.read(n_frames=1)
    except Exception:  # noqa: BLE001  readers raise anything; the caller has the first error
        return None
    xyz = first if isinstance(first, np.ndarray) else first[0]
    return int(np.shape(xyz)[1]) if np.ndim(xyz) == 3 else None


def _check(path: Path) -> None:
    """Refuse what reading would crash on, or what mdtraj reads by running code of the file."""
    if extension(path) == LH5_SUFFIX:
        raise ValueError(NO_LH5)
    check_file(path)


def _iterate_hdf5(
    path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None, chunk: int, skip: int
) -> Iterator[mdtraj.Trajectory]:
    begin = skip
    while True:
        with _reading(path, top), open_hdf5(path) as file, _quiet():
            if begin >= file.n_frames:
                return
            piece = file.read(begin, begin + chunk)
        begin += chunk
        yield piece


def load_top(top: str | os.PathLike[str]) -> mdtraj.Topology:
    """Read the topology of a structure file, or of a saved CG topology (``.json``)."""
    if Path(top).suffix.lower() == ".json" and Path(top).is_file():
        return CGTopology.load(top).to_mdtraj()
    with _quiet():
        return load_topology(top)


def _options(path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None) -> dict[str, Any]:
    if top is None or extension(path) in _WITH_TOPOLOGY:
        return {}
    return {"top": load_top(top) if isinstance(top, str | os.PathLike) else top}


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mdtraj's remarks on dummy cells and its own deprecations
        yield


@contextmanager
def _reading(path: Path, top: str | os.PathLike[str] | mdtraj.Topology | None) -> Iterator[None]:
    try:
        yield
    except MappingError as error:
        raise DataError(f"trajectory {str(path)!r}: {error}") from error
    except CGALError:
        raise
    except ImportError as error:
        raise DataError(
            f"trajectory {str(path)!r}: another package is needed to read {path.suffix}: {error} "
            "(HDF5: pip install 'cgal_plugin[hdf5]')"
        ) from error
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        if top is None and "topology" in reason and extension(path) not in HDF5_SUFFIXES:
            reason = (
                f"{path.suffix} has no topology; give a topology file (--top, evaluation.reference_topology)"
                if extension(path) in _WITHOUT_TOPOLOGY
                else f"{path.name} is not a trajectory; {_READABLE}"
            )
        elif "no loader" in reason:
            reason = f"the extension {path.suffix!r} is not known" if path.suffix else "it has no extension"
            reason += f"; {_READABLE}"
        raise DataError(f"trajectory {str(path)!r} cannot be read: {reason}") from error
