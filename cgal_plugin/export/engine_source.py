"""What the compiled engines take from a model, and what their metadata keep of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgal_plugin.export.potential import load_any, potential_module
from cgal_plugin.provenance import versions
from cgal_plugin.units import POTENTIAL_UNITS

if TYPE_CHECKING:
    from torch import nn

    from cgal_plugin.export.tables import FilterTable
    from cgal_plugin.mapping.topology import CGTopology

#: metadata of an exported potential that an engine keeps
_KEPT = ("n_beads", "topology", "topology_hash", "types", "embedding", "temperature")


def source_of_model(
    model_or_ckpt: nn.Module | str | os.PathLike[str], topology: CGTopology
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return the model, its float64 potential, and metadata as in an exported file."""
    model = load_any(model_or_ckpt)
    potential = potential_module(model, topology, dtype="float64", verify=False)
    described = {
        "n_beads": topology.n_beads,
        "topology": topology.to_dict(),
        "topology_hash": topology.hash,
        "types": topology.types.tolist(),
        "embedding": topology.embedding,
        "temperature": getattr(model, "cgal_temperature", None),
    }
    return model, potential, described


def engine_metadata(
    described: Mapping[str, Any], n_replicas: int, table: FilterTable, tolerance: float, table_error: float
) -> dict[str, Any]:
    """Return the metadata of an engine that was made of the potential that ``described`` describes."""
    return {
        **{key: value for key, value in described.items() if key in _KEPT},
        "n_replicas": int(n_replicas),
        "units": dict(POTENTIAL_UNITS),
        "table_intervals": table.intervals,
        "table_tolerance": tolerance,
        "table_error": table_error,
        "versions": versions(),
    }
