"""Validate the oracle's arguments: numbers, methods and libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.oracle.backmap import METHODS
from cgal_plugin.oracle.library import AllAtomLibrary

MAX_TEMPERATURE = 2000.0  # K


def check_number(value: object, name: str) -> float:
    """Return a finite number as float, or raise an OracleError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise OracleError(f"{name} = {value!r} must be a finite number")
    return float(value)


def check_temperature(value: object) -> float:
    """Return a temperature in K, above 0 and up to 2000, or raise an OracleError."""
    temperature = check_number(value, "temperature")
    if not 0 < temperature <= MAX_TEMPERATURE:
        raise OracleError(f"temperature = {value!r} K must be above 0 and at most {MAX_TEMPERATURE:g}")
    return temperature


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return one or more known backmapping methods, or raise an OracleError."""
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    unknown = [m for m in names if m not in METHODS]
    if unknown or not names:
        raise OracleError(f"backmapping methods {list(names)}: use one or more of {', '.join(METHODS)}")
    return names


def check_library(library: object, mapping: CGMapping) -> AllAtomLibrary | None:
    """Return None or an AllAtomLibrary of this molecule, or raise an OracleError."""
    if library is None:
        return None
    if not isinstance(library, AllAtomLibrary):
        raise OracleError(
            f"library is {type(library).__name__}; give an AllAtomLibrary(oracle.model, positions in Å)"
        )
    if library.mapping.hash != mapping.hash:
        raise OracleError(
            f"the library is for {library.mapping.topology!r}, the oracle for {mapping.topology!r}"
        )
    return library
