"""Prior tables as a prior force field of torchmd (see :mod:`cgal_plugin.priors.torchmd_cg`)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.residues import STANDARD_RESIDUES, THREE_TO_ONE
from cgal_plugin.priors.prior_set import PriorSet
from cgal_plugin.priors.tables import build_lookup, is_exact
from cgal_plugin.priors.torchmd_cg import OWN, REPULSIONS
from cgal_plugin.priors.torchmd_tables import mixed
from cgal_plugin.provenance import atomic_write, versions

_WIDTHS = {"bonds": 2, "angles": 3, "dihedrals": 4, "repulsion": 2}
#: mass of a CA bead, amu
_CARBON = 12.011
#: largest relative deviation of a pair from the mixing rule; the rule in float64 has 1e-15
_MIXED = 1e-12


def write_torchmd_priors(priors: PriorSet, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write priors as a YAML file that torchmd reads, and return its content.

    :func:`read_torchmd_priors` gives back the same priors (fitted angles and phases within 1e-15). torchmd
    rounds the parameters to float32. What it must be told besides is in the section ``cgal_plugin``, which it
    does not read: the term and the excluded bonds of the repulsion.

    Parameters
    ----------
    priors
        Priors, of one molecule or any.
    path
        File to write.

    Raises
    ------
    ConfigError
        torchmd has no such term, form, bead type or wildcard, or a repulsion that is not mixed from one
        sigma and epsilon per bead type.
    """
    for term in priors.terms:
        if term not in _WIDTHS:
            raise ConfigError(
                f"torchmd cannot represent the term {term}: write only the terms "
                f"{', '.join(t for t in priors.terms if t in _WIDTHS) or 'that it has'} (with_terms, "
                "--terms)"
            )
    if "angles" in priors.terms and priors.angle_form != "theta":
        raise ConfigError(
            "torchmd's angles are harmonic in the angle, these in cos θ: leave them out (with_terms, --terms)"
        )
    rows = {term: _rows(priors, term) for term in priors.terms}
    kinds = sorted({t for own in rows.values() for row in own for t in row["types"] if is_exact(t)})
    if priors.topology is not None:
        kinds = sorted({*kinds, *priors.topology.type_names})
    kinds = kinds or [f"CA_{residue}" for residue in STANDARD_RESIDUES]
    names = {kind: atom_type(kind) for kind in kinds}
    content: dict[str, Any] = {"atomtypes": sorted(names.values())}
    for term in ("bonds", "angles", "dihedrals"):
        if term in rows:
            content[term] = {_key(row["types"]): _VALUES[term](row["parameters"]) for row in rows[term]}
    if "repulsion" in rows:
        content["lj"] = _lj(priors, rows["repulsion"], kinds)
    content["electrostatics"] = {name: {"charge": 0.0} for name in content["atomtypes"]}
    masses = _masses(priors)
    content["masses"] = {names[kind]: masses.get(kind, _CARBON) for kind in kinds}
    values = [v for t, own in rows.items() if t != "repulsion" for r in own for v in r["parameters"].values()]
    single = all(map(_is_single, [*values, *(list(v.values()) for v in content.get("lj", {}).values())]))
    content[OWN] = {
        "precision": "float32" if single else "float64",
        **({} if priors.temperature is None else {"temperature": priors.temperature}),
        **(
            {"repulsion": _power(priors), "exclude_bonds": priors.exclude_bonds}
            if "repulsion" in rows
            else {}
        ),
        "versions": versions(),
    }
    with atomic_write(path, "w") as handle:
        yaml.safe_dump(content, handle, sort_keys=False)
    return content


def atom_type(kind: str) -> str:
    """Return torchmd-cg's atom type of a CA bead type or of the wildcard ``*``.

    Raises
    ------
    ConfigError
        It has none.
    """
    if kind == "*":
        return "X"
    residue = kind.removeprefix("CA_")
    if residue == kind or residue not in THREE_TO_ONE:
        raise ConfigError(
            f"torchmd-cg has no atom type for {kind!r}: it has CA of the standard residues, and X for '*'"
        )
    return f"CA{THREE_TO_ONE[residue]}"


def _is_single(values: float | Sequence[float]) -> bool:
    """Return whether float32 holds the values, as those of a file of torchmd."""
    return bool(np.all(np.asarray(values, dtype=np.float32) == np.asarray(values)))


def _rows(priors: PriorSet, term: str) -> list[dict[str, Any]]:
    rows = [row for row in priors.rows if row["term"] == term and row["parameters"] is not None]
    for row in rows:
        if len(row["types"]) != _WIDTHS[term] or any(isinstance(t, int) for t in row["types"]):
            raise ConfigError(f"{term} {row['types']!r}: expected {_WIDTHS[term]} names of bead types")
    return rows


