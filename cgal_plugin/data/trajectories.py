"""Trajectory files: npz, npy and the formats of mdtraj, all-atom or CG, read as beads in Å."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin._native import silent
from cgal_plugin.data.file_checks import check_file
from cgal_plugin.errors import DataError, MappingError
from cgal_plugin.mapping.files import load_topology
from cgal_plugin.mapping.molecule import say_left_out
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

#: exceptions of the mdtraj readers for damaged files
_UNREADABLE: tuple[type[Exception], ...] = (*BAD_ARCHIVE, AttributeError, AssertionError)
#: remedy for the right residues in other chains
_BROKEN = (
    "The residues are the same, the chains are not. If residues are missing in the molecule, use a topology "
    "with the same gap; if it is broken across the periodic box, write whole molecules (gmx trjconv -pbc "
    "whole)"
)


def save_trajectories(path: str | os.PathLike[str], trajectories: Sequence[NDArray[np.floating]]) -> None:
    """Write trajectories as one npz, atomically.

    Parameters
    ----------
    path
        File to write.
    trajectories
        One ``(n_frames, n_beads, 3)`` array per trajectory, Å; written as float32, in order.
    """
    arrays: dict[str, Any] = {
        f"trajectory_{i:05d}": np.asarray(t, dtype=np.float32) for i, t in enumerate(trajectories)
    }
    with atomic_write(path) as handle:
        np.savez(handle, **arrays)


def load_replicas(path: str | os.PathLike[str]) -> list[NDArray[np.floating]]:
    """Read a file of :func:`save_trajectories`: one ``(n, n_beads, 3)`` array per replica, Å, n may be 0."""
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[name] for name in sorted(arrays.files)]


def load_trajectories(
    path: str | os.PathLike[str],
    topology: CGTopology | None = None,
    *,
    top: str | os.PathLike[str] | None = None,
    mapping: Any = None,
) -> list[NDArray[np.floating]]:
    """Read the trajectories of one file as beads in Å.

    Parameters
    ----------
    path
        ``.npz`` (one trajectory per array, Å), ``.npy`` (one trajectory, Å), the folder of a data store
        (one trajectory per shard), or a format of mdtraj.
    topology
        Expected beads; None accepts any.
    top
        Topology file for formats without one (DCD, XTC).
    mapping
        Map of all-atom frames to beads; default: the map of ``topology``, or CA.

    Raises
    ------
    DataError
        The file is missing, empty or cannot be read, has frames that are not finite, or has other beads
        than ``topology``.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"trajectory {str(path)!r} does not exist")
    if path.is_dir():
        from cgal_plugin.data.store import DataStore

        trajectories: list[NDArray[np.floating]] = [frames.positions for _, frames in DataStore(path)]
    elif path.suffix in (".npz", ".npy"):
        trajectories = list(load_numpy(path))
    else:
        trajectories = [_load_mdtraj(path, topology, top, mapping)]
    trajectories = [t for t in trajectories if t.size]
    if not trajectories:
        raise DataError(f"trajectory {str(path)!r} has no frames")
    for t in trajectories:
        check_frames(t, str(path), topology)
    return trajectories


def check_frames(frames: NDArray[Any], source: str, topology: CGTopology | None, first: int = 0) -> None:
    """Check that frames are an ``(n, n_beads, 3)`` array of finite numbers with the beads of ``topology``.

    Raises
    ------
    DataError
        The shape, the number of beads or a value is wrong. The message names ``source`` and the frame,
        counted from ``first``.
    """
    if frames.ndim != 3 or frames.shape[2] != 3 or frames.dtype.kind not in "fiu":
        raise DataError(
            f"{source} has an array of shape {frames.shape} and type {frames.dtype}; "
            "expected real numbers (n_frames, n_beads, 3) in Å"
        )
    if topology is not None and frames.shape[1] != topology.n_beads:
        raise DataError(f"{source} has {frames.shape[1]} beads; {topology!r} has {topology.n_beads}")
    if not np.isfinite(frames).all():
        bad = first + int(np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2)))[0])
        raise DataError(f"{source} has coordinates that are not finite (first in frame {bad})")


