"""Frames that are kept back from training: start structures of the model test.

Frames of one trajectory are correlated. Therefore the end of each shard is reserved, and the frames just
before it (:data:`GAP_PS`) are left out: they are neither trained on nor used as starts. The frames are kept
in the folder ``reserved`` of the data store, which is not a shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.data.shard_files import ShardFile, read_frames, verify_bytes
from cgal_plugin.data.store import DataStore
from cgal_plugin.errors import DataError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write, hash_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.frames import LabelledFrames

#: folder of a data store, one file per shard
RESERVED = "reserved"
#: share of the frames of each shard that is reserved
SHARE = 0.1
#: ps that are left out between the training data and the reserved frames; at most as many as are reserved
GAP_PS = 1.0
#: shards with fewer frames are reserved as a whole, one of 1 / SHARE of them
_WHOLE = 20


def divide(n_frames: int, save_ps: float | None) -> tuple[int, int]:
    """Divide ``n_frames`` frames in time order into those for training, those left out, those reserved.

    Parameters
    ----------
    save_ps
        Time between frames, ps; None: unknown.

    Returns
    -------
    Number of frames for training, and index of the first reserved one.
    """
    reserved = round(SHARE * n_frames)
    gap = reserved if not save_ps else min(reserved, math.ceil(GAP_PS / save_ps - 1e-9))
    return n_frames - reserved - gap, n_frames - reserved


@dataclass(frozen=True, eq=False)
class Withheld:
    """Frames that are not in the shards of a store.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å: reserved frames, and those left out because they are correlated with them.
    reserved
        ``(n,)`` bool.
    """

    positions: NDArray[np.float32]
    reserved: NDArray[np.bool_]

    @property
    def starts(self) -> NDArray[np.float32]:
        """``(n, n_beads, 3)`` Å: the reserved frames."""
        return self.positions[self.reserved]

    @classmethod
    def read(cls, store: DataStore) -> Withheld:
        """Read the frames of a store; none if it has no such folder.

        Raises
        ------
        DataError
            A file is damaged.
        """
        positions = [np.zeros((0, store.topology.n_beads, 3), dtype=np.float32)]
        reserved = [np.zeros(0, dtype=bool)]
        for path in sorted((store.root / RESERVED).glob("[!.]*.npz")):
            try:
                check_archive(path)
                with np.load(path, allow_pickle=False) as data:
                    positions.append(data["positions"])
                    reserved.append(data["reserved"])
            except BAD_ARCHIVE as error:
                raise DataError(
                    f"{path} is damaged ({error}): it holds frames that are kept back for the starts of the "
                    "model test. Restore it from a copy, or delete it to do without its frames"
                ) from error
        return cls(np.concatenate(positions), np.concatenate(reserved))


class ReservingStore(DataStore):
    """A data store that keeps back frames of what is added to it.

    Shards with few frames, such as single labels, are kept back as a whole: about a tenth of them, by their
    names, but never the first shard of a store.
    """

    def append(self, name: str, frames: LabelledFrames, *, source: str, **facts: Any) -> None:
        """Add one shard without the frames that are kept back; see :meth:`DataStore.append`."""
        kept, withheld, reserved = self._divide(name, frames)
        if len(withheld):
            with atomic_write(self.root / RESERVED / f"{name}.npz") as handle:
                np.savez(
                    handle,
                    positions=np.asarray(frames.positions[withheld], dtype=np.float32),
                    reserved=reserved,
                )
            facts |= {"n_reserved": int(reserved.sum()), "n_left_out": int((~reserved).sum())}
            frames = _rows(frames, kept)
        if len(kept):
            super().append(name, frames, source=source, **facts)

    def adopt(self, name: str, shard: ShardFile, *, source: str, **facts: Any) -> None:
        """Add a shard that is already on disk; see :meth:`append`."""
        verify_bytes(shard.path, shard.sha256)
        record = {"metadata": shard.metadata, "quarantined": [vars(q) for q in shard.quarantined]}
        self.append(name, read_frames(shard.path, record), source=source, **facts)
        shard.path.unlink()

    def _divide(
        self, name: str, frames: LabelledFrames
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows of the shard, the rows that are kept back, and which of these are reserved."""
        n, none = len(frames), np.zeros(0, dtype=np.int64)
        if n < _WHOLE:
            chosen = int(hash_object(name)[:8], 16) % round(1 / SHARE) == 0
            if chosen and n and self.names():
                return none, np.arange(n), np.ones(n, dtype=bool)
            return np.arange(n), none, none.astype(bool)
        save_ps = frames.metadata.get("save_ps")
        n_kept, first = divide(n, float(save_ps) if save_ps else None)
        # block by block: the frames of a block are correlated, in whatever order the rows are
        order = np.argsort(frames.block, kind="stable")
        return np.sort(order[:n_kept]), order[n_kept:], np.arange(n_kept, n) >= first


def _rows(frames: LabelledFrames, rows: NDArray[np.int64]) -> LabelledFrames:
    names = ("positions", "forces", "frame_index", "start_index", "force_error")
    arrays: dict[str, Any] = {name: np.asarray(getattr(frames, name))[rows] for name in names}
    return replace(frames, **arrays)


def copy_withheld(source: DataStore, target: Path) -> bool:
    """Copy the frames that a store has kept back to the store ``target``; return whether there are any."""
    found = sorted((source.root / RESERVED).glob("[!.]*.npz"))
    for path in found:
        with atomic_write(target / RESERVED / path.name) as handle:
            handle.write(path.read_bytes())
    return bool(found)
