"""The sections of a prior force field of torchmd as rows of prior tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.residues import ONE_TO_THREE

WIDTHS = {"bonds": 2, "angles": 3, "dihedrals": 4}
_MOST = 12


def bead_type(atom_type: str, where: str) -> str:
    """Return the bead type of a CA atom type of torchmd-cg: ``CAA`` → ``CA_ALA``, ``X`` → ``*``.

    Raises
    ------
    ConfigError
        It is another atom type.
    """
    if atom_type == "X":
        return "*"
    if len(atom_type) == 3 and atom_type.startswith("CA") and atom_type[2] in ONE_TO_THREE:
        return f"CA_{ONE_TO_THREE[atom_type[2]]}"
    raise ConfigError(
        f"{where}: atom type {atom_type!r} is not known; known are CA and a one-letter code, such as CAA "
        "(CA of alanine), and X"
    )


def entry_of(entry: Any, needed: set[str], allowed: set[str], where: str) -> tuple[Mapping[str, Any], str]:
    if not isinstance(entry, Mapping) or not needed <= set(entry) <= needed | allowed:
        found = sorted(map(str, entry)) if isinstance(entry, Mapping) else repr(entry)
        also = f" (and may have {', '.join(sorted(allowed))})" if allowed else ""
        raise ConfigError(f"{where} needs {', '.join(sorted(needed))}{also}; found {found}")
    return entry, where


def number(entry: tuple[Mapping[str, Any], str], key: str, least: float = -math.inf) -> float:
    values, where = entry
    value = values[key]
    # YAML reads 1e3 as text
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < least:
        need = "a finite number" if least == -math.inf else f"a finite number, at least {least:g}"
        raise ConfigError(f"{where}: {key} is {value!r}; it must be {need}")
    return number


def _types(key: Any, width: int, where: str) -> list[str]:
    text = str(key).strip()
    parts = [part.strip() for part in text.removeprefix("(").removesuffix(")").split(",")]
    if len(parts) != width or not (text.startswith("(") and text.endswith(")")):
        raise ConfigError(
            f"{where} {text!r}: expected {width} atom types, such as (CAA{', CAC' * (width - 1)})"
        )
    return [bead_type(part, f"{where} {text}") for part in parts]


def _row(term: str, types: list[str], parameters: dict[str, Any]) -> dict[str, Any]:
    return {"term": term, "types": types, "n": 0, "parameters": parameters, "fallback": None}


class Tables:
    """The sections of a file as rows of prior tables; ``exact``: without torchmd's rounding to float32."""

    def __init__(self, content: Mapping[str, Any], name: str, exact: bool) -> None:
        self.content = content
        self.name = name
        self.exact = exact

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of each term that the file has."""
        found = {
            "bonds": self._bonded("bonds", "req"),
            "angles": self._bonded("angles", "theta0"),
            "dihedrals": self._dihedrals(),
            "repulsion": self._repulsion(),
        }
        return {term: rows for term, rows in found.items() if rows}

    def _section(self, key: str) -> Mapping[Any, Any]:
        return self.content.get(key) or {}

    def _kept(self, value: float) -> float:
        return value if self.exact else float(np.float32(value))

    def _bonded(self, term: str, equilibrium: str) -> list[dict[str, Any]]:
        rows = []
        for key, value in self._section(term).items():
            where = f"{self.name}: {term}"
            types = _types(key, WIDTHS[term], where)
            entry = entry_of(value, {"k0", equilibrium}, set(), f"{where} {key}")
            k, x = 2.0 * self._kept(number(entry, "k0", 0.0)), number(entry, equilibrium, 0.0)
            if term == "bonds":
                rows.append(_row(term, types, {"k": k, "r0": self._kept(x)}))
            elif x > 180.0:
                raise ConfigError(f"{where} {key}: theta0 is {x:g}; it must be 0 to 180 degrees")
            else:
                rows.append(_row(term, types, {"k": k, "x0": self._kept(math.radians(x))}))
        return rows

    def _dihedrals(self) -> list[dict[str, Any]]:
        series = []
        for key, value in self._section("dihedrals").items():
            where = f"{self.name}: dihedrals {key}"
            types = _types(key, 4, f"{self.name}: dihedrals")
            entry, _ = entry_of(value, {"terms"}, {"scnb", "scee"}, where)
            if not isinstance(entry["terms"], list) or not entry["terms"]:
                raise ConfigError(f"{where}: terms must be a list of phi_k, phase and per")
            series.append((types, self._cosines(entry["terms"], where)))
        most = max((per for _, found in series for per in found), default=0)
        rows = []
        for types, found in series:
            k, phase = zip(*(found.get(per, (0.0, 0.0)) for per in range(1, most + 1)), strict=True)
            rows.append(_row("dihedrals", types, {"k": list(k), "phase": list(phase)}))
        return rows

    def _cosines(self, terms: Sequence[Any], where: str) -> dict[int, tuple[float, float]]:
        """Return multiplicity → k and phase (rad)."""
        found: dict[int, tuple[float, float]] = {}
        for term in terms:
            one = entry_of(term, {"phi_k", "phase", "per"}, set(), f"{where}: a term")
            per = number(one, "per")
            if per != int(per) or not 1 <= per <= _MOST:
                raise ConfigError(
                    f"{where}: per is {per:g}; it must be a whole number from 1 to {_MOST} (0, a harmonic "
                    "dihedral of CHARMM, is not a cosine)"
                )
            if int(per) in found:
                raise ConfigError(f"{where} has per {int(per)} twice")
            phase = math.radians(number(one, "phase"))
            found[int(per)] = self._kept(number(one, "phi_k")), self._kept(phase)
        return found

    def _repulsion(self) -> list[dict[str, Any]]:
        kinds: dict[str, tuple[float, float]] = {}
        for key, value in self._section("lj").items():
            where = f"{self.name}: lj of {key}"
            kind = bead_type(str(key), f"{self.name}: lj")
            entry = entry_of(value, {"epsilon", "sigma"}, {"epsilon14", "sigma14"}, where)
            sigma = self._kept(number(entry, "sigma", 0.0))
            if sigma == 0.0:
                raise ConfigError(f"{where}: sigma is 0; it must be above 0")
            kinds[kind] = sigma, self._kept(number(entry, "epsilon", 0.0))
        if "*" in kinds and len(kinds) > 1:
            others = ", ".join(k for k in kinds if k != "*")
            raise ConfigError(
                f"{self.name}: lj has X beside {others}; the mixing rule needs the parameters of each type: "
                "replace X by the types that it stands for"
            )
        pairs = combinations_with_replacement(kinds, 2)
        return [_row("repulsion", list(pair), mixed(*(kinds[kind] for kind in pair))) for pair in pairs]


def mixed(first: tuple[float, float], second: tuple[float, float]) -> dict[str, float]:
    """Return our ε and σ of a pair of types, from torchmd's (sigma, epsilon) of each."""
    return {
        "epsilon": 4.0 * math.sqrt(first[1] * second[1]),
        "sigma": 0.5 * (first[0] + second[0]),
    }
