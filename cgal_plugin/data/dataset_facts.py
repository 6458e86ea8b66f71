"""Molecules and temperature of a CGDataset, without its frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgal_plugin.data.several import Root, open_stores, store_paths
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.topology import CGTopology


def dataset_facts(root: Root, argument: Mapping[str, Any] | None) -> tuple[list[CGTopology], float | None]:
    """Return the topologies and the temperature (K; None: not known) of ``CGDataset(root, **argument)``.

    Raises
    ------
    DataError
        There is no data store, stores cannot be mixed, or plain files have no topology.
    MappingError
        The topology of plain files cannot be read.
    """
    argument = argument or {}
    if argument.get("coords") is None and argument.get("forces") is None:
        stores = open_stores(store_paths(root, argument.get("stores")))
        return list(dict.fromkeys(store.topology for store in stores)), stores[0].temperature
    topology = argument.get("topology")
    if topology is None:
        raise DataError("coords and forces need a topology: give a structure file or a saved CG topology")
    if not isinstance(topology, CGTopology):
        if not isinstance(root, str | os.PathLike):
            raise DataError("coords and forces are for one molecule: give one folder as the root")
        below = Path(root).expanduser() / topology
        found = below if below.exists() else Path(topology).expanduser()
        topology = CGTopology.from_file(found, argument.get("mapping", "CA"))
    if argument.get("embedding") is not None:
        topology = topology.with_embedding(argument["embedding"])
    temperature = argument.get("temperature")
    return [topology], None if temperature is None else float(temperature)
