"""Langevin dynamics on CPU threads without OpenMM: the fast engine and a compiled integrator.

OpenMM's call of a Python force and its Reference integrator take as long as the forces of a few small
molecules, on one thread. Here each thread propagates its own replicas and waits for no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.dynamics.fast_force import load_fast
from cgal_plugin.dynamics.resident import Resident, check_file
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.interrupts import deferred
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings
    from cgal_plugin.export.fast import FastPotential


class CPUEngine(Resident):
    """R replicas on the threads of a CPU under LangevinMiddle dynamics; a ``CGEngine``.

    Results do not depend on the number of threads, to the last bit.

    Parameters
    ----------
    parked
        Replicas that do not move.
    potential
        A :class:`~cgal_plugin.export.fast.FastPotential` for all replicas; default: that of ``settings``.

    Raises
    ------
    DynamicsError
        The potential does not fit the molecule, or the fast engine cannot use it.
    """

    def __init__(
        self, settings: Settings, parked: Iterable[int] = (), *, potential: FastPotential | None = None
    ) -> None:
        super().__init__(settings, parked)
        self.potential = _load(settings) if potential is None else potential
        from cgal_plugin.export.engine.langevin import langevin_middle

        self._move = langevin_middle
        self._parts = self.potential.parts()
        self._pool = ThreadPoolExecutor(len(self._parts), thread_name_prefix="cgal-cpu")
        rows = settings.n_replicas * self.n_beads
        self._x, self._v = np.zeros((rows, 3)), np.zeros((rows, 3))
        self._decay = math.exp(-settings.friction * settings.timestep_ps)
        self._set_baths()

    def describe(self) -> dict[str, Any]:
        """Return what the record says about the device: nothing beside backend and platform."""
        return {}

    # ------------------------------------------------------------------ state

    def _shaped(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        return array.reshape(self.settings.n_replicas, self.n_beads, 3).copy()

    def positions(self) -> NDArray[np.float64]:
        """Return positions ``(n_replicas, beads, 3)`` Å."""
        return self._shaped(self._x)

    def velocities(self) -> NDArray[np.float64]:
        """Return velocities ``(n_replicas, beads, 3)`` Å/ps."""
        return self._shaped(self._v)

    def set_state(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Set positions (Å) and velocities (Å/ps), both ``(n_replicas, beads, 3)``."""
        self._x[:] = positions.reshape(-1, 3)
        self._v[:] = velocities.reshape(-1, 3)

    def _evaluate(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        try:
            with deferred():
                return self.potential.evaluate(self._x / ANGSTROM_PER_NM)
        except ExportError as error:
            raise DynamicsError(str(error)) from error

    def forces(self) -> NDArray[np.float64]:
        """Return forces ``(n_replicas, beads, 3)`` kJ/mol/nm at the current positions.

        Raises
        ------
        DynamicsError
            The potential cannot be evaluated.
        """
        return self._shaped(self._evaluate()[1])

    def energies(self) -> NDArray[np.float64]:
        """Return the potential energy of each replica at the current positions, ``(n_replicas,)`` kcal/mol.

        Raises
        ------
        DynamicsError
            The potential cannot be evaluated.
        """
        return self._evaluate()[0] / KJ_PER_KCAL

    def _python_force(self) -> Callable[[Any], Any]:
        return lambda state: self.potential(state.getPositions(asNumpy=True)._value)

    # ------------------------------------------------------------------ dynamics

    def step(self, n: int) -> str | None:
        """Run ``n`` steps. If the potential raises, return the message; the state is then undefined."""
        first, tasks = 0, []
        with deferred():
            for part in self._parts:
                tasks.append(self._pool.submit(self._advance, part, first, n))
                first += part.n_replicas * self.n_beads
            wait(tasks)
        errors = [error for task in tasks if (error := task.exception()) is not None]
        for error in errors:
            if not isinstance(error, ExportError):
                raise error
        if errors:
            return str(errors[0])
        self._step += n
        return None

    def _advance(self, part: FastPotential, first: int, n: int) -> None:
        rows = slice(first, first + part.n_replicas * self.n_beads)
        x, v, w, width = self._x[rows], self._v[rows], self._inverse_mass[rows], self._width[rows]
        dt, decay, (k0, k1) = self.settings.timestep_ps, self._decay, self._keys
        nm = x / ANGSTROM_PER_NM
        for step in range(self._step, self._step + n):
            self._move(x, v, part.evaluate(nm)[1], w, width, first, step, k0, k1, dt, decay, nm)

    def _set_step(self, step: int) -> None:
        self._step = step

    def _set_baths(self) -> None:
        energies = np.repeat(self._bath_energies(), self.n_beads) * (1.0 - self._decay**2)
        self._width = np.sqrt(energies * self._inverse_mass)

    def _set_masses(self) -> None:
        self._set_baths()


def _load(settings: Settings) -> FastPotential:
    check_file(settings)
    try:
        return load_fast(settings.potential, settings.n_replicas, settings.n_threads)
    except ExportError as error:
        raise DynamicsError(f"backend 'cpu' cannot use {str(settings.potential)!r}: {error}") from error
