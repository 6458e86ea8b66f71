"""CG dynamics in OpenMM: systems, exported potentials as forces, and simulations of packed replicas."""

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.dynamics.force import BACKENDS, add_potential, resolve_backend
from cgal_plugin.dynamics.guard import Guard
from cgal_plugin.dynamics.result import SimulationResult, load_simulation
from cgal_plugin.dynamics.simulate import simulate
from cgal_plugin.dynamics.system import build_system

__all__ = [
    "BACKENDS",
    "BlowUp",
    "Guard",
    "SimulationResult",
    "add_potential",
    "build_system",
    "load_simulation",
    "read_dcd",
    "resolve_backend",
    "simulate",
]
