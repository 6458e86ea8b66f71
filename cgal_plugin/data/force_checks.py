"""Refuse forces whose size is that of another unit."""

from __future__ import annotations

from collections.abc import Sequence

from cgal_plugin.errors import DataError
from cgal_plugin.units import FORCE_UNITS

#: possible rms of a component of bead forces, kcal/mol/Å: of single frames 8 to 60 with their noise, of mean
#: forces above 1
POSSIBLE = (1.0, 150.0)
_USUAL = (5.0, 60.0)


def check_size(rms: float, factor: float, source: str) -> None:
    """Check the size of the forces of a molecule.

    Parameters
    ----------
    rms
        Root mean square of the components, kcal/mol/Å.
    factor
        Factor by which they were converted to kcal/mol/Å.
    source
        What they belong to, for the message.

    Raises
    ------
    DataError
        They are much larger or smaller than bead forces are. The message names the units in which they would
        have the usual size.
    """
    low, high = POSSIBLE
    if low <= rms <= high:
        return
    fitting = fitting_units(rms, factor)
    unit = (
        f"They are probably in {' or '.join(fitting)}: give --force-unit" if fitting else "Check --force-unit"
    )
    raise DataError(
        f"{source}: the components of the forces have an rms of {rms:.3g} kcal/mol/Å; bead forces have "
        f"{low:g} to {high:g}. {unit}, or --any-force if the forces are right"
    )


def fitting_units(rms: float, factor: float) -> list[str]:
    """Return the units in which forces would have the usual size; parameters as in :func:`check_size`."""
    return [u for u, other in FORCE_UNITS.items() if _USUAL[0] <= rms / factor * other <= _USUAL[1]]


def doubts(rms: float, factor: float, source: str, delta: Sequence[str]) -> list[str]:
    """Return what is doubtful about forces that a user chose and that are used as they are.

    Parameters
    ----------
    rms, factor
        See :func:`check_size`.
    source
        What they belong to, for the message.
    delta
        Files of delta forces.
    """
    found = []
    if delta:
        found.append(
            f"{', '.join(delta)}: delta forces are forces minus those of priors; they are used as they are: "
            "train without these priors, or make a store of total forces (cgal import-data --priors)"
        )
    if rms > POSSIBLE[1]:
        units = " or ".join(fitting_units(rms, factor)) or "another unit"
        found.append(
            f"{source}: the components of the forces have an rms of {rms:.3g} kcal/mol/Å; they are "
            f"probably in {units}: give force_unit in dataset_arg"
        )
    return found
