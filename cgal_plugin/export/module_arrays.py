"""An exported potential as plain arrays and numbers, and back: exact in both directions.

Names of arrays begin with ``network/`` or ``terms/K/``. Beads are counted from 0 within one molecule, lengths
are in Å and energies in kcal/mol. The numbers (``form``) can be stored as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.export.filters import ACTIVATIONS
from cgal_plugin.export.forms import DensePotential, ListPotential, Potential, Terms
from cgal_plugin.export.neighbors import NeighborList
from cgal_plugin.export.network import Network
from cgal_plugin.export.probes import pair_terms
from cgal_plugin.export.tables import exact_filters
from cgal_plugin.export.terms import AngleTerm, DihedralTerm, PairTerm, SeriesTerm
from cgal_plugin.models.weights import (
    BlockWeights,
    CGSchNetWeights,
    LinearWeights,
    NeighborEmbeddingWeights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

_BLOCK = ("lin1", "lin2", "lin2_bias", "lin", "lin_bias")
#: beads of a term, and arrays with a row per term
_TERMS = {
    "pair": (2, ("first", "second")),
    "series": (2, ("row",)),
    "angle": (3, ("k", "x0")),
    "dihedral": (4, ("k", "phase")),
}
_FILTERS = ("centers", "widths", "w_in", "b_in", "w_out", "b_out")


def to_arrays(potential: Any) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and numbers of a potential, scripted or not; the number of replicas is not kept.

    Weights and constants have the dtype of the potential. Tables are not included.
    """
    arrays, network = _network(potential.network)
    terms = [*_pairs(potential), *_bonded(potential)]
    for k, (_, values) in enumerate(terms):
        arrays |= {f"terms/{k}/{name}": value for name, value in values.items()}
    form: dict[str, Any] = {
        "dtype": str(potential.unit.dtype).removeprefix("torch."),
        "network": network,
        "terms": [numbers for numbers, _ in terms],
        "pairs": "dense" if hasattr(potential, "pair_terms") else "list",
    }
    if form["pairs"] == "list":
        form["skin"] = float(potential.neighbors.skin)
    return arrays, form


def from_arrays(arrays: Arrays, form: dict[str, Any], n_replicas: int) -> Potential:
    """Return the potential of :func:`to_arrays` for a number of replicas, with exact filters.

    Raises
    ------
    KeyError, IndexError, RuntimeError, TypeError, ValueError
        An array or number is missing, or does not fit the others.
    """
    _check(arrays, form)
    dtype = {"float32": torch.float32, "float64": torch.float64}[form["dtype"]]
    network = _make_network(arrays, form["network"], dtype)
    terms = _make_terms(arrays, form["terms"], dtype, network.n_beads)
    made: Potential
    if form["pairs"] == "dense":
        made = DensePotential(network, n_replicas, terms, dtype)
    else:
        neighbors = NeighborList(float(form["network"]["upper"]), float(form["skin"]))
        made = ListPotential(network, n_replicas, terms, dtype, neighbors)
    return cast("Potential", made.to(dtype).eval())


def _check(arrays: Arrays, form: dict[str, Any]) -> None:
    """Refuse values that are not finite and arrays that do not fit the others, which torch may broadcast."""
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"array {name!r} has values that are not finite")
    numbers = form["network"]
    width, blocks = arrays["network/h"].shape[1], numbers["blocks"]
    basis, filters = arrays["network/filters/w_in"].shape[1:]
    shapes: dict[str, tuple[int, ...]] = {
        "filters/centers": (basis,), "filters/widths": (basis,),
        "filters/w_in": (blocks, basis, filters), "filters/b_in": (blocks, 1, filters),
        "filters/w_out": (blocks, filters, filters), "filters/b_out": (blocks, 1, filters),
    }  # fmt: skip
    each = (filters, width), (width, filters), (width,), (width, width), (width,)
    for k in range(blocks):
        shapes |= {f"blocks/{k}/{name}": shape for name, shape in zip(_BLOCK, each, strict=True)}
    size = width
    for k in range(numbers["output"]):
        out = 1 if k == numbers["output"] - 1 else len(arrays[f"network/output/{k}/weight"])
        shapes |= {f"output/{k}/weight": (out, size), f"output/{k}/bias": (out,)}
        size = out
    wanted = {f"network/{name}": shape for name, shape in shapes.items()}
    for k, term in enumerate(form["terms"]):
        places, values = _TERMS[term["kind"]]
        n = arrays[f"terms/{k}/beads"].shape[1]
        wanted[f"terms/{k}/beads"] = places, n
        wanted |= {f"terms/{k}/{name}": (n, *arrays[f"terms/{k}/{name}"].shape[1:]) for name in values}
    for name, shape in wanted.items():
        if arrays[name].shape != shape or 0 in shape:
            raise ValueError(f"array {name!r} has shape {arrays[name].shape}, not {shape}")


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().contiguous().numpy()


