"""Checks for damage that trajectory readers miss or crash on."""

from __future__ import annotations

import functools
import struct
import subprocess
import sys
from pathlib import Path

from cgal_plugin.errors import DataError
from cgal_plugin.mapping.hdf5_trajectory import HDF5_SUFFIXES

_PIECE = 1 << 24
#: reads what HDF5Trajectory reads; h5py runs no code of the file
_PROBE = f"""
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    for name in ("topology", "coordinates", "time", "cell_lengths", "cell_angles"):
        data = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual:
            data.attrs.get("units")
            rows = max(1, {_PIECE} // max(1, data.nbytes // max(1, len(data)))) if data.ndim else 1
            for begin in range(0, len(data) if data.ndim else 1, rows):
                data[begin : begin + rows] if data.ndim else data[()]
"""


def check_file(path: Path) -> None:
    """Check a DCD or HDF5 trajectory before it is read.

    Raises
    ------
    DataError
        The file is truncated, or reading it would crash the process.
    """
    if path.suffix.lower() == ".dcd":
        _check_dcd(path)
    elif path.suffix.lower() in HDF5_SUFFIXES:
        _check_hdf5(path)


def _check_dcd(path: Path) -> None:
    """Compare the size of a DCD file with its header; the reader of mdtraj does not do this.

    A header may give 0 frames (if the program was killed); the last frame must still be complete. Unknown
    layouts are not checked.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(92)
        order = next((o for o in "<>" if len(head) == 92 and struct.unpack(f"{o}i", head[:4])[0] == 84), None)
        if order is None or head[4:8] != b"CORD":
            return
        numbers = struct.unpack(f"{order}20i", head[8:88])
        frames, fixed, cell, charmm = numbers[0], numbers[8], numbers[10], numbers[19]
        (titles,) = struct.unpack(f"{order}i", handle.read(4).ljust(4, b"\0"))
        if fixed or not 0 <= titles < size or not charmm:
            return
        handle.seek(92 + 4 + titles + 4)
        block = handle.read(12)
        if len(block) < 12:
            raise DataError(f"{path} is truncated in its header")
        length, atoms, _ = struct.unpack(f"{order}3i", block)
        begin = handle.tell()
    if length != 4 or not 0 < atoms < size:
        return
    each = 3 * (4 * atoms + 8) + (56 if cell else 0)
    there, rest = divmod(size - begin, each)
    if rest or (frames > 0 and there < frames):
        raise DataError(
            f"{path} is truncated: its header says {frames} frames of {atoms} atoms, the file has {there}"
            + (" and a part of another" if rest else "")
        )


def _check_hdf5(path: Path) -> None:
    status = path.stat()
    _probe_hdf5(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _probe_hdf5(path: Path, size: int, mtime_ns: int) -> None:
    """Read the file in another process first, since the HDF5 library can crash on a damaged file.

    ``-P``: modules are not imported from the working directory, which may be that of a foreign file.
    """
    probe = subprocess.run([sys.executable, "-P", "-c", _PROBE, str(path)], capture_output=True)
    if probe.returncode < 0:
        raise DataError(f"{path} is damaged: reading it crashes the HDF5 library")
