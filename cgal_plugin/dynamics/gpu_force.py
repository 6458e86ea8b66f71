"""The GPU engine as a force of OpenMM: positions from the host and forces back to it at every call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin._warp import load_warp
from cgal_plugin.dynamics.devices import find_device
from cgal_plugin.dynamics.packing import PackedForce
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.interrupts import deferred
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load_gpu_potential(path: str | os.PathLike[str], n_replicas: int | None, device: str) -> Any:
    """Return the :class:`~cgal_plugin.export.gpu.potential.GPUPotential` of a file.

    Raises
    ------
    DynamicsError
        The GPU engine cannot use the file, or differs from the exact network on this device.
    """
    from cgal_plugin.export.gpu.potential import GPUPotential

    try:
        return GPUPotential.from_file(path, n_replicas=n_replicas, device=device)
    except ExportError as error:
        raise DynamicsError(f"backend 'gpu' cannot use {os.fspath(path)!r}: {error}") from error


class HostCall:
    """Callable: energies ``(R,)`` kcal/mol and forces ``(R·N, 3)`` kcal/mol/Å at positions ``(R·N, 3)`` Å.

    Copies go through pinned buffers, and the kernels through one CUDA graph.
    """

    def __init__(self, force: PackedForce) -> None:
        wp = self._wp = load_warp()
        self.force, device = force, force.device
        n, pinned = force.n_replicas * force.n_beads, device != "cpu"
        self._x, self._f, self._e = (
            wp.zeros(size, dtype=kind, device=device)
            for size, kind in ((n, wp.vec3d), (n, wp.vec3f), (force.n_replicas, wp.float64))
        )
        self._host = [
            wp.zeros(a.shape, dtype=a.dtype, device="cpu", pinned=pinned) for a in (self._x, self._f, self._e)
        ]
        self._views = [a.numpy() for a in self._host]
        self._graph: Any = None

    def _record(self) -> None:
        wp, (x, f, e) = self._wp, self._host
        # kernels are loaded before the capture; Warp would then load those of other packages, too
        wp.copy(self._x, x)  # beads that are all at the origin would enlarge the list to all pairs
        self.force.compute(self._x, self._f, self._e)
        with wp.ScopedCapture(device=self.force.device, force_module_load=False) as capture:
            wp.copy(self._x, x)
            self.force.compute(self._x, self._f, self._e)
            wp.copy(f, self._f)
            wp.copy(e, self._e)
        self._graph = capture.graph

    def __call__(self, positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        wp, device = self._wp, self.force.device
        with deferred():
            self._views[0][:] = positions
            while True:
                if self._graph is None:
                    self._record()
                wp.capture_launch(self._graph)
                if device != "cpu":
                    wp.synchronize_stream(device)
                if not self.force.overflowed:
                    break
                self._graph = None
                self.force.grow()
        return self._views[2].copy(), self._views[1].astype(np.float64)


class GPUForce:
    """An exported potential in the GPU engine as a callable for PythonForce; picklable."""

    def __init__(self, path: str | os.PathLike[str], n_replicas: int | None, platform: str = "CUDA") -> None:
        self.path = str(Path(path).resolve())
        self.n_replicas, self.platform = n_replicas, platform
        self._call: HostCall | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "n_replicas": self.n_replicas, "platform": self.platform, "_call": None}

    def build(self) -> None:
        """Load the potential on the device, so that errors are raised before the dynamics.

        Raises
        ------
        DynamicsError
            There is no GPU, or the GPU engine cannot use the file.
        """
        device = find_device(self.platform)
        one = None if self.n_replicas is None else 1
        found = load_gpu_potential(self.path, one, device)
        self._call = HostCall(PackedForce(found, self.n_replicas or found.n_replicas))

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return energy (kJ/mol) and forces (kJ/mol/nm) of a State."""
        if self._call is None:
            self.build()
        return in_openmm_units(cast("HostCall", self._call), state)


def in_openmm_units(call: HostCall, state: Any) -> tuple[float, NDArray[np.float64]]:
    """Return energy (kJ/mol) and forces (kJ/mol/nm) of a State."""
    energies, forces = call(state.getPositions(asNumpy=True)._value * ANGSTROM_PER_NM)
    return float(energies.sum()) * KJ_PER_KCAL, forces * (KJ_PER_KCAL * ANGSTROM_PER_NM)
