"""Numbers with a unit: a plain number in the field's unit, or text such as ``"50 ps"``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

#: no count is larger. Numbers beyond this are typing errors, which would fail late or never end
MOST = 1_000_000
#: steps of dynamics: 40 ms at 4 fs
MOST_STEPS = 10**13
#: worker processes or threads
MOST_WORKERS = 4096
#: ps, the longest trajectory or lag time: 1 ms
MOST_PS = 1e9
_SCALE: dict[str, dict[str, float]] = {
    "s": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "fs": {"fs": 1.0, "ps": 1e3, "ns": 1e6},
    "ps": {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6},
    "ns": {"ps": 1e-3, "ns": 1.0, "us": 1e3},
    "K": {"K": 1.0},
    "angstrom": {"angstrom": 1.0, "å": 1.0, "a": 1.0, "nm": 10.0},
    "1/ps": {"1/ps": 1.0, "ps^-1": 1.0, "1/fs": 1e3, "1/ns": 1e-3},
}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*")


def parse_quantity(value: Any, unit: str) -> float:
    """Return a finite float in ``unit`` from a number, or from text with a number and a compatible unit.

    Raises
    ------
    ValueError
        The value is not a finite number, or its unit is not compatible (the message lists compatible units).
    """
    scale = _SCALE.get(unit, {})
    wanted = f"a number in {unit}" if unit else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {wanted}, found {value!r}")
    factor = 1.0
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None:
            raise ValueError(f"expected {wanted}, found {value!r}")
        number, suffix = match.groups()
        if suffix is not None:
            factors = {name.lower(): f for name, f in scale.items()}
            if suffix.lower() not in factors:
                allowed = ", ".join(scale) or "none"
                raise ValueError(f"unit {suffix!r} does not fit; allowed units are {allowed}")
            factor = factors[suffix.lower()]
        value = float(number)
    result = float(value) * factor
    if not math.isfinite(result):
        raise ValueError(f"expected {wanted} that is finite, found {value!r}")
    return result


def not_finite(values: Any) -> str | None:
    """Return the key (with dots) of the first NaN or infinity in nested lists and mappings, or None."""
    if isinstance(values, float):
        return None if math.isfinite(values) else ""
    listed = enumerate(values) if isinstance(values, list | tuple) else ()
    items: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, dict) else listed
    for key, value in items:
        found = not_finite(value)
        if found is not None:
            return f"{key}.{found}".rstrip(".")
    return None


def _parser(unit: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        return parse_quantity(value, unit)

    return parse


def _schema(unit: str) -> WithJsonSchema:
    schema: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}
    return WithJsonSchema({**schema, "unit": unit} if unit else schema)


Number = Annotated[float, BeforeValidator(_parser("")), _schema("")]
Seconds = Annotated[float, BeforeValidator(_parser("s")), _schema("s")]
Femtoseconds = Annotated[float, BeforeValidator(_parser("fs")), _schema("fs")]
Picoseconds = Annotated[float, BeforeValidator(_parser("ps")), Field(le=MOST_PS), _schema("ps")]
Nanoseconds = Annotated[float, BeforeValidator(_parser("ns")), _schema("ns")]
Kelvin = Annotated[float, BeforeValidator(_parser("K")), _schema("K")]
Angstrom = Annotated[float, BeforeValidator(_parser("angstrom")), _schema("angstrom")]
PerPicosecond = Annotated[float, BeforeValidator(_parser("1/ps")), _schema("1/ps")]
#: integers are strict: 1.0, "1" and true are not counts
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=MOST)]
SeedNumber = Annotated[int, Field(strict=True, ge=0)]
Steps = Annotated[int, Field(strict=True, ge=1, le=MOST_STEPS)]


def _count_or_auto(least: int) -> tuple[BeforeValidator, WithJsonSchema]:
    def check(value: Any) -> Any:
        if value == "auto" or (type(value) is int and least <= value <= MOST_WORKERS):
            return value
        high = type(value) is int and value > MOST_WORKERS
        bound = f"at most {MOST_WORKERS}" if high else f"at least {least}"
        raise ValueError(f"expected a whole number of {bound}, or auto; found {value!r}")

    schema = {"anyOf": [{"type": "integer", "minimum": least}, {"const": "auto", "type": "string"}]}
    return BeforeValidator(check), WithJsonSchema(schema)


#: ``auto``: what this process may use, see :mod:`cgal_plugin.execution.resources`
CountOrAuto = Annotated[int | Literal["auto"], *_count_or_auto(1)]
CountZeroOrAuto = Annotated[int | Literal["auto"], *_count_or_auto(0)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
