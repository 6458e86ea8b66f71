"""Priors of mlcg: read into prior tables.

mlcg's energies: bonds k (r − x_0)², angles k (cos θ − x_0)² or a polynomial in cos θ, dihedrals
v_0 + Σ k1 sin nφ + k2 cos nφ, repulsion (sigma/r)⁶. Constants (v_0) are left out: each row records its own as
``offset``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.embedding import Embedding, resolve_embedding
from cgal_plugin.priors.prior_set import TERMS, PriorSet
from cgal_plugin.priors.resolve import check_units, rows_of_terms, term_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

FORMAT = "mlcg"
#: names of mlcg-tk for priors of one term that act on different beads
_PARTS = re.compile(r"[A-Z]{3}_(phi|psi)|(non_)?pro_omega|gamma_[12]|(n_term|bulk|c_term)_\w+")
_KINDS = ("harmonic", "harmonic_cos", "polynomial_cos", "fourier", "repulsion")
#: mlcg-tk's non-bonded pairs are more than two bonds apart; of its five-bead map more than four
_EXCLUDED, _EXCLUDED_5 = 2, 4


def priors_from_mlcg(
    parts: Mapping[str, Mapping[str, Any]],
    topology: CGTopology | None,
    embedding: str | Mapping[str, Any] | Embedding,
    *,
    temperature: float | None = None,
    exclude_bonds: int | None = None,
    source: Mapping[str, Any] | None = None,
) -> PriorSet:
    """Return priors of mlcg as prior tables.

    Parameters
    ----------
    parts
        Prior name → arrays, as ``MlcgFile.parts`` of :func:`cgal_plugin.models.mlcg_files.read_mlcg`.
    topology
        Molecule. Needed for priors that are specialised for one; None: any molecule.
    embedding
        Numbering of the bead types in ``parts``.
    temperature
        Temperature of the data of the priors, K; the files do not have it.
    exclude_bonds
        Beads at most this many bonds apart do not repel each other. None: as in the neighbour list of the
        file, or without one 2, as in mlcg-tk (4 for its five-bead map).
    source
        ``file`` and ``sha256`` of the file, to be recorded.

    Raises
    ------
    ConfigError
        A prior has parameters that the tables cannot represent, acts on other beads than those of the
        topology, or has none for some of them.
    """
    named = resolve_embedding(embedding)
    keys: dict[str, list[str]] = {}
    for key, part in parts.items():
        term = "angle_series" if part["kind"] == "polynomial_cos" else str(part["term"])
        if part["kind"] not in _KINDS or term not in TERMS:
            raise ConfigError(
                f"prior {key} of kind {part['kind']!r} is not known; known are {', '.join(_KINDS)}"
            )
        keys.setdefault(term, []).append(key)
    rows: dict[str, list[dict[str, Any]]] = {}
    ordered: list[str] = []
    modules: dict[str, str] = {}
    for term, own in keys.items():
        what = ", ".join(own)
        if len({parts[key]["kind"] for key in own}) > 1:
            raise ConfigError(
                f"priors {what} are all {term}, of different kinds; this package has one table per term"
            )
        indices = [np.asarray(parts[key]["index"]) for key in own if parts[key].get("index") is not None]
        if len(own) > 1 and len(indices) < len(own) and not all(map(_PARTS.fullmatch, own)):
            raise ConfigError(
                f"priors {own[0]} and {own[1]} are both {term}; without neighbour lists it is not known "
                "which of them acts where (but for names of mlcg-tk: ALA_phi, pro_omega, gamma_1, bulk_bonds)"
            )
        if len(indices) == len(own) and topology is not None:
            found = _check_index(what, term, np.concatenate(indices, axis=1), topology, exclude_bonds)
            exclude_bonds = found if term == "repulsion" else exclude_bonds
        types = [t for key in own for t in _types(key, parts[key], topology, _names(named, key), named.name)]
        values = [value for key in own for value in _parameters(parts[key])]
        rows[term], depends = _rows(what, term, types, _padded(values))
        ordered += [term] if depends else []
        modules |= {term: what} if len(own) == 1 else {}
    terms = tuple(term for term in TERMS if term in rows)
    if not terms:
        raise ConfigError("there are no priors in this file")
    check_units(rows.get("bonds", ()), str((source or {}).get("file", "these priors")))
    priors = PriorSet(
        topology=None,
        temperature=temperature,
        terms=terms,
        angle_form="cos",
        power=6,
        exclude_bonds=(_EXCLUDED_5 if named.shares else _EXCLUDED)
        if exclude_bonds is None
        else exclude_bonds,
        rows=tuple(row for term in terms for row in rows[term]),
        histograms=(),
        n_frames=0,
        ordered=tuple(ordered),
        source={"file": "memory", **(source or {}), "format": FORMAT, "modules": modules},
    )
    return priors if topology is None else priors.for_topology(topology)


def energy_offset(priors: PriorSet) -> float:
    """Return the constant (kcal/mol) that must be added to the prior energies of a molecule to give mlcg's.

    Raises
    ------
    ConfigError
        The priors are for any molecule.
    """
    topology, total = priors.molecule, 0.0
    for term in priors.terms:
        own = [row for row in priors.rows if row["term"] == term and row["parameters"] is not None]
        if any(row.get("offset") for row in own):
            index = term_index(topology, term, priors.exclude_bonds)
            used = rows_of_terms([r["types"] for r in own], index, topology, term in priors.ordered, term)
            total += sum(float(own[n].get("offset") or 0.0) for n in used)
    return total


def _check_index(
    key: str, term: str, index: NDArray[np.int64], topology: CGTopology, exclude_bonds: int | None
) -> int:
    """Return the number of excluded bonds for which the term acts on the beads of ``index``."""
    given = {min(tuple(c), tuple(reversed(c))) for c in index.T.tolist()}
    options = [0] if term != "repulsion" else range(6) if exclude_bonds is None else [exclude_bonds]
    for excluded in options:
        own = {min(tuple(c), tuple(reversed(c))) for c in term_index(topology, term, excluded).T.tolist()}
        if own == given and len(given) == index.shape[1]:
            return excluded
    only = sorted(given ^ own)[:3]
    raise ConfigError(
        f"prior {key} of the file does not act on the {term} of {topology!r}"
        + (f" with any number of excluded bonds up to {options[-1]}" if term == "repulsion" else "")
        + f": they differ in {', '.join(map(str, only)) or 'terms that occur twice'}"
    )


def _types(
    key: str, part: Mapping[str, Any], topology: CGTopology | None, names: Mapping[int, str], embedding: str
) -> list[tuple[str, ...]]:
    """Return the bead types of each row of parameters, in the order of our index tables."""
    if part.get("types") is None:
        if topology is None:
            raise ConfigError(f"prior {key} is specialised for one molecule: give it (topology, --topology)")
        index = np.asarray(part["index"]).T.tolist()
        beads = [tuple(c) if c[0] < c[-1] else tuple(reversed(c)) for c in index]
        return [tuple(topology.type_names[b] for b in c) for c in beads]
    types = [tuple(int(t) for t in row) for row in np.asarray(part["types"])]
    unknown = sorted({t for row in types for t in row} - set(names))
    if unknown:
        raise ConfigError(
            f"prior {key} has parameters of bead types {unknown}, which embedding {embedding!r} lacks: "
            "give the embedding of the file, a built-in one or a table of its numbers"
        )
    return [_before_proline(key, tuple(names[t] for t in row)) for row in types]


def _before_proline(key: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the bead types of ω before proline, ``pro_omega`` in mlcg-tk: proline has the CA next to N."""
    if key != "pro_omega" or "CA_*" not in names:
        return names
    last = names[2].startswith("N_")
    return (*names[:3], "CA_PRO") if last else ("CA_PRO", *names[1:])