def _network(network: Any) -> tuple[Arrays, dict[str, Any]]:
    filters = exact_filters(network)
    values: dict[str, Tensor] = {"h": network.h, "first": network.first}
    values |= {f"filters/{name}": getattr(filters, name) for name in _FILTERS}
    blocks, layers = list(network.blocks.children()), list(network.output.children())
    for k, block in enumerate(blocks):
        values |= {f"blocks/{k}/{name}": getattr(block, name) for name in _BLOCK}
    for k, layer in enumerate(layers):
        values |= {f"output/{k}/weight": layer.weight, f"output/{k}/bias": layer.bias}
    embedding = getattr(network, "embedding", None)
    if embedding is not None:
        values |= {f"embedding/{name}": getattr(embedding, name) for name in ("constant", "combine", "other")}
        values |= {f"embedding/filter_{name}": getattr(embedding.filter, name) for name in ("weight", "bias")}
    names = {number: name for name, number in reversed(ACTIVATIONS.items())}
    numbers = {
        "blocks": len(blocks),
        "output": len(layers),
        "neighbor_embedding": embedding is not None,
        "activation": names[int(network.kind)],
        "rbf": "expnorm" if filters.expnorm else "gauss",
        "alpha": float(filters.alpha),
        "lower": float(filters.lower),
        "upper": float(filters.upper),
        "filter_lower": float(filters.filter_lower),
        "scale": float(network.scale),
        "shift": float(network.shift),
    }
    return {f"network/{name}": _numpy(value) for name, value in values.items()}, numbers


def _pairs(potential: Any) -> list[tuple[dict[str, Any], Arrays]]:
    """Return bonds, repulsion and series, in the order in which their energies are summed."""
    found: list[tuple[dict[str, Any], Arrays]] = []
    for i, j, term in pair_terms(potential):
        numbers: dict[str, Any]
        values: Arrays
        if hasattr(term, "coefficients"):
            row = _numpy(term.row)
            used = np.flatnonzero((row > 0) & (i < j))
            numbers = {"kind": "series", "start": float(term.start), "width": float(term.width)}
            values = {"row": row[used], "coefficients": _numpy(term.coefficients)}
        else:
            first, second = _numpy(term.first), _numpy(term.second)
            # pairs without the term have a zero constant
            used = np.flatnonzero((first != 0.0) & (i < j))
            numbers = {"kind": "pair", "power": int(term.power)}
            values = {"first": first[used], "second": second[used]}
        if len(used):
            found.append((numbers, {"beads": np.stack([i[used], j[used]]), **values}))
    return found


def _bonded(potential: Any) -> list[tuple[dict[str, Any], Arrays]]:
    """Return angles and dihedrals, which read the bond vectors of the potential one after another."""
    begin, end = _numpy(potential.begin), _numpy(potential.end)
    found: list[tuple[dict[str, Any], Arrays]] = []
    at = 0
    for term in potential.angle_terms.children():
        n = len(term.k)
        beads = np.stack([end[at : at + n], begin[at : at + n], end[at + n : at + 2 * n]])
        values = {"beads": beads, **{name: _numpy(getattr(term, name)) for name in ("k", "x0", "c")}}
        found.append(({"kind": "angle", "use_cosine": bool(term.use_cosine)}, values))
        at += 2 * n
    for term in potential.dihedral_terms.children():
        n = len(term.k)
        beads = np.stack([begin[at : at + n], *(end[at + k * n : at + (k + 1) * n] for k in range(3))])
        values = {"beads": beads, "k": _numpy(term.k), "phase": _numpy(term.phase)}
        found.append(({"kind": "dihedral"}, values))
        at += 3 * n
    return found


