"""All-atom to coarse-grained: topologies, coordinates and forces."""

from cgal_plugin.mapping.topology import CGTopology

__all__ = ["CGTopology"]