def _names(named: Embedding, key: str) -> dict[int, str]:
    """Return the bead type of each number; of several, a pattern such as ``CA_*``.

    The priors of mlcg-tk that are named by residue, such as ``ALA_phi``, are for CA of that residue.
    """
    types: dict[int, list[str]] = {}
    for name, number in named.ids.items():
        types.setdefault(number, []).append(name)
    residue = key.split("_")[0]
    names = {}
    for number, own in types.items():
        of_residue = f"{own[0].split('_')[0]}_{residue}"
        single = own[0] if len(own) == 1 else f"{own[0].split('_')[0]}_*"
        names[number] = of_residue if len(own) > 1 and of_residue in own else single
    return names


def _padded(values: Sequence[tuple[dict[str, Any], float]]) -> list[tuple[dict[str, Any], float]]:
    """Return parameters whose series, of several priors, have one length."""
    longest = max((len(v) for row, _ in values for v in row.values() if isinstance(v, list)), default=0)

    def padded(value: Any) -> Any:
        return [*value, *[0.0] * (longest - len(value))] if isinstance(value, list) else value

    return [({name: padded(v) for name, v in row.items()}, offset) for row, offset in values]


def _parameters(part: Mapping[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """Return the parameters of each row, and the constant that is left out of its energy."""
    kind = part["kind"]
    if kind == "repulsion":
        return [({"epsilon": 1.0, "sigma": float(s)}, 0.0) for s in part["sigma"]]
    constant = np.asarray(part.get("v_0", np.zeros(1)), dtype=np.float64).reshape(-1)
    if kind in ("harmonic", "harmonic_cos"):
        x = "r0" if kind == "harmonic" else "x0"
        values = zip(part["k"], part["x_0"], strict=True)
        found = [({"k": 2.0 * float(k), x: float(x_0)}, 0.0) for k, x_0 in values]
    elif kind == "fourier":
        k1, k2 = np.asarray(part["k1s"], dtype=float), np.asarray(part["k2s"], dtype=float)
        size, phase = np.hypot(k1, k2), np.arctan2(k1, k2)
        # ours has K (1 + cos(nφ − phase))
        rows = zip(size, phase, strict=True)
        found = [({"k": k.tolist(), "phase": p.tolist()}, -float(k.sum())) for k, p in rows]
    else:
        # cos mθ is the Chebyshev polynomial of cos θ
        series = [np.polynomial.chebyshev.poly2cheb([0.0, *ks]) for ks in np.asarray(part["ks"], dtype=float)]
        longest = np.asarray(part["ks"]).shape[1] + 1
        padded = [np.pad(s, (0, longest - len(s))) for s in series]
        found = [({"c": s[1:].tolist()}, float(s[0])) for s in padded]
    whole = np.broadcast_to(constant, (len(found),))
    return [(row, own + float(v)) for (row, own), v in zip(found, whole, strict=True)]


def _rows(
    key: str, term: str, types: Sequence[tuple[str, ...]], values: Sequence[tuple[dict[str, Any], float]]
) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows of a table, and whether it depends on the order of the beads."""
    found: dict[tuple[str, ...], tuple[dict[str, Any], float]] = {}
    for names, value in zip(types, values, strict=True):
        if found.setdefault(names, value) != value:
            raise ConfigError(
                f"prior {key} has different parameters for the same bead types {'-'.join(names)} at "
                "different places of the molecule; a prior table has one row per tuple of bead types"
            )
    ordered = any(found.get(names[::-1], value) != value for names, value in found.items())
    rows, done = [], set[tuple[str, ...]]()
    for names, (parameters, offset) in found.items():
        if not ordered and names[::-1] in done:
            continue
        done.add(names)
        constant = {"offset": offset} if offset else {}
        row = {"term": term, "types": list(names), "n": 0, "parameters": parameters, "fallback": None}
        rows.append({**row, **constant})
    return rows, ordered
