"""Priors of mlcg as plain arrays, and mlcg's energies of them in plain numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.embedding import resolve_embedding
from cgal_plugin.priors.resolve import term_index

SEQUENCE = "YGADPYGADY"
WIDTHS = {"bonds": 2, "angles": 3, "dihedrals": 4, "repulsion": 2}


def topology(embedding: str = "mlcg-tk") -> CGTopology:
    return CGTopology.from_sequence(SEQUENCE).with_embedding(embedding)


def parts(seed: int = 0, *, quartic: bool = False) -> dict[str, dict[str, Any]]:
    """Parameters of each tuple of types of :data:`SEQUENCE`, in both orders, as float32 as in mlcg."""
    rng = np.random.default_rng(seed)
    numbers = resolve_embedding("mlcg-tk").ids
    molecule = topology()
    found: dict[str, dict[str, Any]] = {}
    for name, term in (
        ("bonds", "bonds"),
        ("angles", "angles"),
        ("non_bonded", "repulsion"),
        ("pseudo_ca_dihedral", "dihedrals"),
    ):
        index = term_index(molecule, term, 2)
        keys = sorted({tuple(numbers[molecule.type_names[b]] for b in column) for column in index.T})
        keys = list(dict.fromkeys(itertools.chain.from_iterable((k, k[::-1]) for k in keys)))
        same = {k: rng.uniform(size=11).astype(np.float32).astype(float) for k in keys if k <= k[::-1]}
        u = np.array([same[min(k, k[::-1])] for k in keys])
        part: dict[str, Any] = {"term": term, "types": np.array(keys), "index": None}
        if term == "bonds":
            part |= {"kind": "harmonic", "k": 64 * u[:, 0], "x_0": 3.5 + u[:, 1] / 4}
        elif term == "angles" and quartic:
            part |= {"kind": "polynomial_cos", "ks": u[:, :4] - 0.5, "v_0": u[:, 4]}
        elif term == "angles":
            part |= {"kind": "harmonic_cos", "k": 16 * u[:, 0], "x_0": -u[:, 1]}
        elif term == "repulsion":
            part |= {"kind": "repulsion", "sigma": 4.0 + u[:, 0]}
        else:
            part |= {"kind": "fourier", "k1s": u[:, :5] - 0.5, "k2s": u[:, 5:10] - 0.5, "v_0": -4 * u[:, 10]}
        found[name] = part
    return found


def energies(made: dict[str, dict[str, Any]], frame: np.ndarray, exclude_bonds: int = 2) -> dict[str, float]:
    """Energies (kcal/mol) of :data:`SEQUENCE` ``(n, 3)`` Å, with mlcg's formulas."""
    molecule, found = topology(), {}
    for name, part in made.items():
        rows = {tuple(k): n for n, k in enumerate(part["types"].tolist())}
        total = 0.0
        for column in term_index(molecule, part["term"], exclude_bonds).T.tolist():
            n = rows[tuple(int(molecule.types[b]) for b in column)]
            x = frame[column]
            if part["kind"] == "harmonic":
                total += part["k"][n] * (np.linalg.norm(x[1] - x[0]) - part["x_0"][n]) ** 2
            elif part["kind"] == "repulsion":
                total += (part["sigma"][n] / np.linalg.norm(x[1] - x[0])) ** 6
            elif part["term"] == "angles":
                a, b = x[0] - x[1], x[2] - x[1]
                c = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                if part["kind"] == "harmonic_cos":
                    total += part["k"][n] * (c - part["x_0"][n]) ** 2
                else:
                    total += part["v_0"][n] + sum(k * c**m for m, k in enumerate(part["ks"][n], start=1))
            else:
                a, b, d = x[1] - x[0], x[2] - x[1], x[3] - x[2]
                n1, n2 = np.cross(a, b), np.cross(b, d)
                phi = np.arctan2(np.linalg.norm(b) * (a @ n2), n1 @ n2)
                m = np.arange(1, 6)
                total += part["v_0"][n] + part["k1s"][n] @ np.sin(m * phi) + part["k2s"][n] @ np.cos(m * phi)
        found[name] = float(total)
    return found
