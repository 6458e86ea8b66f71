"""The check of a potential's file against its checksums; no import of torch."""

from __future__ import annotations

import os
import zipfile

from cgal_plugin.damage import archive_damage
from cgal_plugin.errors import ExportError


def check_potential_file(path: str | os.PathLike[str]) -> None:
    """Check a file of ``export_torchscript`` or ``FastPotential.save``; TorchForce and torch do not.

    A file that is no zip archive is left to the reader, which refuses it.

    Raises
    ------
    ExportError
        The file is damaged.
    """
    damage = archive_damage(path) if zipfile.is_zipfile(path) else None
    if damage is not None:
        raise ExportError(
            f"potential {os.fspath(path)!r} is damaged ({damage}): copy it again, or export it again with "
            "`cgal export`"
        )
