"""Refuse forces whose size is that of another unit."""

from __future__ import annotations

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
    fitting = [u for u, other in FORCE_UNITS.items() if _USUAL[0] <= rms / factor * other <= _USUAL[1]]
    unit = (
        f"They are probably in {' or '.join(fitting)}: give --force-unit" if fitting else "Check --force-unit"
    )
    raise DataError(
        f"{source}: the components of the forces have an rms of {rms:.3g} kcal/mol/Å; bead forces have "
        f"{low:g} to {high:g}. {unit}, or --any-force if the forces are right"
    )
