"""TorchForce without its option that gives wrong dynamics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cgal_plugin.errors import DynamicsError


def make_torch_force(plugin: Any, path: str) -> Any:
    """Return the TorchForce of an exported file, whose ``setProperty`` refuses ``useCUDAGraphs``.

    The plugin (source read: openmm-torch 1.5, CudaTorchKernels.cpp) records one CUDA graph for calls with
    forces and one for calls without, and reads the output tensors of the graph that was recorded last. After
    a call for the energy alone, as every reporter of the energy makes, each step applies the forces of that
    call: the first forces are right, and then the dynamics blow up. A potential with a neighbour list cannot
    be recorded at all, because the host must know the number of pairs.
    """
    force = plugin.TorchForce(path)
    force.setOutputsForces(True)
    force.setProperty = functools.partial(_set_property, force.setProperty)
    return force


def _set_property(original: Callable[[str, str], None], name: str, value: str) -> None:
    if name == "useCUDAGraphs" and value == "true":
        raise DynamicsError(
            "useCUDAGraphs of TorchForce gives wrong dynamics: after a call for the energy alone, "
            "openmm-torch applies its forces at every step; use backend 'gpu', which has its own CUDA graphs"
        )
    original(name, value)
