"""The arguments of the kernels: the arrays of a potential and a workspace for all replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.export.engine import evaluate as e
from cgal_plugin.export.prior_arrays import no_priors

if TYPE_CHECKING:
    from numpy.typing import NDArray


def arguments(
    arrays: dict[str, NDArray[Any]], n_beads: int, n_replicas: int, chunk_rows: int
) -> tuple[NDArray[Any], ...]:
    """Return the arguments of :func:`evaluate` between positions and results, workspace included."""
    sizes = arrays["sizes"].copy()
    chunk = max(1, min(n_replicas, chunk_rows // n_beads))
    sizes[e.N_CHUNK] = chunk
    rows, width, filters = chunk * n_beads, int(sizes[e.WIDTH]), int(sizes[e.FILTERS])
    blocks, hidden = int(sizes[e.N_BLOCKS]), int(sizes[e.N_HIDDEN])
    layers = e.HEAD + e.BLOCK * blocks
    widths = [int(sizes[layers + e.LAYER * k + e.OUT_WIDTH]) for k in range(hidden)]
    widest = max([width, filters, *widths])
    # h, v, summed, slope, scratch, m, out, g, swap
    lengths = [
        width,
        blocks * filters,
        filters,
        blocks * width,
        width,
        filters,
        2 * sum(widths),
        widest,
        widest,
    ]
    places = np.concatenate([[0], np.cumsum([n * rows for n in lengths])]).astype(np.int64)
    pairs = chunk * n_beads * (n_beads - 1) // 2
    return (
        sizes,
        arrays["scalars"],
        arrays["weights"],
        np.zeros(widest, dtype=np.float32),
        arrays["table"],
        np.tile(arrays["start"], (chunk, 1)).ravel(),
        np.tile(arrays["first_v"], (chunk, 1)).ravel(),
        # files of format version 1 have no series
        *(arrays.get(name, nothing) for name, nothing in no_priors().items()),
        np.zeros(int(places[-1]), dtype=np.float32),
        places,
        np.empty((pairs, 3), dtype=np.int64),
        np.empty(pairs, dtype=np.float32),
        np.empty((pairs, 4)),
        np.empty(pairs),
        np.empty(rows),
    )