def _make_network(arrays: Arrays, numbers: dict[str, Any], dtype: torch.dtype) -> Network:
    def get(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays[f"network/{name}"])).to(dtype)

    f = {name: get(f"filters/{name}") for name in _FILTERS}
    blocks = []
    for k in range(numbers["blocks"]):
        b = {name: get(f"blocks/{k}/{name}") for name in _BLOCK}
        blocks.append(
            BlockWeights(
                filter_in=LinearWeights(f["w_in"][k].T, f["b_in"][k, 0]),
                filter_out=LinearWeights(f["w_out"][k].T, f["b_out"][k, 0]),
                lin1=LinearWeights(b["lin1"], None),
                lin2=LinearWeights(b["lin2"], b["lin2_bias"]),
                lin=LinearWeights(b["lin"], b["lin_bias"]),
            )
        )
    h = get("h")
    embedding = None
    if numbers["neighbor_embedding"]:
        combine = get("embedding/combine")
        embedding = NeighborEmbeddingWeights(
            embedding=get("embedding/other"),
            distance_proj=LinearWeights(get("embedding/filter_weight").T, get("embedding/filter_bias")),
            # its first half is contained in the constant, which is set below
            combine=LinearWeights(torch.cat([torch.zeros_like(combine), combine], 1), None),
        )
    output = range(numbers["output"])
    weights = CGSchNetWeights(
        form="",
        activation=numbers["activation"],
        cutoff_lower=numbers["lower"],
        cutoff_upper=numbers["upper"],
        filter_cutoff_lower=numbers["filter_lower"],
        rbf_type=numbers["rbf"],
        rbf_centers=f["centers"],
        rbf_widths=f["widths"],
        rbf_alpha=numbers["alpha"],
        embedding=h,
        neighbor_embedding=embedding,
        blocks=tuple(blocks),
        aggr="add",
        output=tuple(LinearWeights(get(f"output/{k}/weight"), get(f"output/{k}/bias")) for k in output),
        reduce_op="add",
        mean=numbers["shift"],
        std=numbers["scale"],
        periodic=False,
    )
    network = Network(weights, torch.arange(len(h)))
    # as stored: computed again, its last bits could depend on the machine
    _set(network.first, get("first"))
    if network.embedding is not None:
        _set(network.embedding.constant, get("embedding/constant"))
    return network


def _set(buffer: Tensor, value: Tensor) -> None:
    if buffer.shape != value.shape:
        raise ValueError(f"an array has shape {tuple(value.shape)}, not {tuple(buffer.shape)}")
    buffer.copy_(value)


def _make_terms(arrays: Arrays, described: list[dict[str, Any]], dtype: torch.dtype, n_beads: int) -> Terms:
    terms = Terms()
    angle_vectors: list[tuple[Tensor, Tensor]] = []
    dihedral_vectors: list[tuple[Tensor, Tensor]] = []
    for k, numbers in enumerate(described):
        at = torch.from_numpy(np.array(arrays[f"terms/{k}/beads"], dtype=np.int64))
        if ((at < 0) | (at >= n_beads)).any():
            raise IndexError(f"term {k} has beads that are not below {n_beads}")

        def get(name: str, k: int = k) -> Tensor:
            return torch.from_numpy(np.array(arrays[f"terms/{k}/{name}"])).to(dtype)

        kind = numbers["kind"]
        if kind == "pair" and numbers["power"] == 0:
            terms.bonds.append((at, PairTerm(get("first"), get("second"), 0)))
        elif kind == "pair":
            terms.repulsions.append((at, PairTerm(get("first"), get("second"), int(numbers["power"]))))
        elif kind == "series":
            row = torch.from_numpy(np.array(arrays[f"terms/{k}/row"], dtype=np.int64))
            if ((row < 0) | (row >= len(arrays[f"terms/{k}/coefficients"]))).any():
                raise IndexError(f"term {k} has rows that are not in its coefficients")
            series = SeriesTerm(get("coefficients"), row, numbers["start"], numbers["width"])
            terms.repulsions.append((at, series))
        elif kind == "angle":
            terms.angles.append(AngleTerm(numbers["use_cosine"], get("k"), get("x0"), get("c")))
            angle_vectors += [(at[1], at[0]), (at[1], at[2])]
        elif kind == "dihedral":
            terms.dihedrals.append(DihedralTerm(get("k"), get("phase")))
            dihedral_vectors += [(at[n], at[n + 1]) for n in range(3)]
        else:
            raise ValueError(f"term {k} is of the unknown kind {kind!r}")
    terms.vectors = angle_vectors + dihedral_vectors
    return terms
