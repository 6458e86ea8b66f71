"""Reading of exported potentials, whatever their form; nothing here needs TorchMD-Net."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import ExportError
from cgal_plugin.export.fast_file import read_fast_metadata
from cgal_plugin.export.portable import is_portable_file, read_portable, save_portable
from cgal_plugin.export.script_check import METADATA_FILE, read_script_metadata
from cgal_plugin.export.script_file import load_script

if TYPE_CHECKING:
    from torch import nn

    from cgal_plugin.export.tables import FilterTable
    from cgal_plugin.mapping.topology import CGTopology


@contextmanager
def differentiable() -> Iterator[None]:
    """Compute gradients, also inside ``torch.no_grad()`` and ``torch.inference_mode()`` of the caller."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of an exported potential: beads, replicas, topology, units, temperature, hashes.

    A portable file is for any number of replicas and has no ``n_replicas``. No code of the file is run.

    Raises
    ------
    ExportError
        The file is missing, damaged, or was not written by :func:`export_potential` or
        ``FastPotential.save``.
    """
    if is_portable_file(path):
        return read_portable(path).metadata
    saved = read_fast_metadata(_existing(path))
    return _known(path, read_script_metadata(path)) if saved is None else saved


def load_exported(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the module and the metadata of a TorchScript or portable file; raises as :func:`load_metadata`.

    The module of a portable file is for one replica.
    """
    if is_portable_file(path):
        file = read_portable(path)
        with differentiable():
            return file.module(), file.metadata
    module, metadata = load_script(_existing(path))
    return module, _known(path, metadata)


def _existing(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not Path(path).is_file():
        raise ExportError(f"potential {str(path)!r} does not exist")
    return path


def _known(path: str | os.PathLike[str], metadata: dict[str, Any]) -> dict[str, Any]:
    if not metadata:
        raise ExportError(
            f"{str(path)!r} has no {METADATA_FILE}: it was not written by cgal_plugin's export_potential"
        )
    return metadata


def load_for_engine(
    path: str | os.PathLike[str],
) -> tuple[Any, dict[str, Any], tuple[FilterTable, float] | None]:
    """Return the float64 module of a file with its exact filters, its metadata, and a table if it has one.

    The number that comes with the table is its force error; an engine that needs a smaller one makes its own
    by :func:`cgal_plugin.export.tables.choose_table`. Parameters keep the precision of the file.

    Raises
    ------
    ExportError
        See :func:`load_metadata`; or the file has no CGSchNet.
    """
    if is_portable_file(path):
        file = read_portable(path)
        with differentiable():
            return file.module(dtype="float64"), file.metadata, file.table()
    module, metadata = load_exported(path)
    if not hasattr(module, "network"):
        raise ExportError(
            f"{str(path)!r} contains no CGSchNet to tabulate; use a file of export_potential or a checkpoint"
        )
    with differentiable():
        return module.double(), metadata, None


def convert_potential(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    topology: CGTopology | None = None,
    *,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Write an exported TorchScript file in the portable form, without its model; return the metadata.

    Energies and forces of the Python force are the same, to the last bit in float64.

    Parameters
    ----------
    topology, temperature
        Compared with those of the file; the temperature (K) is recorded if the file has none.

    Raises
    ------
    ExportError
        The source cannot be read, was not written by :func:`export_potential`, or is for another molecule or
        temperature.
    """
    from cgal_plugin.export.probes import probe_frames
    from cgal_plugin.export.tables import choose_table, stored_table
    from cgal_plugin.mapping.topology import CGTopology

    if is_portable_file(source):
        raise ExportError(f"potential {os.fspath(source)!r} has the portable form already: copy it")
    module, metadata = load_exported(source)
    if not hasattr(module, "network"):
        raise ExportError(f"{os.fspath(source)!r} was not written by export_potential: it has no CGSchNet")
    name = os.fspath(source)
    if topology is not None and topology.hash != metadata["topology_hash"]:
        raise ExportError(f"potential {name!r} was exported for another molecule than {topology!r}")
    known = same_temperature(
        metadata.get("temperature"),
        temperature,
        f"potential {name!r}",
        "the argument temperature",
        ExportError,
    )
    metadata = {**metadata, "temperature": known}
    network: Any = module.network
    with differentiable():
        own = stored_table(network)
        table = None if own is None else (own, float(metadata["table_error"]))
        if table is None and getattr(network, "embedding", None) is None:
            exact: Any = load_for_engine(source)[0]
            frames = probe_frames(exact, CGTopology.from_dict(metadata["topology"], name))
            try:
                table = choose_table(exact.network, metadata.get("table_tolerance", 1e-6), frames)
            except ExportError as reason:
                metadata = {**metadata, "no_table": str(reason)}
        return save_portable(module, path, metadata, table)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has one of the forms of an exported potential, by its content."""
    from cgal_plugin.export.fast_file import is_fast_file
    from cgal_plugin.models.torch_files import is_script

    try:
        return is_portable_file(path) or is_fast_file(path) or is_script(path)
    except (OSError, zipfile.BadZipFile):
        return False  # its reader names the damage
