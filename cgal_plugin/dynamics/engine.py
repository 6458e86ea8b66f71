"""Packed replicas in an OpenMM Context: propagate, read the state, park and restart replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.dynamics.energies import ReplicaEnergies
from cgal_plugin.dynamics.force import add_potential
from cgal_plugin.dynamics.integrator import make_integrator, set_baths
from cgal_plugin.dynamics.settings import Settings, maxwell_velocities
from cgal_plugin.dynamics.system import build_system, find_platform
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.interrupts import deferred
from cgal_plugin.provenance import derive_seed
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Engine:
    """R replicas in one Context under LangevinMiddle dynamics (Zhang et al. 2019).

    A parked replica is frozen: its particles have mass 0, so OpenMM does not move them. It does not affect
    the other replicas. With ``settings.temperatures``, each replica has a bath of its own.
    """

    def __init__(self, settings: Settings, parked: Iterable[int] = ()) -> None:
        import openmm

        self.settings = settings
        self.n_beads = settings.topology.n_beads
        self.system = build_system(settings.topology, settings.n_replicas)
        for replica in parked:
            self._freeze(replica)
        platform = find_platform(settings.platform)
        self._device = "cuda" if settings.platform == "CUDA" else "cpu"
        add_potential(
            self.system,
            settings.potential,
            settings.topology,
            backend=settings.backend,
            n_replicas=settings.n_replicas,
            device=self._device,
            n_threads=settings.n_threads,
        )
        self.temperatures = settings.replica_temperatures()
        self.integrator = make_integrator(settings)
        self.integrator.setRandomNumberSeed(derive_seed(settings.seed, "noise"))
        try:
            self.context = openmm.Context(self.system, self.integrator, platform)
        except openmm.OpenMMException as error:
            raise DynamicsError(f"OpenMM cannot set up the simulation: {error}") from error
        self._energies: ReplicaEnergies | None = None
        self._set_baths()

    def describe(self) -> dict[str, Any]:
        """Return what the record says about the device: nothing beside backend and platform."""
        return {}

    # ------------------------------------------------------------------ state

    def _shaped(self, quantity: Any) -> NDArray[np.float64]:
        return np.array(quantity._value, dtype=np.float64).reshape(self.settings.n_replicas, self.n_beads, 3)

    def positions(self) -> NDArray[np.float64]:
        """Return positions ``(n_replicas, beads, 3)`` Å."""
        state = self.context.getState(positions=True)
        return self._shaped(state.getPositions(asNumpy=True)) * ANGSTROM_PER_NM

    def velocities(self) -> NDArray[np.float64]:
        """Return velocities ``(n_replicas, beads, 3)`` Å/ps."""
        state = self.context.getState(velocities=True)
        return self._shaped(state.getVelocities(asNumpy=True)) * ANGSTROM_PER_NM

    def forces(self) -> NDArray[np.float64]:
        """Return forces ``(n_replicas, beads, 3)`` kJ/mol/nm at the current positions.

        Raises
        ------
        DynamicsError
            The potential cannot be evaluated.
        """
        import openmm

        try:
            with deferred():
                state = self.context.getState(forces=True, energy=True)
        except openmm.OpenMMException as error:
            raise DynamicsError(
                f"potential {str(self.settings.potential)!r} cannot be evaluated for "
                f"{self.settings.n_replicas} replica(s) of {self.n_beads} beads: {_last_line(error)}"
            ) from error
        return self._shaped(state.getForces(asNumpy=True))

    def energies(self) -> NDArray[np.float64]:
        """Return the potential energy of each replica at the current positions, ``(n_replicas,)`` kcal/mol.

        Raises
        ------
        DynamicsError
            The potential gives no energy of a replica, or cannot be evaluated.
        """
        if self._energies is None:
            self._energies = ReplicaEnergies(self.settings, self._device)
        return self._energies(self.positions())

    def set_temperatures(self, temperatures: NDArray[np.float64], *, rescale: bool = True) -> None:
        """Set the bath of each replica, ``(n_replicas,)`` K, and scale velocities by √(T_new/T_old).

        Only with ``settings.temperatures``. ``rescale=False`` keeps the velocities.
        """
        factor = np.sqrt(temperatures / self.temperatures)
        self.temperatures = np.array(temperatures, dtype=np.float64)
        self._set_baths()
        if rescale:
            velocities = self.velocities() * factor[:, None, None]
            self.context.setVelocities(velocities.reshape(-1, 3) / ANGSTROM_PER_NM)

    def _set_baths(self) -> None:
        if self.settings.temperatures:
            set_baths(self.integrator, self.settings, self.temperatures)

    def set_start(self, positions: NDArray[np.float64], minimize_steps: int = 0) -> None:
        """Set positions ``(n_replicas, beads, 3)`` Å, minimise if requested, and draw velocities."""
        import openmm

        self.context.setPositions(positions.reshape(-1, 3) / ANGSTROM_PER_NM)
        self.forces()
        if minimize_steps:
            with deferred():
                openmm.LocalEnergyMinimizer.minimize(self.context, maxIterations=minimize_steps)
        drawn = [maxwell_velocities(self.settings, r) for r in range(self.settings.n_replicas)]
        self.context.setVelocities(np.concatenate(drawn))

    def checkpoint(self) -> bytes:
        """Return positions, velocities, time, step count and the state of the random generator, exactly."""
        return cast("bytes", self.context.createCheckpoint())

    def restore(self, binary: bytes) -> None:
        """Restore a :meth:`checkpoint`.

        Raises
        ------
        StateError
            The checkpoint belongs to another version of OpenMM, platform or System.
        """
        import openmm

        try:
            self.context.loadCheckpoint(binary)
        except openmm.OpenMMException as error:
            raise StateError(
                f"OpenMM {openmm.version.version} cannot load the checkpoint ({error}); "
                "resume with the version that wrote it (see simulation.json), or use another out_dir"
            ) from error

    # ------------------------------------------------------------------ dynamics

    def step(self, n: int) -> str | None:
        """Run ``n`` steps. If the potential raises, return the message; the state is then undefined."""
        import openmm

        try:
            with deferred():
                self.integrator.step(n)
        except openmm.OpenMMException as error:
            return _last_line(error)
        return None

    def _freeze(self, replica: int) -> None:
        for bead in range(replica * self.n_beads, (replica + 1) * self.n_beads):
            self.system.setParticleMass(bead, 0.0)

    def park(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` ``(n_replicas, beads, 3)`` Å and stop propagating them.

        This reinitialises the Context, which reseeds its random generator. The seed depends on the step,
        because the initial seed would repeat the noise from the start.
        """
        replicas = list(replicas)
        positions, velocities = self.positions(), self.velocities()
        for replica in replicas:
            positions[replica], velocities[replica] = start[replica], 0.0
            self._freeze(replica)
        self.integrator.setRandomNumberSeed(derive_seed(self.settings.seed, "noise", step, *replicas))
        self.context.reinitialize()
        self._set_baths()
        self.set_state(positions, velocities)

    def restart(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` ``(n_replicas, beads, 3)`` Å with velocities from a new stream."""
        positions, velocities = self.positions(), self.velocities()
        for replica in replicas:
            positions[replica] = start[replica]
            drawn = maxwell_velocities(self.settings, replica, step, temperature=self.temperatures[replica])
            velocities[replica] = drawn * ANGSTROM_PER_NM
        self.set_state(positions, velocities)

    def set_state(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Set positions (Å) and velocities (Å/ps), both ``(n_replicas, beads, 3)``."""
        self.context.setPositions(positions.reshape(-1, 3) / ANGSTROM_PER_NM)
        self.context.setVelocities(velocities.reshape(-1, 3) / ANGSTROM_PER_NM)


def _last_line(error: Exception) -> str:
    # a TorchScript error is a long traceback; its last line is the reason
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
