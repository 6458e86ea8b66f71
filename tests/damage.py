"""Damage to files: what disks, memory and transfers do to them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def flip_bit(path: Path, bit: int) -> None:
    """Turn one bit of a file, counted from its start."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flip(path: Path) -> None:
    """Turn one bit in the middle."""
    flip_bit(path, 8 * (path.stat().st_size // 2))


def cut(path: Path) -> None:
    """Cut the second half off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Remove the content."""
    path.write_bytes(b"")


def member_start(path: Path, name: str) -> int:
    """Return the offset of the data of a member of a zip archive; ``name`` is the end of its name."""
    with zipfile.ZipFile(path) as archive:
        (found,) = (m for m in archive.infolist() if m.filename.endswith(name))
    header = path.read_bytes()[found.header_offset :]
    return (
        found.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def flip_weight(path: Path) -> None:
    """Turn the highest bit of the mantissa of the first number of the largest stored member: a weight."""
    with zipfile.ZipFile(path) as archive:
        stored = (m for m in archive.infolist() if m.compress_type == zipfile.ZIP_STORED)
        largest = max((m for m in stored if "data/" in m.filename), key=lambda m: m.file_size)
    flip_bit(path, 8 * (member_start(path, largest.filename) + 2) + 6)
