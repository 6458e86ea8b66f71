"""OpenMM contexts in Å and kcal/mol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def set_positions(context: Any, positions: ArrayLike) -> None:
    """Set positions given in Å."""
    context.setPositions(np.asarray(positions, dtype=np.float64) / ANGSTROM_PER_NM)


def get_positions(context: Any) -> NDArray[np.float64]:
    """Positions in Å, molecules whole."""
    from openmm import unit

    state = context.getState(getPositions=True)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM


def potential_energy(context: Any) -> float:
    """Potential energy in kcal/mol."""
    from openmm import unit

    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole)
