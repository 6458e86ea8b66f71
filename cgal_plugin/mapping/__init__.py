"""All-atom to coarse-grained: topologies, coordinates and forces."""

from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.mapping.spec import BeadSpec, MapSpec, resolve_spec
from cgal_plugin.mapping.topology import CGTopology

__all__ = ["BeadSpec", "CGMapping", "CGTopology", "MapSpec", "resolve_spec"]
