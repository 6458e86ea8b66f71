"""Files of the fast engine: arrays and metadata in one npz without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.errors import ExportError
from cgal_plugin.export.potential_file import check_potential_file
from cgal_plugin.provenance import BAD_ARCHIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "cgal_plugin fast potential"
FORMAT_VERSION = 2
#: files of version 1 have no pair series and are otherwise identical
_READ = (1, 2)


def read_fast_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the metadata of a file of :meth:`FastPotential.save`; None for another kind of file."""
    return read_fast_file(path)[1] if is_fast_file(path) else None


def is_fast_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file was written by ``FastPotential.save``, by its content."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "metadata.npy" in archive.namelist()
    except BAD_ARCHIVE:
        return False  # its reader names the damage


def read_fast_file(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays and metadata of a file of ``FastPotential.save``.

    Raises
    ------
    ExportError
        The file is damaged or of another version.
    """
    check_potential_file(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        metadata = cast("dict[str, Any]", json.loads(arrays.pop("metadata").tobytes()))
    except BAD_ARCHIVE as error:
        raise ExportError(f"{str(path)!r} was not written by FastPotential.save: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("format_version") not in _READ:
        raise ExportError(
            f"{str(path)!r} has format {metadata.get('format')!r} {metadata.get('format_version')!r}; "
            f"this version reads {FORMAT!r} {' and '.join(map(str, _READ))}: rebuild it"
        )
    return arrays, metadata
