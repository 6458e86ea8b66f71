"""Dynamics at constant energy with an engine: how well its forces are the gradient of its energy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

#: energy (kJ/mol) and forces (kJ/mol/nm) of positions (nm)
Engine = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
#: kJ/mol at 300 K
KT = BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * 300.0


def equilibrated(
    engine: Engine, x: NDArray[np.float64], masses: NDArray[np.float64], steps: int, timestep_fs: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (nm) and velocities (nm/ps) after Langevin steps at 300 K with friction 5/ps."""
    rng, dt, m = np.random.default_rng(0), timestep_fs / 1000.0, masses[:, None]
    for _ in range(200):  # descend first, at most 0.002 nm per step
        f = engine(x)[1]
        x = x + f * min(1e-5, 0.002 / np.abs(f).max())
    v = rng.standard_normal(x.shape) * np.sqrt(KT / m)
    keep = np.exp(-5.0 * dt)
    f = engine(x)[1]
    for _ in range(steps):
        v = v + dt * f / m
        x = x + 0.5 * dt * v
        v = keep * v + np.sqrt((1.0 - keep**2) * KT / m) * rng.standard_normal(x.shape)
        x = x + 0.5 * dt * v
        f = engine(x)[1]
    return x, v


def total_energies(
    engine: Engine,
    x: NDArray[np.float64],
    v: NDArray[np.float64],
    masses: NDArray[np.float64],
    timestep_fs: float,
    steps: int,
) -> NDArray[np.float64]:
    """Return potential plus kinetic energy (kJ/mol) after each step of velocity Verlet."""
    dt, m = timestep_fs / 1000.0, masses[:, None]
    f = engine(x)[1]
    found = np.empty(steps)
    for step in range(steps):
        v = v + 0.5 * dt * f / m
        x = x + dt * v
        energy, f = engine(x)
        v = v + 0.5 * dt * f / m
        found[step] = energy + 0.5 * float((m * v * v).sum())
    return found


def drift(energies: NDArray[np.float64], timestep_fs: float, n_beads: int) -> float:
    """Return the slope of the total energy in kT (300 K) per bead and ns."""
    time = np.arange(len(energies)) * timestep_fs * 1e-6
    return float(np.polyfit(time, energies, 1)[0]) / (KT * n_beads)
