"""The portable form of an exported potential: one npz file without pickle or TorchScript.

It holds the weights, the prior terms, the tables of the engines, and as JSON the topology and metadata. To
read it needs torch, but neither TorchMD-Net nor Lightning. It is for any number of replicas.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.errors import ExportError
from cgal_plugin.export.potential_file import check_potential_file
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.export.forms import Potential
    from cgal_plugin.export.tables import FilterTable

FORMAT = "cgal_plugin portable potential"
#: continues the numbers of FastPotential.save, which are 1 and 2
FORMAT_VERSION = 3
#: the array with the JSON
_JSON = "portable"
_TABLE = "table"
#: the earliest time that zip can store: a file depends on its content only
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class PortableFile:
    """Content of a file.

    Attributes
    ----------
    arrays, form
        See :func:`cgal_plugin.export.module_arrays.to_arrays`.
    metadata
        Topology, units, temperature, versions and others, as in a TorchScript file; no number of replicas.
    """

    arrays: dict[str, NDArray[Any]]
    form: dict[str, Any]
    metadata: dict[str, Any]
    name: str

    def table(self) -> tuple[FilterTable, float] | None:
        """Return the table of the filters and its force error; None if the file has none."""
        if _TABLE not in self.arrays:
            return None
        from cgal_plugin.export.tables import EVEN_SHARE, FilterTable

        described = self.form["table"]
        if described["even_share"] != EVEN_SHARE:
            return None  # of another coordinate; engines build their own
        ends = (described[key] for key in ("lower", "upper", "decay"))
        return FilterTable(np.asarray(self.arrays[_TABLE], dtype=np.float64), *ends), described["error"]

    def module(self, n_replicas: int = 1, dtype: str | None = None) -> Potential:
        """Return the potential; it uses tables if the export did. ``dtype``: default that of the file.

        Raises
        ------
        ExportError
            The content is inconsistent, or ``n_replicas`` or ``dtype`` is invalid.
        """
        import torch

        from cgal_plugin.export.module_arrays import from_arrays
        from cgal_plugin.export.tables import TableFilters

        if isinstance(n_replicas, bool) or not isinstance(n_replicas, int | np.integer) or n_replicas < 1:
            raise ExportError(f"n_replicas is {n_replicas!r}; it must be a positive integer")
        if dtype not in (None, "float32", "float64"):
            raise ExportError(f"unknown dtype {dtype!r}; use 'float32', 'float64' or None")
        form = self.form if dtype is None else {**self.form, "dtype": dtype}
        try:
            made = from_arrays(self.arrays, form, int(n_replicas))
            table = self.table() if self.metadata.get("filters") == "table" else None
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ExportError(
                f"potential {self.name!r} is inconsistent ({error}): export it again"
            ) from error
        if table is not None:
            network = made.network
            network.exact = cast("Any", network.filters)
            network.filters = TableFilters(table[0], getattr(torch, form["dtype"]))
        return made


def is_portable_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a portable potential, by its content."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_JSON}.npy" in archive.namelist()
    except BAD_ARCHIVE:
        return False  # its reader names the damage


def save_portable(
    potential: Any,
    path: str | os.PathLike[str],
    metadata: dict[str, Any],
    table: tuple[FilterTable, float] | None = None,
) -> dict[str, Any]:
    """Write a potential, scripted or not; atomically. Equal content gives equal bytes.

    Parameters
    ----------
    potential
        Module of :func:`cgal_plugin.export.potential.potential_module`, or of a file.
    metadata
        As in a TorchScript file; values that JSON can store.
    table
        Table of its filters, and the force error of the table.

    Returns
    -------
    dict
        The metadata in the file.
    """
    from cgal_plugin.export.module_arrays import to_arrays
    from cgal_plugin.export.tables import EVEN_SHARE

    arrays, form = to_arrays(potential)
    if table is not None:
        found, error = table
        arrays[_TABLE] = found.coefficients
        ends = {"lower": found.lower, "upper": found.upper, "decay": found.decay}
        form["table"] = {**ends, "even_share": EVEN_SHARE, "error": error}
    own = {"format": FORMAT, "format_version": FORMAT_VERSION}
    # the file is for any number of replicas
    metadata = {key: value for key, value in metadata.items() if key != "n_replicas"} | own
    content = {"metadata": metadata, "form": form}
    text = np.frombuffer(json.dumps(content, sort_keys=True).encode(), dtype=np.uint8)
    with atomic_write(path) as handle:
        _write_npz(handle, {_JSON: text, **dict(sorted(arrays.items()))})
    return metadata


def read_portable(path: str | os.PathLike[str]) -> PortableFile:
    """Read a file of :func:`save_portable`.

    Raises
    ------
    ExportError
        The file is missing, damaged, of a later version, or of another kind.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise ExportError(f"potential {name!r} does not exist")
    check_potential_file(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        content = json.loads(arrays.pop(_JSON).tobytes())
        metadata, form = dict(content["metadata"]), dict(content["form"])
    except BAD_ARCHIVE as error:
        raise ExportError(f"{name!r} is not a portable potential: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("format_version") != FORMAT_VERSION:
        raise ExportError(
            f"{name!r} has format {metadata.get('format')!r} {metadata.get('format_version')!r}; this "
            f"version reads {FORMAT!r} {FORMAT_VERSION}: export it again with this version, or read it "
            f"with that which wrote it (cgal_plugin {metadata.get('versions', {}).get('cgal_plugin')})"
        )
    return PortableFile(arrays, form, metadata, name)


def load_portable(
    path: str | os.PathLike[str], n_replicas: int = 1, dtype: str | None = None
) -> tuple[Potential, dict[str, Any]]:
    """Return the potential of a file for a number of replicas, and its metadata.

    Raises
    ------
    ExportError
        See :func:`read_portable` and :meth:`PortableFile.module`.
    """
    file = read_portable(path)
    return file.module(n_replicas, dtype), file.metadata


def _write_npz(handle: IO[bytes], arrays: dict[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _TIME), buffer.getvalue())
