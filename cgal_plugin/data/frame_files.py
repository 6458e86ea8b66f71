"""Frames on disk that are read piece by piece: sets that are larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.store import DataStore
from cgal_plugin.data.trajectories import check_frames, iter_mdtraj, load_numpy
from cgal_plugin.errors import DataError
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

    Source = str | os.PathLike[str] | DataStore

_PIECE = 65536
_NUMPY = (".npy", ".npz")


class FrameFiles:
    """Frames of files and data stores, in order; what is in memory at a time is one shard.

    Iteration gives ``(n, n_beads, 3)`` arrays in Å and can be repeated. Files and shards are those
    that are there when the object is made.

    Parameters
    ----------
    sources
        One or several of: a ``.npy`` file (memory-mapped), an ``.npz`` file (one array at a time;
        of a selection or a shard the ``positions``), a :class:`DataStore` or its folder (one shard at
        a time), another folder (its ``.npy`` and ``.npz`` files by name), a format of mdtraj's.
    topology
        What the beads have to be; None takes what is there.
    top
        Topology file of formats that have none (DCD, XTC).
    unit
        Of ``.npy`` and ``.npz`` files, ``"angstrom"`` or ``"nm"``. Stores and mdtraj's formats have
        their own.

    Raises
    ------
    DataError
        A source is missing or holds nothing; while iterating: it cannot be read, is damaged, has
        frames that are not finite, or other beads than ``topology``.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        topology: CGTopology | None = None,
        *,
        top: str | os.PathLike[str] | None = None,
        unit: str = "angstrom",
    ) -> None:
        one = isinstance(sources, str | os.PathLike | DataStore)
        self.topology = topology
        self.top = top
        self.unit = unit
        self._shards: list[tuple[DataStore, str] | Path] = []
        for source in [sources] if one else sources:
            self._shards += _shards(source)
        if not self._shards:
            raise DataError("no frames given")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._shards)} shards)"

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        for shard in self._shards:
            if isinstance(shard, tuple):
                store, name = shard
                pieces: Iterator[Any] = iter([store.load(name).positions])
                label = f"shard {name!r} of {store.root}"
            elif shard.suffix in _NUMPY:
                pieces, label = self._numpy(shard), str(shard)
            else:
                pieces, label = iter_mdtraj(shard, self.topology, self.top, _PIECE), str(shard)
            first = 0
            for piece in pieces:
                check_frames(piece, label, self.topology, first)
                first += len(piece)
                if len(piece):
                    yield piece
            if first == 0:
                raise DataError(f"{label} has no frames")

    def _numpy(self, path: Path) -> Iterator[NDArray[Any]]:
        for array in load_numpy(path, mapped=True):
            if array.ndim != 3 or array.dtype.kind not in "fiu":
                yield array  # for the check to refuse
                continue
            for lo in range(0, len(array), _PIECE):
                yield as_angstrom(array[lo : lo + _PIECE], self.unit)


def _shards(source: Source) -> list[tuple[DataStore, str] | Path]:
    if not isinstance(source, DataStore):
        path = Path(source)
        if not path.exists():
            raise DataError(f"{str(path)!r} does not exist")
        if not path.is_dir():
            return [path]
        if not (path / "store.json").is_file():
            files = sorted(p for p in path.iterdir() if p.suffix in _NUMPY and not p.name.startswith("."))
            if not files:
                raise DataError(f"{str(path)!r} is no data store and has no .npy or .npz file")
            return list(files)
        source = DataStore(path)
    names = source.names()
    if not names:
        raise DataError(f"data store {source.root} has no frames yet")
    return [(source, name) for name in names]
