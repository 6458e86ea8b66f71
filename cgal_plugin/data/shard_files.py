"""Arrays of one shard on disk: written atomically, verified by SHA-256 once per process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.frames import LabelledFrames, Quarantined
from cgal_plugin.errors import DataError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write, hash_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNREADABLE: tuple[type[Exception], ...] = (DataError, *BAD_ARCHIVE)
#: files that were verified in this process: path -> (inode, size, times of change, SHA-256)
_verified: dict[str, tuple[int | str, ...]] = {}
#: a file that changed less than this time (ns) before it was verified may change again within the clock
#: resolution of the file system, undetected: it is verified again the next time
_SETTLED = 2_000_000_000


@dataclass(frozen=True)
class ShardFile:
    """A shard's arrays on disk, outside a store, with the facts for its record.

    Attributes
    ----------
    path
        The ``.npz`` file.
    sha256
        SHA-256 of its bytes.
    n_frames, n_beads
        Its size.
    metadata, quarantined
        Metadata and quarantined frames of the labels.
    """

    path: Path
    sha256: str
    n_frames: int
    n_beads: int
    metadata: Mapping[str, Any]
    quarantined: Sequence[Quarantined]

    @classmethod
    def write(cls, path: Path, frames: LabelledFrames) -> ShardFile:
        """Write frames, atomically."""
        with atomic_write(path) as handle:
            np.savez(
                handle,
                positions=np.asarray(frames.positions, dtype=np.float32),
                forces=np.asarray(frames.forces, dtype=np.float32),
                frame_index=np.asarray(frames.frame_index, dtype=np.int64),
                start_index=np.asarray(frames.start_index, dtype=np.int64),
                force_error=np.asarray(frames.force_error, dtype=np.float32),
            )
        size = len(frames), frames.positions.shape[1]
        return cls(path, hash_file(path), *size, dict(frames.metadata), tuple(frames.quarantined))


def verify_bytes(path: Path, sha256: str | None) -> None:
    """Check a file against its SHA-256.

    The file is hashed once per process, and again after it was replaced or modified (other inode, size,
    modification or change time).

    Raises
    ------
    DataError
        The file is missing or its bytes have changed.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        raise DataError(
            f"shard {path} does not exist but its record does; delete the record to label again"
        ) from None
    key = str(path.absolute())
    now = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, sha256 or "")
    if _verified.get(key) == now:
        return
    begin = time.time_ns()
    if hash_file(path) != sha256:
        raise DataError(f"shard {path} is damaged: its SHA-256 differs from the recorded one")
    if max(state.st_mtime_ns, state.st_ctime_ns) < begin - _SETTLED:
        _verified[key] = now


def read_frames(path: Path, record: Mapping[str, Any]) -> LabelledFrames:
    """Read all arrays of a verified shard.

    Raises
    ------
    DataError
        The arrays are malformed.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return LabelledFrames(
                **{k: arrays[k] for k in arrays.files},
                quarantined=tuple(Quarantined(**q) for q in record["quarantined"]),
                metadata=record["metadata"],
            )
    except _UNREADABLE as error:
        raise DataError(f"shard {path} cannot be used: {error}") from error


def read_positions(path: Path) -> NDArray[np.float32]:
    """Read only the positions of a verified shard, ``(n, n_beads, 3)`` Å.

    Raises
    ------
    DataError
        The array is malformed.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            positions: NDArray[np.float32] = arrays["positions"]
    except BAD_ARCHIVE as error:
        raise DataError(f"shard {path} cannot be used: {error}") from error
    if not np.isfinite(positions).all():
        raise DataError(f"shard {path} cannot be used: its positions are not finite")
    return positions
