"""Damaged files: find the damage of an archive, and put a damaged file aside."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import IO

from cgal_plugin.provenance import BAD_ARCHIVE

#: folder of the files that were put aside
DAMAGED = "damaged"
#: external attribute of a folder in a zip archive (MS-DOS)
_IS_FOLDER = 0x10
_PIECE = 1 << 20


def archive_damage(source: str | os.PathLike[str] | IO[bytes]) -> str | None:
    """Check each member of a zip archive (``.ckpt``, ``.pt``, ``.npz``) against its CRC-32.

    torch does not check them, and numpy does not if a damaged header makes an array shorter.

    Returns
    -------
    str or None
        What is wrong, or None. An archive without checksums (``torch.serialization.set_crc32_options``) gives
        None and a warning.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            if any(m.file_size for m in members) and not any(m.CRC for m in members):
                name = source if isinstance(source, str | os.PathLike) else archive.filename
                warnings.warn(f"{name} has no checksums: damage cannot be detected", stacklevel=2)
                return None
            for member in members:
                # torch takes such a member for a folder and leaves its tensor uninitialised
                if member.external_attr & _IS_FOLDER and not member.is_dir():
                    return f"{member.filename} is marked as a folder"
                with archive.open(member) as handle:
                    size = sum(len(piece) for piece in iter(lambda: handle.read(_PIECE), b""))
                if size != member.file_size:
                    return f"{member.filename} has {size} bytes, not {member.file_size}"
    except BAD_ARCHIVE as error:
        return str(error) or type(error).__name__
    return None


def check_archive(path: str | os.PathLike[str]) -> None:
    """Check an archive as :func:`archive_damage` does.

    Raises
    ------
    zipfile.BadZipFile
        It is damaged.
    """
    damage = archive_damage(path)
    if damage is not None:
        raise zipfile.BadZipFile(damage)


def set_aside(path: Path, root: Path) -> Path:
    """Move a file or folder below ``root`` to ``root/damaged``, where it is kept; return the new path."""
    target = root / DAMAGED / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in target.parent.glob(f"{target.name}.*"))
    target = target.with_name(f"{target.name}.{number}")
    os.replace(path, target)
    return target
