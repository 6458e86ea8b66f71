"""Unit conversion. The package uses Å, kcal/mol and ps; nm and kJ/mol only in calls of OpenMM and mdtraj."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import UnitError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ANGSTROM_PER_NM = 10.0
KJ_PER_KCAL = 4.184
#: multiply kJ/mol/nm by this to get kcal/mol/Å
KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM = 1.0 / (KJ_PER_KCAL * ANGSTROM_PER_NM)
#: unit of forces -> its value in kcal/mol/Å (CODATA 2018)
FORCE_UNITS = {
    "kcal/mol/angstrom": 1.0,
    "kJ/mol/nm": KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM,
    "kJ/mol/angstrom": 1.0 / KJ_PER_KCAL,
    "kcal/mol/nm": 1.0 / ANGSTROM_PER_NM,
    "eV/angstrom": 96.48533212331 / KJ_PER_KCAL,
    "hartree/bohr": 2625.4996394799 / KJ_PER_KCAL / 0.529177210903,
}
#: Boltzmann constant times Avogadro's number, kcal/mol/K (CODATA 2018)
BOLTZMANN_KCAL_PER_MOL_K = 8.31446261815324e-3 / KJ_PER_KCAL
#: units of models and their checkpoints, and of exported potentials (as OpenMM expects)
MODEL_UNITS = {"positions": "angstrom", "energy": "kcal/mol", "forces": "kcal/mol/angstrom"}
POTENTIAL_UNITS = {"positions": "nm", "energy": "kJ/mol", "forces": "kJ/mol/nm"}

_LENGTH_UNITS = {"angstrom": 1.0, "nm": ANGSTROM_PER_NM}


def kT(temperature: float) -> float:
    """Return the thermal energy in kcal/mol at ``temperature`` (K)."""
    return BOLTZMANN_KCAL_PER_MOL_K * temperature


def as_angstrom(frames: ArrayLike, unit: str = "angstrom") -> NDArray[np.floating]:
    """Return coordinates in Å from an array or an :class:`mdtraj.Trajectory`.

    Parameters
    ----------
    frames
        ``(n, beads, 3)`` array in ``unit``, or an ``mdtraj.Trajectory`` (always in
        nm). A floating dtype is kept; others become float64.
    unit
        ``"angstrom"`` or ``"nm"``.

    Raises
    ------
    UnitError
        The unit is unknown or the array is not ``(n, beads, 3)``.
    """
    if unit not in _LENGTH_UNITS:
        raise UnitError(f"length unit {unit!r} is not known; use one of {sorted(_LENGTH_UNITS)}")
    xyz = getattr(frames, "xyz", None)
    if xyz is not None:
        frames, unit = xyz, "nm"
    array = np.asarray(frames)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise UnitError(f"coordinates have shape {array.shape}; expected (n_frames, n_beads, 3)")
    factor = _LENGTH_UNITS[unit]
    return array if factor == 1.0 else array * array.dtype.type(factor)
