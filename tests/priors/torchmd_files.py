"""A prior force field in torchmd's layout, and torchmd's energies of it in plain numpy."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ONE = dict(zip(("ALA", "CYS", "ASP", "GLY", "LEU", "PRO"), "ACDGLP", strict=True))


def force_field(seed: int = 0, *, kinds: str = "ACDGLP") -> dict[str, Any]:
    """Bonds of every ordered pair but a few, angles and dihedrals with wildcards, lj of each type."""
    rng = np.random.default_rng(seed)
    names = [f"CA{k}" for k in kinds]
    bonds = {
        f"({a}, {b})": {"k0": float(rng.uniform(20, 90)), "req": float(rng.uniform(3.7, 3.95))}
        for a, b in itertools.product(names, names)
    }
    del bonds["(CAG, CAA)"]  # the reverse is used
    del bonds["(CAP, CAL)"], bonds["(CAL, CAP)"]  # a wildcard is used, of four that match
    for key in ("(X, CAP)", "(CAP, X)", "(X, CAL)", "(CAL, X)", "(X, X)"):
        bonds[key] = {"k0": float(rng.uniform(20, 90)), "req": float(rng.uniform(3.7, 3.95))}
    angles = {
        key: {"k0": float(rng.uniform(1, 9)), "theta0": float(rng.uniform(80, 140))}
        for key in ("(X, X, X)", "(CAA, X, CAL)", "(CAL, CAG, CAA)", "(X, CAG, X)")
    }
    dihedrals = {
        key: {
            "terms": [
                {"phi_k": float(rng.uniform(-1, 1)), "phase": float(rng.uniform(-180, 180)), "per": per}
                for per in pers
            ],
            "scnb": 1,
            "scee": 1,
        }
        for key, pers in (("(X, X, X, X)", (1, 2)), ("(CAA, X, X, CAL)", (3,)), ("(X, CAG, CAL, X)", (1, 3)))
    }
    lj = {}
    for name in names:
        epsilon, sigma = float(rng.uniform(500, 2500)), float(rng.uniform(0.8, 1.2))
        lj[name] = {"epsilon": epsilon, "sigma": sigma, "epsilon14": epsilon, "sigma14": sigma}
    return {
        "atomtypes": names,
        "bonds": bonds,
        "angles": angles,
        "dihedrals": dihedrals,
        "lj": lj,
        "electrostatics": {name: {"charge": 0.0} for name in names},
        "masses": {name: 12.0 for name in names},
    }


def write(content: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def parameters(section: dict[str, Any], types: list[str]) -> dict[str, Any]:
    """The entry that torchmd finds: fewest X, then the order of the beads, then X at the end."""
    best = None
    for reverse, tuple_ in ((False, types), (True, types[::-1])):
        for hidden in itertools.product((False, True), repeat=len(types)):
            key = f"({', '.join('X' if h else t for h, t in zip(hidden, tuple_, strict=True))})"
            rank = (sum(hidden), reverse, hidden)
            if key in section and (best is None or rank < best[0]):
                best = (rank, section[key])
    assert best is not None, types
    return best[1]


def f32(value: float) -> float:
    return float(np.float32(value))


def energies(content: dict[str, Any], residues: list[str], x: np.ndarray) -> dict[str, float]:
    """Energies (kcal/mol) of one chain ``(n, 3)`` Å, with torchmd's formulas and its rounding to float32."""
    kinds = [f"CA{ONE[r]}" for r in residues]
    n = len(kinds)
    found = dict.fromkeys(("bonds", "angles", "dihedrals", "repulsion"), 0.0)
    for i in range(n - 1):
        p = parameters(content["bonds"], kinds[i : i + 2])
        found["bonds"] += f32(p["k0"]) * (np.linalg.norm(x[i + 1] - x[i]) - f32(p["req"])) ** 2
    for i in range(n - 2):
        p = parameters(content["angles"], kinds[i : i + 3])
        a, b = x[i] - x[i + 1], x[i + 2] - x[i + 1]
        theta = math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        found["angles"] += f32(p["k0"]) * (theta - f32(math.radians(p["theta0"]))) ** 2
    for i in range(n - 3):
        p = parameters(content["dihedrals"], kinds[i : i + 4])
        a, b, c = x[i + 1] - x[i], x[i + 2] - x[i + 1], x[i + 3] - x[i + 2]
        n1, n2 = np.cross(a, b), np.cross(b, c)
        phi = math.atan2(np.linalg.norm(b) * (a @ n2), n1 @ n2)
        for t in p["terms"]:
            found["dihedrals"] += f32(t["phi_k"]) * (
                1 + math.cos(t["per"] * phi - f32(math.radians(t["phase"])))
            )
    for i, j in itertools.combinations(range(n), 2):
        if j > i + 1:
            one, two = content["lj"][kinds[i]], content["lj"][kinds[j]]
            epsilon = math.sqrt(f32(one["epsilon"]) * f32(two["epsilon"]))
            sigma = 0.5 * (f32(one["sigma"]) + f32(two["sigma"]))
            found["repulsion"] += 4 * epsilon * (sigma / np.linalg.norm(x[i] - x[j])) ** 6
    return found
