"""Langevin dynamics whose state stays on the GPU: forces and integrator in one CUDA graph of many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin._warp import load_kernels, load_warp, out_of_memory
from cgal_plugin.dynamics.devices import describe_device, find_device
from cgal_plugin.dynamics.packing import PackedForce
from cgal_plugin.dynamics.resident import Resident, check_file
from cgal_plugin.errors import DynamicsError
from cgal_plugin.interrupts import deferred
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings

#: steps of one graph; an interval is split into these, the longest first
_GRAPH_STEPS = (64, 16, 4, 1)


class GPUEngine(Resident):
    """R replicas on one device under LangevinMiddle dynamics; a ``CGEngine``.

    On one device, calls of the same lengths give the same bytes, with the same number of groups (another
    number: the same to rounding).

    Parameters
    ----------
    settings
        ``platform`` ``"CPU"``: the same kernels on the CPU; otherwise the first NVIDIA GPU.
    parked
        Replicas that do not move.
    potential
        The potential for one replica on the device; default: that of ``settings``.
    memory_limit
        See :class:`PackedForce`.

    Raises
    ------
    DynamicsError
        There is no GPU or driver, the potential cannot be used, or one replica does not fit into memory.
    """

    def __init__(
        self,
        settings: Settings,
        parked: Iterable[int] = (),
        *,
        potential: Any = None,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(settings, parked)
        self.device = find_device(settings.platform)
        wp = load_warp()
        from cgal_plugin.dynamics import integrator_kernels

        load_kernels(integrator_kernels, self.device)
        self._wp, self._kernels = wp, integrator_kernels
        if potential is None:
            from cgal_plugin.dynamics.gpu_force import load_gpu_potential

            check_file(settings)
            potential = load_gpu_potential(settings.potential, 1, self.device)
        n = settings.n_replicas * self.n_beads
        self.force = PackedForce(potential, settings.n_replicas, memory_limit)
        self._x, self._v, self._kept_x, self._kept_v = (
            wp.zeros(n, dtype=wp.vec3d, device=self.device) for _ in range(4)
        )
        self._f = wp.zeros(n, dtype=wp.vec3f, device=self.device)
        self._e = wp.zeros(settings.n_replicas, dtype=wp.float64, device=self.device)
        self._done = wp.zeros(1, dtype=wp.uint64, device=self.device)
        self._w = wp.array(self._inverse_mass, dtype=wp.float64, device=self.device)
        self._kt = wp.zeros(settings.n_replicas, dtype=wp.float64, device=self.device)
        self._set_baths()
        self._graphs: dict[int, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Return what the record of a simulation says about the device."""
        return {"device": {**describe_device(self.device), "groups": self.force.groups}}

    # ------------------------------------------------------------------ state

    def _shaped(self, array: Any) -> NDArray[np.float64]:
        return np.array(array.numpy(), dtype=np.float64).reshape(self.settings.n_replicas, self.n_beads, 3)

    def positions(self) -> NDArray[np.float64]:
        """Return positions ``(n_replicas, beads, 3)`` Å."""
        return self._shaped(self._x)

    def velocities(self) -> NDArray[np.float64]:
        """Return velocities ``(n_replicas, beads, 3)`` Å/ps."""
        return self._shaped(self._v)

    def forces(self) -> NDArray[np.float64]:
        """Return forces ``(n_replicas, beads, 3)`` kJ/mol/nm at the current positions.

        Raises
        ------
        DynamicsError
            The potential cannot be evaluated.
        """
        self._guarded(self._evaluate)
        return self._shaped(self._f) * (KJ_PER_KCAL * ANGSTROM_PER_NM)

    def energies(self) -> NDArray[np.float64]:
        """Return the potential energy of each replica at the current positions, ``(n_replicas,)`` kcal/mol.

        Raises
        ------
        DynamicsError
            The potential cannot be evaluated.
        """
        self._guarded(self._evaluate)
        return np.array(self._e.numpy(), dtype=np.float64)

    def set_state(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Set positions (Å) and velocities (Å/ps), both ``(n_replicas, beads, 3)``."""
        self._x.assign(np.ascontiguousarray(positions.reshape(-1, 3)))
        self._v.assign(np.ascontiguousarray(velocities.reshape(-1, 3)))

    def _set_step(self, step: int) -> None:
        self._step = step
        self._done.assign(np.array([step], dtype=np.uint64))

    def _set_baths(self) -> None:
        self._kt.assign(self._bath_energies())

    def _set_masses(self) -> None:
        self._w.assign(self._inverse_mass)

    def _python_force(self) -> Callable[[Any], Any]:
        from cgal_plugin.dynamics.gpu_force import HostCall, in_openmm_units

        call = HostCall(self.force)
        return lambda state: in_openmm_units(call, state)

    # ------------------------------------------------------------------ dynamics

    def step(self, n: int) -> str | None:
        """Run ``n`` steps. The kernels report no failure: a replica that blows up is not finite.

        Raises
        ------
        DynamicsError
            A call of the device failed, or one replica does not fit into its memory.
        """
        wp = self._wp
        wp.copy(self._kept_x, self._x)
        wp.copy(self._kept_v, self._v)

        def again() -> None:
            wp.copy(self._x, self._kept_x)
            wp.copy(self._v, self._kept_v)
            self._set_step(self._step)

        # the order of sums on a GPU depends on the lists: with new ones, a resumed run repeats it
        self.force.reset()
        self._guarded(lambda: self._advance(n), again)
        self._step += n
        return None

    def _guarded(self, work: Callable[[], None], again: Callable[[], None] = lambda: None) -> None:
        """Run ``work``; if a list or the memory is too small, mend that, call ``again``, repeat."""
        while True:
            try:
                with deferred():
                    work()
                    if not self.force.overflowed:
                        return
                    self._graphs.clear()
                    self.force.grow()
            except (RuntimeError, MemoryError) as error:
                self._graphs.clear()
                if not out_of_memory(error):
                    raise DynamicsError(f"device {self.device} failed: {error}") from error
                self.force.halve(error)
            again()

    def _evaluate(self) -> None:
        self.force.compute(self._x, self._f, self._e)

    def _advance(self, n: int) -> None:
        left = n
        for length in _GRAPH_STEPS:
            while left >= length:
                if length not in self._graphs:
                    self._graphs[length] = self._capture(length)
                self._wp.capture_launch(self._graphs[length])
                left -= length

    def _capture(self, steps: int) -> Any:
        wp = self._wp
        # kernels are loaded before the capture; Warp would then load those of other packages, too
        self._evaluate()
        with wp.ScopedCapture(device=self.device, force_module_load=False) as capture:
            for later in range(steps):
                self._evaluate()
                self._launch_step(later)
            wp.launch(self._kernels.count, dim=1, inputs=[self._done, steps], device=self.device)
        return capture.graph

    def _launch_step(self, later: int) -> None:
        dt, settings = self.settings.timestep_ps, self.settings
        decay = math.exp(-settings.friction * dt)
        inputs = [self._x, self._v, self._f, self._w, self._kt, self._done, later, self.n_beads, dt, decay]
        self._wp.launch(
            self._kernels.langevin_middle,
            dim=settings.n_replicas * self.n_beads,
            inputs=[*inputs, *self._keys],
            device=self.device,
        )
