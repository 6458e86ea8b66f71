"""What propagates the replicas of a simulation: the protocol, and the choice by backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cgal_plugin.dynamics.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings


class CGEngine(Protocol):
    """Packed replicas under LangevinMiddle dynamics (Zhang et al. 2019); the methods raise as in Engine.

    Arrays have shape ``(n_replicas, beads, 3)``. A parked replica does not move and does not affect others.
    """

    def describe(self) -> dict[str, Any]:
        """Return what the record of the simulation says about the device; empty for OpenMM."""
        ...

    def positions(self) -> NDArray[np.float64]:
        """Return positions, Å."""
        ...

    def velocities(self) -> NDArray[np.float64]:
        """Return velocities, Å/ps."""
        ...

    def forces(self) -> NDArray[np.float64]:
        """Return forces at the current positions, kJ/mol/nm."""
        ...

    def energies(self) -> NDArray[np.float64]:
        """Return the energy of each replica at the current positions, ``(n_replicas,)`` kcal/mol."""
        ...

    def set_temperatures(self, temperatures: NDArray[np.float64], *, rescale: bool = True) -> None:
        """Set the bath of each replica, ``(n_replicas,)`` K, and scale velocities by √(T_new/T_old).

        Called with ``settings.temperatures`` only. ``rescale=False`` keeps the velocities, as after
        :meth:`restore`. The baths stay after :meth:`park`; :meth:`restart` draws velocities at them.
        """
        ...

    def set_start(self, positions: NDArray[np.float64], minimize_steps: int = 0) -> None:
        """Set positions (Å), minimise if requested, and draw velocities."""
        ...

    def set_state(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Set positions (Å) and velocities (Å/ps)."""
        ...

    def checkpoint(self) -> bytes:
        """Return the whole state, exactly."""
        ...

    def restore(self, binary: bytes) -> None:
        """Restore a :meth:`checkpoint`."""
        ...

    def step(self, n: int) -> str | None:
        """Run ``n`` steps; return the message of a failure, after which the state is undefined."""
        ...

    def park(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` (Å) and stop propagating them."""
        ...

    def restart(self, replicas: Iterable[int], start: NDArray[np.float64], step: int) -> None:
        """Reset replicas to ``start`` (Å) with new velocities."""
        ...


def open_engine(settings: Settings, parked: Iterable[int] = ()) -> CGEngine:
    """Return the engine for the backend of ``settings``: without OpenMM for ``"cpu"`` and ``"gpu"``."""
    if settings.backend == "gpu":
        from cgal_plugin.dynamics.gpu_engine import GPUEngine

        return GPUEngine(settings, parked)
    if settings.backend == "cpu":
        from cgal_plugin.dynamics.cpu_engine import CPUEngine

        return CPUEngine(settings, parked)
    return Engine(settings, parked)
