"""Parameters of the dynamics, and the velocities at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.provenance import derive_seed
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology


@dataclass(frozen=True)
class Settings:
    """Parameters of the dynamics; units as in :func:`cgal_plugin.dynamics.simulate`."""

    potential: Path
    topology: CGTopology
    n_replicas: int
    timestep_fs: float
    temperature: float
    friction: float
    seed: int
    backend: str
    platform: str
    #: K, one for each replica; empty: ``temperature`` for all
    temperatures: tuple[float, ...] = ()
    #: threads of the fast engine; results do not depend on it
    n_threads: int = 1

    @property
    def timestep_ps(self) -> float:
        """Time step, ps."""
        return self.timestep_fs / 1000.0

    def replica_temperatures(self) -> NDArray[np.float64]:
        """Return the temperature of each replica at the start, ``(n_replicas,)`` K."""
        return np.array(self.temperatures or (self.temperature,) * self.n_replicas, dtype=np.float64)


def maxwell_velocities(
    settings: Settings, replica: int, *stream: str | int, temperature: float | None = None
) -> NDArray[np.float64]:
    """Draw velocities ``(beads, 3)`` nm/ps (Maxwell–Boltzmann) from the random stream of the replica.

    ``temperature`` (K) is that of the bath now; default: at the start.
    """
    rng = np.random.default_rng(derive_seed(settings.seed, "velocities", replica, *stream))
    bath = settings.replica_temperatures()[replica] if temperature is None else temperature
    energy = BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * bath
    masses = settings.topology.masses
    scale: NDArray[np.float64] = np.sqrt(energy / masses)[:, None]
    return rng.standard_normal((len(masses), 3)) * scale