def load_numpy(path: Path, *, mapped: bool = False) -> Iterator[NDArray[Any]]:
    """Yield the arrays of an npy or npz file; for a selection or a shard, only its ``positions``.

    With ``mapped``, an npy file is memory-mapped.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    try:
        if mapped and path.suffix == ".npy":
            yield np.load(path, mmap_mode="r", allow_pickle=False)
            return
        with open(path, "rb") as handle:  # np.load does not close a damaged archive
            content = np.load(handle, allow_pickle=False)
            if isinstance(content, np.ndarray):
                yield content
                return
            for name in ["positions"] if "positions" in content.files else sorted(content.files):
                yield content[name]
    except BAD_ARCHIVE as error:
        raise DataError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _load_mdtraj(
    path: Path, topology: CGTopology | None, top: str | os.PathLike[str] | None, mapping: Any
) -> NDArray[np.floating]:
    import mdtraj

    check_file(path)
    with _reading(path, top), silent(1):  # the DCD reader of mdtraj prints to standard output
        loaded = mdtraj.load(str(path)) if top is None else mdtraj.load(str(path), top=load_topology(top))
    return to_beads(loaded, topology, mapping, source=str(path))


def iter_mdtraj(
    path: Path, topology: CGTopology | None, top: str | os.PathLike[str] | None, chunk: int
) -> Iterator[NDArray[np.floating]]:
    """Yield the frames of a file in a format of mdtraj as beads in Å, at most ``chunk`` at a time.

    Raises
    ------
    DataError
        See :func:`load_trajectories`.
    """
    import mdtraj

    check_file(path)
    with _reading(path, top), silent(1):
        given = {} if top is None else {"top": load_topology(top)}
        pieces = mdtraj.iterload(str(path), chunk=chunk, **given)
    while True:
        with _reading(path, top), silent(1):
            piece = next(pieces, None)
        if piece is None:
            return
        yield to_beads(piece, topology, source=str(path))


@contextmanager
def _reading(path: Path, top: str | os.PathLike[str] | None) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"trajectory {str(path)!r}: mdtraj needs another package to read {path.suffix}: {error} "
            "(HDF5: pip install 'cgal_plugin[hdf5]')"
        ) from error
    except MappingError as error:
        raise DataError(f"trajectory {str(path)!r}: {error}") from error
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        if top is None and "topology" in reason:
            reason = f"{path.suffix or 'its'} format has no topology; give a topology file too (--top)"
        raise DataError(f"trajectory {str(path)!r} cannot be read: {reason}") from error


def to_beads(
    trajectory: mdtraj.Trajectory,
    topology: CGTopology | None = None,
    mapping: Any = None,
    *,
    source: str = "",
) -> NDArray[np.floating]:
    """Return the frames of an ``mdtraj.Trajectory`` as beads, ``(n, n_beads, 3)`` Å.

    A trajectory of the beads of ``topology`` (by name and residue) is used directly; another one is mapped.

    Raises
    ------
    DataError
        The trajectory cannot be mapped, or its beads differ from ``topology``.
    """
    from cgal_plugin.mapping.maps import CGMapping

    if topology is not None:
        atoms = [(a.name, a.residue.name, a.residue.index) for a in trajectory.topology.atoms]
        beads = zip(topology.bead_names, topology.residue_names, topology.residue_index.tolist(), strict=True)
        if atoms == list(beads):
            xyz: NDArray[np.floating] = trajectory.xyz * ANGSTROM_PER_NM
            return xyz
    chosen = mapping if mapping is not None else "CA" if topology is None else topology.mapping
    try:
        cg = CGMapping.from_topology(trajectory, chosen)
    except MappingError as error:
        raise DataError(f"{source or 'trajectory'} cannot be mapped to beads: {error}") from error
    say_left_out(source or "trajectory", cg.left_out)
    if topology is not None and cg.topology.sequence != topology.sequence:
        found, wanted = cg.topology.sequence, topology.sequence
        raise DataError(
            f"{source or 'trajectory'} is for {found}, not {wanted}"
            + (f". {_BROKEN}" if found.replace(":", "") == wanted.replace(":", "") else "")
        )
    return cg.map_positions(trajectory)
