"""OpenMM contexts in Å and kcal/mol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import ArrayLike, NDArray


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
