"""Prior tables as a file of priors of mlcg (see :mod:`cgal_plugin.priors.mlcg`), without mlcg."""

from __future__ import annotations

import math
import os
import pickle
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.embedding import Embedding, resolve_embedding
from cgal_plugin.priors.prior_set import PriorSet
from cgal_plugin.priors.resolve import rows_of_terms, term_index
from cgal_plugin.priors.tables import is_exact
from cgal_plugin.provenance import atomic_path

if TYPE_CHECKING:
    from torch import nn

#: term → class of mlcg, its module, beads per term, and the usual name of its neighbour list
_CLASSES = {
    "bonds": ("GeneralBonds", "mlcg.nn.prior.harmonic", 2, "bonds"),
    "angles": ("GeneralAngles", "mlcg.nn.prior.harmonic", 3, "angles"),
    "dihedrals": ("Dihedral", "mlcg.nn.prior.fourier_series", 4, "dihedrals"),
    "repulsion": ("Repulsion", "mlcg.nn.prior.repulsion", 2, "non_bonded"),
}
_WRAPPER = ("GradientsOut", "mlcg.nn.gradients")
#: largest table of dihedrals that is written, in values
_MOST = 50_000_000


def mlcg_statistics(
    priors: PriorSet, embedding: str | Mapping[str, Any] | Embedding
) -> dict[str, dict[tuple[int, ...], dict[str, Any]]]:
    """Return mlcg's ``statistics`` of each prior: tuple of bead type numbers → parameters.

    ``embedding`` gives the numbers, such as ``"mlcg-tk"``.

    Keys are names of neighbour lists (``"bonds"``, ``"angles"``, ``"dihedrals"``, ``"non_bonded"``, or those
    of the imported file); each tuple is in both orders. Parameters are ``k`` and ``x_0``; ``k1s``, ``k2s``
    and ``v_0``; or ``sigma``.

    Raises
    ------
    ConfigError
        mlcg has no such term, form or wildcard, or the embedding lacks a bead type.
    """
    named = resolve_embedding(embedding)
    usual = dict((priors.source or {}).get("modules") or {})
    found: dict[str, dict[tuple[int, ...], dict[str, Any]]] = {}
    for term in priors.terms:
        if term not in _CLASSES:
            raise ConfigError(
                f"mlcg's priors cannot represent the term {term}; they are {', '.join(_CLASSES)}: leave it "
                "out (with_terms, --terms)"
            )
        if term == "angles" and priors.angle_form != "cos":
            raise ConfigError(
                "mlcg's angles are harmonic in the cosine, these in the angle: leave out angles "
                "(with_terms, --terms), or fit them with angle_form 'cos'"
            )
        rows = [row for row in priors.rows if row["term"] == term and row["parameters"] is not None]
        statistics: dict[tuple[int, ...], dict[str, Any]] = {}
        for names, row in _by_types(priors, term, rows).items():
            missing = sorted({t for t in names if t not in named.ids})
            if missing:
                raise ConfigError(
                    f"embedding {named.name!r} has no number for bead types {', '.join(missing)}: use "
                    "another, or a table"
                )
            statistics[tuple(named.ids[t] for t in names)] = _values(priors, term, row)
        if not statistics:
            raise ConfigError(f"{priors!r} has no parameters of {term} to write: remove the term")
        found[usual.get(term, _CLASSES[term][3])] = statistics
    return found


def write_mlcg_priors(
    priors: PriorSet,
    path: str | os.PathLike[str],
    embedding: str | Mapping[str, Any] | Embedding,
) -> None:
    """Write priors as a file that ``torch.load`` with mlcg reads: a ``ModuleDict`` of its priors.

    mlcg keeps parameters in float32. It takes the pairs of the repulsion from the neighbour lists of its
    data: make these with pairs more than ``priors.exclude_bonds`` bonds apart.

    Raises
    ------
    ConfigError
        See :func:`mlcg_statistics`; or the tables of mlcg, with one axis per bead, would be too large.
    """
    import torch
    from torch import nn

    statistics = mlcg_statistics(priors, embedding)
    classes = {_CLASSES[term][:2] for term in priors.terms} | {_WRAPPER}
    stubs: dict[tuple[str, str], type[nn.Module]] = {c: type(c[0], (nn.Module,), {}) for c in classes}
    modules = nn.ModuleDict()
    for term, (name, table) in zip(priors.terms, statistics.items(), strict=True):
        *_, order, _ = _CLASSES[term]
        prior = stubs[_CLASSES[term][:2]]()
        _fill(prior, table, order)
        vars(prior).update(allowed_interaction_keys=list(table), name=name, order=order)
        outer = stubs[_WRAPPER]()
        outer.model = prior
        vars(outer).update(name=name, targets=["forces"])
        modules[name] = outer
    names = {stub: module for (_, module), stub in stubs.items()}
    atomic_path(path, lambda name: torch.save(modules, name, pickle_module=_pickle_module(names)))


