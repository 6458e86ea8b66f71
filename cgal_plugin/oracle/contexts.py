"""OpenMM contexts in Å and kcal/mol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import ArrayLike, NDArray


def make_context(
    system: openmm.System,
    temperature: float,
    *,
    timestep_fs: float,
    friction: float,
    seed: int,
    n_threads: int,
    platform: str,
) -> openmm.Context:
    """Return a context with a LangevinMiddle integrator.

    Raises
    ------
    OracleError
        This platform of OpenMM is not available.
    """
    from openmm import Context, LangevinMiddleIntegrator, OpenMMException, Platform

    try:
        engine = Platform.getPlatformByName(platform)
    except OpenMMException as error:
        known = [Platform.getPlatform(i).getName() for i in range(Platform.getNumPlatforms())]
        raise OracleError(f"OpenMM has no platform {platform!r} here; use one of {known}") from error
    integrator = LangevinMiddleIntegrator(temperature, friction, timestep_fs * 1e-3)
    integrator.setRandomNumberSeed(int(seed) or 1)  # OpenMM replaces 0 by a random seed
    properties = {"Threads": str(n_threads), "DeterministicForces": "true"} if platform == "CPU" else {}
    return Context(system, integrator, engine, properties)


def set_positions(context: openmm.Context, positions: ArrayLike) -> None:
    """Set positions given in Å."""
    context.setPositions(np.asarray(positions, dtype=np.float64) / ANGSTROM_PER_NM)


def get_positions(context: openmm.Context) -> NDArray[np.float64]:
    """Return positions in Å, with molecules not split over periodic boundaries."""
    from openmm import unit

    state = context.getState(getPositions=True)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM


def potential_energy(context: openmm.Context) -> float:
    """Return the potential energy in kcal/mol."""
    from openmm import unit

    energy = context.getState(getEnergy=True).getPotentialEnergy()
    return float(energy.value_in_unit(unit.kilocalorie_per_mole))


def minimised(context: openmm.Context, max_iterations: int, what: str) -> NDArray[np.float64]:
    """Minimise the energy of a context; return positions in Å.

    Raises
    ------
    OracleError
        The energy is not finite; ``what`` names the molecule.
    """
    from openmm import LocalEnergyMinimizer

    LocalEnergyMinimizer.minimize(context, maxIterations=max_iterations)
    xyz, energy = get_positions(context), potential_energy(context)
    if not (np.isfinite(energy) and np.isfinite(xyz).all()):
        raise OracleError(f"{what}: the energy is not finite after minimisation")
    return xyz