def _key(types: Sequence[str]) -> str:
    return f"({', '.join(map(atom_type, types))})"


def degrees(angle: float) -> float:
    """Return the degrees that ``math.radians`` converts to ``angle``, or the nearest if there are none."""
    start = math.degrees(angle)
    near = [start, *(math.nextafter(start, s * math.inf) for s in (1, -1))]
    return next((d for d in near if math.radians(d) == angle), start)


_VALUES: dict[str, Any] = {
    "bonds": lambda p: {"k0": p["k"] / 2.0, "req": p["r0"]},
    "angles": lambda p: {"k0": p["k"] / 2.0, "theta0": degrees(p["x0"])},
    "dihedrals": lambda p: {
        "terms": [
            {"phi_k": k, "phase": degrees(phase), "per": m}
            for m, (k, phase) in enumerate(zip(p["k"], p["phase"], strict=True), start=1)
        ],
        "scnb": 1,
        "scee": 1,
    },
}


def _masses(priors: PriorSet) -> dict[str, float]:
    if priors.topology is not None:
        return dict(zip(priors.topology.type_names, priors.topology.masses.tolist(), strict=True))
    return dict((priors.source or {}).get("masses") or {})


def _power(priors: PriorSet) -> str:
    found = [name for name, power in REPULSIONS.items() if power == priors.power]
    if not found:
        raise ConfigError(
            f"torchmd's repulsion has power {' or '.join(map(str, REPULSIONS.values()))}, this one "
            f"{priors.power}: leave it out (with_terms, --terms)"
        )
    return found[0]


def _lj(
    priors: PriorSet, rows: Sequence[dict[str, Any]], kinds: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return sigma and epsilon of each atom type, from which the rows are mixed."""
    _power(priors)
    own = [row["parameters"] for row in rows]
    if len(rows) == 1 and set(rows[0]["types"]) == {"*"}:
        return {"X": _four(own[0]["sigma"], own[0]["epsilon"] / 4.0)}
    # the order of a file that was read is that of its pairs of equal types
    first = [row["types"][0] for row in rows if len(set(row["types"])) == 1 and row["types"][0] in kinds]
    order = list(dict.fromkeys([*first, *kinds]))
    lookup = build_lookup([row["types"] for row in rows], 2, dict(enumerate(order)))
    i, j = np.triu_indices(len(order))
    found = lookup.row(np.stack([i, j]))
    i, j, found = i[found >= 0], j[found >= 0], found[found >= 0]
    sigma = _solve(i, j, np.array([own[n]["sigma"] for n in found]), len(order))
    with np.errstate(divide="ignore"):
        log = np.log(np.array([own[n]["epsilon"] for n in found]) / 4.0)
    positive = np.isfinite(log)
    epsilon = np.exp(_solve(i[positive], j[positive], log[positive], len(order)))
    for a, b, n in zip(i.tolist(), j.tolist(), found.tolist(), strict=True):
        if a == b:  # exact
            sigma[a], epsilon[a] = own[n]["sigma"], own[n]["epsilon"] / 4.0
    for a, b, n in zip(i.tolist(), j.tolist(), found.tolist(), strict=True):
        rule = mixed((sigma[a], epsilon[a]), (sigma[b], epsilon[b]))
        wrong = [k for k, v in rule.items() if abs(v - own[n][k]) > _MIXED * max(abs(own[n][k]), 1e-300)]
        if wrong or sigma[a] <= 0 or sigma[b] <= 0:
            is_, would = (f"epsilon {v['epsilon']:.6g} and sigma {v['sigma']:.6g}" for v in (own[n], rule))
            raise ConfigError(
                "torchmd mixes the repulsion of a pair from sigma and epsilon of each type; "
                f"{order[a]}-{order[b]} has {is_}, mixed it would have {would}: leave it out (with_terms, "
                "--terms)"
            )
    used = sorted({*i.tolist(), *j.tolist()})
    return {atom_type(order[n]): _four(float(sigma[n]), float(epsilon[n])) for n in used}


def _solve(i: Any, j: Any, values: Any, n: int) -> Any:
    """Return x with ½ (x_i + x_j) = values in the sense of least squares."""
    matrix = np.zeros((len(values), n))
    np.add.at(matrix, (np.arange(len(values)), i), 0.5)
    np.add.at(matrix, (np.arange(len(values)), j), 0.5)
    return np.linalg.lstsq(matrix, values, rcond=None)[0]


def _four(sigma: float, epsilon: float) -> dict[str, float]:
    return {"epsilon": epsilon, "sigma": sigma, "epsilon14": epsilon, "sigma14": sigma}