def _pickle_module(stubs: Mapping[type, str]) -> Any:
    """Return the part of ``pickle`` that ``torch.save`` uses; it names the stubs as the classes of mlcg."""

    base: Any = pickle._Pickler  # in Python, so that save_global can be overridden

    class Pickler(base):  # type: ignore[misc]  # its type is that of the one in C
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if obj not in stubs:
                super().save_global(obj, name)
                return
            self.write(pickle.GLOBAL + f"{stubs[obj]}\n{obj.__name__}\n".encode())
            self.memoize(obj)

    return types.SimpleNamespace(Pickler=Pickler, __name__="pickle")


def _by_types(
    priors: PriorSet, term: str, rows: list[dict[str, Any]]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the row of each tuple of bead types, in both orders."""
    if all(is_exact(t) for row in rows for t in row["types"]):
        return _both_orders({tuple(row["types"]): row for row in rows})
    if priors.topology is None:
        raise ConfigError(
            f"mlcg's priors have no wildcards, which {term} of {priors!r} have: choose a molecule "
            "(for_topology; cgal export-priors --topology)"
        )
    topology = priors.topology
    index = term_index(topology, term, priors.exclude_bonds)
    patterns = [row["types"] for row in rows]
    used = rows_of_terms(patterns, index, topology, term in priors.ordered, term)
    beads = zip(index.T.tolist(), used.tolist(), strict=True)
    return _both_orders({tuple(topology.type_names[b] for b in own): rows[n] for own, n in beads})


def _both_orders(rows: Mapping[tuple[str, ...], dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for names, row in rows.items():
        found[names] = row
        found.setdefault(names[::-1], rows.get(names[::-1], row))
    return found


def _values(priors: PriorSet, term: str, row: Mapping[str, Any]) -> dict[str, Any]:
    p = row["parameters"]
    if term == "repulsion":
        if priors.power != 6 or p["epsilon"] < 0:
            raise ConfigError(
                f"mlcg's repulsion is (sigma/r)^6; this one has power {priors.power} and epsilon "
                f"{p['epsilon']:g}: leave it out (with_terms, --terms)"
            )
        return {"sigma": p["sigma"] * p["epsilon"] ** (1.0 / 6.0)}
    if term != "dihedrals":
        return {"k": p["k"] / 2.0, "x_0": p["r0" if term == "bonds" else "x0"]}
    pairs = list(zip(p["k"], p["phase"], strict=True))
    return {
        "k1s": {f"k1_{n}": k * math.sin(phase) for n, (k, phase) in enumerate(pairs, start=1)},
        "k2s": {f"k2_{n}": k * math.cos(phase) for n, (k, phase) in enumerate(pairs, start=1)},
        "v_0": float(row.get("offset") or 0.0) + sum(p["k"]),
    }


def _fill(prior: nn.Module, table: Mapping[tuple[int, ...], Mapping[str, Any]], order: int) -> None:
    """Set the buffers of a prior, with one axis per bead, as its constructor in mlcg does."""
    import torch

    size = 1 + max(t for key in table for t in key)
    keys = tuple(np.array(list(table)).T)
    degrees = max((len(v["k1s"]) for v in table.values() if "k1s" in v), default=0)
    if size**order * max(degrees, 1) > _MOST:
        raise ConfigError(
            f"mlcg's table of {type(prior).__name__} would have {size}^{order} entries for each of {degrees} "
            "degrees: use an embedding with smaller numbers"
        )
    for name in next(iter(table.values())):
        series = name in ("k1s", "k2s")
        buffer = torch.zeros(*((degrees,) if series else ()), *((size,) * order))
        values = [list(v[name].values()) if series else v[name] for v in table.values()]
        given = torch.tensor(values, dtype=buffer.dtype)
        buffer[(slice(None), *keys) if series else keys] = given.T if series else given
        prior.register_buffer(name, buffer)
    if degrees:
        names = {f"{k}_names": [f"{k}_{n}" for n in range(1, degrees + 1)] for k in ("k1", "k2")}
        vars(prior).update(n_degs=degrees, **names)
