"""What the file of a potential records, and whether it fits a System."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.mapping.embedding import check_same_embedding, recorded_embedding
from cgal_plugin.units import POTENTIAL_UNITS

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology


def read_metadata(potential: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of an exported file; empty for a TorchScript file without metadata.

    No code of the file is run.

    Raises
    ------
    DynamicsError
        The file is missing, damaged, or no exported potential.
    """
    path = Path(potential)
    if not path.is_file():
        raise DynamicsError(f"potential {str(path)!r} does not exist; make it with `cgal export`")
    from cgal_plugin.export.fast_file import read_fast_metadata
    from cgal_plugin.export.portable import is_portable_file, read_portable
    from cgal_plugin.export.script_check import read_script_metadata

    try:
        if is_portable_file(path):
            return read_portable(path).metadata
        saved = read_fast_metadata(path)
        return read_script_metadata(path) if saved is None else saved
    except ExportError as error:
        raise DynamicsError(str(error)) from error


def only_fast(metadata: dict[str, Any]) -> bool:
    """Return whether a file was written by ``FastPotential.save``, so that only that engine reads it."""
    return "engine_error" in metadata


def is_portable(metadata: dict[str, Any]) -> bool:
    """Return whether a file has the portable form, which every backend but TorchForce reads."""
    from cgal_plugin.export.portable import FORMAT

    return metadata.get("format") == FORMAT


def check_metadata(
    metadata: dict[str, Any], potential: str | os.PathLike[str], topology: CGTopology, n_replicas: int
) -> None:
    """Check that a potential was exported for these beads, this number of replicas and OpenMM's units.

    Raises
    ------
    DynamicsError
        The potential is for other beads, units or another number of replicas; the message names the
        difference.
    """
    check_units(metadata, potential)
    name = os.fspath(potential)
    if metadata.get("types") is not None:
        embedding = recorded_embedding(metadata, f"potential {name}")
        check_same_embedding(
            embedding, topology.embedding, f"potential {name!r}", repr(topology), DynamicsError
        )
    remedy = "export it again with this topology and n_replicas"
    wanted = {
        "n_beads": topology.n_beads,
        "n_replicas": n_replicas,
        "types": topology.types.tolist(),
        "topology_hash": topology.hash,
    }
    for key, value in wanted.items():
        found = metadata.get(key)
        if found is not None and found != value:
            raise DynamicsError(f"potential {name!r} was exported for {key} {found}, not {value}; {remedy}")


def check_units(metadata: dict[str, Any], potential: str | os.PathLike[str]) -> None:
    """Check that a potential is in the units of OpenMM; a file that does not say is accepted.

    Raises
    ------
    DynamicsError
        It is in other units.
    """
    units = metadata.get("units", POTENTIAL_UNITS)
    if units != POTENTIAL_UNITS:
        raise DynamicsError(
            f"potential {os.fspath(potential)!r} is in units {units}; OpenMM needs {POTENTIAL_UNITS}: "
            "make it with `cgal export`"
        )
