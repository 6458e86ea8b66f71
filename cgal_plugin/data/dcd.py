"""DCD trajectories that can be truncated after any frame, so that an interrupted run resumes exactly.

CHARMM layout without unit cell and time stamp: the bytes depend on the frames only, so equal frames give
equal files. Frame records have a fixed size: frame ``i`` is at ``header + i * frame``.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cgal_plugin.errors import DynamicsError, StateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: one AKMA time unit in ps, the unit of the header's time step
AKMA_PS = 0.04888821
_HEADER_BYTES = 196
_TITLE = b"Coarse-grained trajectory of cgal_plugin, lengths in Angstrom".ljust(80)


def _frame_dtype(n_beads: int) -> np.dtype[np.void]:
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = []
    for axis in "xyz":
        fields += [(f"{axis}_head", "<i4"), (axis, "<f4", (n_beads,)), (f"{axis}_tail", "<i4")]
    return np.dtype(fields)


def _header(n_frames: int, n_beads: int, interval: int, timestep_ps: float) -> bytes:
    counts = struct.pack("<4i", n_frames, interval, interval, n_frames * interval)
    delta = struct.pack("<f", timestep_ps / AKMA_PS)
    control = counts + bytes(20) + delta + bytes(36) + struct.pack("<i", 24)
    return (
        struct.pack("<i4s", 84, b"CORD")
        + control
        + struct.pack("<3i", 84, 84, 1)
        + _TITLE
        + struct.pack("<4i", 84, 4, n_beads, 4)
    )


def create_dcd(path: str | os.PathLike[str], n_beads: int, *, interval: int, timestep_ps: float) -> None:
    """Write an empty trajectory of ``n_beads`` beads; an existing file is replaced.

    Parameters
    ----------
    interval
        Steps between frames; the first frame is step ``interval``.
    timestep_ps
        Integration time step, ps.
    """
    Path(path).write_bytes(_header(0, n_beads, interval, timestep_ps))


def append_dcd(
    path: str | os.PathLike[str],
    frames: NDArray[np.floating],
    *,
    n_before: int,
    interval: int,
    timestep_ps: float,
    checksum: int = 0,
) -> int:
    """Truncate the trajectory to ``n_before`` frames and append ``frames``.

    Parameters
    ----------
    frames
        ``(n, beads, 3)`` floating, Å (stored as float32); with ``n = 0`` the file is only truncated.
    n_before
        Frames of the file to keep.
    checksum
        CRC-32 of the records of these frames.

    Returns
    -------
    int
        CRC-32 of the records of all frames.

    Raises
    ------
    StateError
        The file has fewer than ``n_before`` frames.
    """
    n, n_beads, _ = frames.shape
    dtype = _frame_dtype(n_beads)
    block = np.zeros(n, dtype=dtype)
    for k, axis in enumerate("xyz"):
        block[f"{axis}_head"] = block[f"{axis}_tail"] = 4 * n_beads
        block[axis] = frames[:, :, k]
    keep = _HEADER_BYTES + n_before * dtype.itemsize
    with open(path, "r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size < keep:
            raise StateError(
                f"trajectory {os.fspath(path)!r} has {size} bytes; {n_before} frames of {n_beads} beads "
                f"need {keep}: it was modified after its checkpoint"
            )
        handle.truncate(keep)
        handle.seek(keep)
        handle.write(block.tobytes())
        # last, so that the frame count of a growing file never exceeds its frames
        handle.seek(0)
        handle.write(_header(n_before + n, n_beads, interval, timestep_ps))
    return zlib.crc32(block.tobytes(), checksum)


def checksum_dcd(path: str | os.PathLike[str], n_frames: int) -> int:
    """Return the CRC-32 of the records of the first ``n_frames`` frames, as :func:`append_dcd` does.

    Raises
    ------
    DynamicsError
        The file is not such a trajectory, or is too short.
    """
    with open(path, "rb") as handle:
        _, n_beads = _read_header(handle)
        left, found = n_frames * _frame_dtype(n_beads).itemsize, 0
        while left > 0 and (piece := handle.read(min(left, 1 << 24))):
            found = zlib.crc32(piece, found)
            left -= len(piece)
    if left > 0:
        raise DynamicsError(f"trajectory {os.fspath(path)!r} ends before its frame {n_frames}")
    return found


def read_dcd(path: str | os.PathLike[str], n_frames: int | None = None) -> NDArray[np.float32]:
    """Return the frames of a trajectory of this module: ``(n, beads, 3)`` float32, Å, exactly as stored.

    Parameters
    ----------
    n_frames
        Read only the first ``n_frames``; default: the frame count of the header.

    Raises
    ------
    DynamicsError
        The file is missing, is not such a trajectory, or is too short.
    """
    file = Path(path)
    if not file.is_file():
        raise DynamicsError(f"trajectory {str(file)!r} does not exist")
    with file.open("rb") as handle:
        counted, n_beads = _read_header(handle)
        wanted = counted if n_frames is None else n_frames
        records = np.fromfile(handle, dtype=_frame_dtype(n_beads), count=wanted)
    if len(records) < wanted:
        raise DynamicsError(f"trajectory {str(file)!r} ends before its frame {wanted}")
    return np.stack([records[axis] for axis in "xyz"], axis=-1)


def _read_header(handle: BinaryIO) -> tuple[int, int]:
    """Return the numbers of frames and beads."""
    header = handle.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[4:8] != b"CORD" or header[100:180] != _TITLE:
        raise DynamicsError(f"{handle.name!r} is not a trajectory of cgal_plugin; read it with mdtraj")
    return struct.unpack_from("<i", header, 8)[0], struct.unpack_from("<i", header, 188)[0]
