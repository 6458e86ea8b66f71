"""All-atom to coarse-grained: topologies, coordinates and forces."""

from cgal_plugin.mapping.bead_spec import BeadSpec
from cgal_plugin.mapping.forces import ForceMap, basic_force_map, optimal_force_map, slice_force_map
from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.mapping.spec import MapSpec, resolve_spec
from cgal_plugin.mapping.topology import CGTopology

__all__ = [
    "BeadSpec",
    "CGMapping",
    "CGTopology",
    "ForceMap",
    "MapSpec",
    "basic_force_map",
    "optimal_force_map",
    "resolve_spec",
    "slice_force_map",
]
