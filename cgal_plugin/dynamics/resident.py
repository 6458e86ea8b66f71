"""What engines without OpenMM share: starts, baths, blow-ups and checkpoints."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.dynamics.potential_metadata import check_metadata, read_metadata
from cgal_plugin.dynamics.settings import maxwell_velocities
from cgal_plugin.dynamics.system import build_system
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.interrupts import deferred
from cgal_plugin.provenance import BAD_ARCHIVE, derive_seed
from cgal_plugin.units import ANGSTROM_PER_NM, BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings

#: amu Å²/ps² per kcal/mol
_MECHANICAL = 100.0 * KJ_PER_KCAL
_FORMAT = "cgal_plugin resident engine 1"


class Resident(ABC):
    """R replicas under LangevinMiddle dynamics without a Context; the common part of a ``CGEngine``.

    The scheme is that of OpenMM's LangevinMiddleIntegrator. The noise is a function of seed, step and bead
    (Philox), so that a generator has no state and restarts are exact.
    """

    def __init__(self, settings: Settings, parked: Iterable[int]) -> None:
        self.settings = settings
        self.n_beads = settings.topology.n_beads
        self.temperatures = settings.replica_temperatures()
        self._step = 0
        self._inverse_mass = np.tile(1.0 / settings.topology.masses, settings.n_replicas)
        for replica in parked:
            self._freeze(replica)
        self._keys = tuple(derive_seed(settings.seed, "noise", "philox", k) for k in range(2))

    @abstractmethod
    def positions(self) -> NDArray[np.float64]:
        """Return positions ``(n_replicas, beads, 3)`` Å."""

    @abstractmethod
    def velocities(self) -> NDArray[np.float64]:
        """Return velocities ``(n_replicas, beads, 3)`` Å/ps."""

    @abstractmethod
    def set_state(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Set positions (Å) and velocities (Å/ps), both ``(n_replicas, beads, 3)``."""

    @abstractmethod
    def _set_step(self, step: int) -> None:
        """Set the number of steps done."""

    @abstractmethod
    def _set_baths(self) -> None:
        """Use the temperatures of :attr:`temperatures`."""

    @abstractmethod
    def _set_masses(self) -> None:
        """Use the inverse masses of :attr:`_inverse_mass`."""

    @abstractmethod
    def _python_force(self) -> Callable[[Any], Any]:
        """Return the potential of all replicas as a callable for OpenMM's PythonForce."""

    def _bath_energies(self) -> NDArray[np.float64]:
        """Return kB·T of each replica, ``(n_replicas,)`` amu Å²/ps²."""
        return BOLTZMANN_KCAL_PER_MOL_K * _MECHANICAL * self.temperatures

    # ------------------------------------------------------------------ state

    def set_start(self, positions: NDArray[np.float64], minimize_steps: int = 0) -> None:
        """Set positions ``(n_replicas, beads, 3)`` Å, minimise if requested, and draw velocities."""
        if minimize_steps:
            positions = minimized(self.settings, self._python_force(), positions, minimize_steps)
        drawn = [self._maxwell(r) for r in range(self.settings.n_replicas)]
        self.set_state(positions, np.stack(drawn))

    def _maxwell(self, replica: int, *stream: int) -> NDArray[np.float64]:
        bath = self.temperatures[replica]
        return maxwell_velocities(self.settings, replica, *stream, temperature=bath) * ANGSTROM_PER_NM

    def checkpoint(self) -> bytes:
        """Return positions, velocities, step and temperatures, exactly."""
        handle = io.BytesIO()
        np.savez(
            handle,
            format=np.array(_FORMAT),
            positions=self.positions(),
            velocities=self.velocities(),
            step=np.array(self._step, dtype=np.int64),
            temperatures=self.temperatures,
        )
        return handle.getvalue()

    def restore(self, binary: bytes) -> None:
        """Restore a :meth:`checkpoint`.

        Raises
        ------
        StateError
            The checkpoint belongs to another backend or number of beads.
        """
        try:
            with np.load(io.BytesIO(binary), allow_pickle=False) as data:
                stored = {name: data[name] for name in data.files}
            known = str(stored["format"]) == _FORMAT
            known = known and stored["positions"].shape == (self.settings.n_replicas, self.n_beads, 3)
        except BAD_ARCHIVE:
            known = False
        if not known:
            raise StateError(
                f"the checkpoint is not one of backend {self.settings.backend!r} for "
                f"{self.settings.n_replicas} replica(s) of {self.n_beads} beads; resume with the "
                "backend and version that wrote it (see simulation.json), or use another out_dir"
            )
        self.set_state(stored["positions"], stored["velocities"])
        self._set_step(int(stored["step"]))
        self.temperatures = stored["temperatures"]
        self._set_baths()

    # ------------------------------------------------------------------ temperatures

    def set_temperatures(self, temperatures: NDArray[np.float64], *, rescale: bool = True) -> None:
        """Set the bath of each replica, ``(n_replicas,)`` K, and scale velocities by √(T_new/T_old).

        ``rescale=False`` keeps the velocities.
        """
        temperatures = np.array(temperatures, dtype=np.float64)
        if rescale:
            factor = np.sqrt(temperatures / self.temperatures)[:, None, None]
            self.set_state(self.positions(), self.velocities() * factor)
        self.temperatures = temperatures
        self._set_baths()

    # ------------------------------------------------------------------ blow-ups

    def _freeze(self, replica: int) -> None:
        self._inverse_mass[replica * self.n_beads : (replica + 1) * self.n_beads] = 0.0

    def park(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` ``(n_replicas, beads, 3)`` Å and stop propagating them."""
        positions, velocities = self.positions(), self.velocities()
        for replica in replicas:
            positions[replica], velocities[replica] = start[replica], 0.0
            self._freeze(replica)
        self._set_masses()
        self.set_state(positions, velocities)

    def restart(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` ``(n_replicas, beads, 3)`` Å with velocities from a new stream."""
        positions, velocities = self.positions(), self.velocities()
        for replica in replicas:
            positions[replica] = start[replica]
            velocities[replica] = self._maxwell(replica, step)
        self.set_state(positions, velocities)


def check_file(settings: Settings) -> None:
    """Check that the file of the potential is for this molecule; the engines evaluate any number of replicas.

    Raises
    ------
    DynamicsError
        It is for another molecule, or is not a potential.
    """
    metadata = {**read_metadata(settings.potential), "n_replicas": settings.n_replicas}
    check_metadata(metadata, settings.potential, settings.topology, settings.n_replicas)


def minimized(
    settings: Settings, function: Callable[[Any], Any], positions: NDArray[np.float64], steps: int
) -> NDArray[np.float64]:
    """Return positions ``(n_replicas, beads, 3)`` Å after at most ``steps`` iterations of OpenMM's minimiser.

    ``function`` is a callable for PythonForce.

    Raises
    ------
    DynamicsError
        The potential cannot be evaluated.
    """
    import openmm

    system = build_system(settings.topology, settings.n_replicas)
    system.addForce(openmm.PythonForce(function))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions.reshape(-1, 3) / ANGSTROM_PER_NM)
    try:
        with deferred():
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=steps)
    except openmm.OpenMMException as error:
        raise DynamicsError(f"the potential cannot be minimised: {error}") from error
    found = context.getState(positions=True).getPositions(asNumpy=True)._value
    return np.array(found, dtype=np.float64).reshape(positions.shape) * ANGSTROM_PER_NM
