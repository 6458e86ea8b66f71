"""Frames on disk, read in parts, for sets that are larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cgal_plugin.data.arrays import is_frames, is_numpy, load_numpy, natural_key
from cgal_plugin.data.bond_lengths import NO_CELL, check_bonds
from cgal_plugin.data.store import DataStore
from cgal_plugin.data.trajectories import OWN_UNIT, UNIT_REMEDY, check_frames, iter_mdtraj, made_whole, tell
from cgal_plugin.errors import DataError
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

    Source: TypeAlias = str | os.PathLike[str] | DataStore

_PIECE = 65536


class FrameFiles:
    """Frames of files and data stores, in order, with at most one shard in memory.

    Iteration yields ``(n, n_beads, 3)`` arrays in Å and can be repeated. Files and shards that are
    added later are not read.

    Parameters
    ----------
    sources
        One or more of: a ``.npy`` file (memory-mapped), an ``.npz`` file (one array at a time; only
        the ``positions`` of a selection or a shard), a :class:`DataStore` or its folder (one shard at
        a time), another folder (its ``.npy`` and ``.npz`` files by name), a format of mdtraj.
    topology
        Expected beads; None accepts any, and bonds are not checked.
    top
        Topology file for formats without one (DCD, XTC).
    unit
        Length unit of ``.npy`` and ``.npz`` files, ``"angstrom"`` or ``"nm"``.
    shards
        Of data stores, only these shards (default: all).

    Raises
    ------
    DataError
        A source or shard is missing or empty. During iteration: a source cannot be read, is damaged, has
        frames that are not finite, has other beads than ``topology``, or has impossible bonds (see
        :func:`~cgal_plugin.data.trajectories.read_trajectories`).
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        topology: CGTopology | None = None,
        *,
        top: str | os.PathLike[str] | None = None,
        unit: str = "angstrom",
        shards: Sequence[str] | None = None,
    ) -> None:
        self.topology = topology
        self.top = top
        self.unit = unit
        self._told: set[str] = set()
        self._shards: list[tuple[DataStore, str] | Path] = []
        listed: Sequence[Source] = (
            [sources] if isinstance(sources, str | os.PathLike | DataStore) else sources
        )
        for source in listed:
            self._shards += _shards(source, shards)
        if not self._shards:
            raise DataError("no frames given")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._shards)} shards)"

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        for shard in self._shards:
            first = whole = 0
            label = str(shard) if isinstance(shard, Path) else f"shard {shard[1]!r} of {shard[0].root}"
            arrays = isinstance(shard, Path) and is_numpy(shard)
            for piece, n_moved, remedy in self._pieces(shard):
                check_frames(piece, label, self.topology, first)
                if self.topology is not None:
                    unit = UNIT_REMEDY if arrays else OWN_UNIT
                    check_bonds(piece, self.topology, label, first=first, unit_remedy=unit, remedy=remedy)
                first += len(piece)
                whole += n_moved
                if len(piece):
                    yield piece
            if first == 0:
                raise DataError(f"{label} has no frames")
            if label not in self._told:
                self._told.add(label)
                tell(made_whole(label, whole, first))

    def _pieces(self, shard: tuple[DataStore, str] | Path) -> Iterator[tuple[NDArray[Any], int, str]]:
        """Yield frames, the number of them that were made whole, and the remedy for broken frames."""
        if isinstance(shard, tuple):
            store, name = shard
            yield store.positions([name]), 0, NO_CELL
        elif is_numpy(shard):
            for _, array in load_numpy(shard, mapped=True):
                if not is_frames(array):
                    yield array, 0, NO_CELL  # refused by the check
                    continue
                for lo in range(0, len(array), _PIECE):
                    yield as_angstrom(array[lo : lo + _PIECE], self.unit), 0, NO_CELL
        else:
            yield from iter_mdtraj(shard, self.topology, self.top, _PIECE)


def _shards(source: Source, shards: Sequence[str] | None) -> list[tuple[DataStore, str] | Path]:
    if not isinstance(source, DataStore):
        path = Path(source)
        if not path.exists():
            raise DataError(f"{str(path)!r} does not exist")
        if not path.is_dir():
            return [path]
        if not (path / "store.json").is_file():
            files = sorted(
                (p for p in path.iterdir() if is_numpy(p) and not p.name.startswith(".")),
                key=lambda p: natural_key(p.name),
            )
            if not files:
                raise DataError(f"{str(path)!r} is not a data store and has no .npy or .npz file")
            return list(files)
        source = DataStore(path)
    names = source.names() if shards is None else list(shards)
    if not names:
        raise DataError(f"data store {source.root} has no frames yet")
    return [(source, name) for name in names]
