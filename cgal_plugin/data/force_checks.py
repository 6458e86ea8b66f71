"""Refuse forces whose size is that of another unit."""

from __future__ import annotations

from cgal_plugin.errors import DataError

#: usual rms of a component of mapped forces, kcal/mol/Å: with the noise of single frames 8 to 60, of mean
#: forces above 1; forces in kJ/mol/nm are 41.84 times larger
USUAL = (1.0, 150.0)


def check_size(rms: float, source: str, remedy: str) -> None:
    """Check the size of the forces of a molecule.

    Parameters
    ----------
    rms
        Root mean square of the components, taken for kcal/mol/Å.
    remedy
        How to give the unit, or to accept the forces as they are.

    Raises
    ------
    DataError
        They are much larger or smaller than bead forces are.
    """
    low, high = USUAL
    if not rms > high and not rms < low:
        return
    unit = "kJ/mol/nm" if rms > high else "another unit, such as eV/Å, or in kcal/mol/Å and read as kJ/mol/nm"
    raise DataError(
        f"{source}: the components of the forces have an rms of {rms:.3g} kcal/mol/Å; bead forces have "
        f"{low:g} to {high:g}. They are probably in {unit}; {remedy}"
    )
