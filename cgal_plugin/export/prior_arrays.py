"""The priors of an exported potential as flat arrays, which the compiled engines read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_array(tensor: Any) -> NDArray[np.float64]:
    """Return a tensor as a float64 array."""
    return cast("NDArray[np.float64]", tensor.detach().double().cpu().numpy())


def no_priors() -> dict[str, NDArray[Any]]:
    """Return the prior arrays of a potential without priors."""
    return {
        "pair_index": np.zeros((0, 3), dtype=np.int64),
        "pair_value": np.zeros((0, 2)),
        "series_index": np.zeros((0, 3), dtype=np.int64),
        "series_value": np.zeros((0, 3)),
        "angle_index": np.zeros((0, 4), dtype=np.int64),
        "angle_value": np.zeros((0, 2)),
        "dihedral_index": np.zeros((0, 4), dtype=np.int64),
        "dihedral_value": np.zeros((0, 1, 2)),
    }


def prior_arrays(potential: Any) -> dict[str, NDArray[Any]]:
    """Return the prior arrays of an exported potential (scripted or not); see :func:`no_priors`."""
    # torch is needed only here: a saved fast potential loads without it
    from cgal_plugin.export.probes import pair_terms

    found: dict[str, list[NDArray[Any]]] = {name: [] for name in no_priors()}
    series: list[NDArray[Any]] = []
    for i, j, term in pair_terms(potential):
        if hasattr(term, "coefficients"):
            row = term.row.cpu().numpy()
            used = np.flatnonzero((row > 0) & (i < j))
            rows_before = sum(len(s) for s in series)
            found["series_index"].append(np.stack([i[used], j[used], row[used] + rows_before], axis=1))
            c = as_array(term.coefficients)
            series.append(np.column_stack([np.tile([term.start, term.width], (len(c), 1)), c]))
            continue
        first, second = as_array(term.first), as_array(term.second)
        used = np.flatnonzero((first != 0.0) & (i < j))
        power = np.full(len(used), int(term.power))
        found["pair_index"].append(np.stack([i[used], j[used], power], axis=1))
        found["pair_value"].append(np.stack([first[used], second[used]], axis=1))
    most = max((s.shape[1] for s in series), default=0)
    found["series_value"] = [np.pad(s, [(0, 0), (0, most - s.shape[1])]) for s in series]
    begin, end = potential.begin.numpy(), potential.end.numpy()
    at = 0
    for term in potential.angle_terms.children():
        n = len(term.k)
        form = np.full(n, int(term.use_cosine))
        beads = [end[at : at + n], begin[at : at + n], end[at + n : at + 2 * n], form]
        found["angle_index"].append(np.stack(beads, axis=1))
        found["angle_value"].append(np.column_stack([as_array(term.k), as_array(term.x0), as_array(term.c)]))
        at += 2 * n
    most = max((v.shape[1] for v in found["angle_value"]), default=0)
    found["angle_value"] = [np.pad(v, [(0, 0), (0, most - v.shape[1])]) for v in found["angle_value"]]
    lengths = [as_array(term.k).shape[1] for term in potential.dihedral_terms.children()]
    for term in potential.dihedral_terms.children():
        n = len(term.k)
        beads = [begin[at : at + n], *(end[at + k * n : at + (k + 1) * n] for k in range(3))]
        found["dihedral_index"].append(np.stack(beads, axis=1))
        value = np.stack([as_array(term.k), as_array(term.phase)], axis=2)
        found["dihedral_value"].append(np.pad(value, [(0, 0), (0, max(lengths) - value.shape[1]), (0, 0)]))
        at += 3 * n
    nothing = no_priors()
    return {k: np.concatenate(v).astype(nothing[k].dtype) if v else nothing[k] for k, v in found.items()}
