"""Greedy k-centre selection in RMSD, without an n×n matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.embedding import fit_embedding
from cgal_plugin.selector.kernel import centre, exact_rmsd, one_to_many_squared_rmsd, squared_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEATURE_ERROR = 1e-6
#: below this fraction of the size of a frame, the eigenvalue form loses digits; the rotation is used
_SMALL = 1e-3
_BLOCK = 8192


def k_centre(
    frames: NDArray[np.floating], n_select: int, *, distances: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Select frames one by one, each the farthest from the reference and from those selected before.

    The covering radius of the greedy selection is at most twice the optimal one (Gonzalez,
    Theor. Comput. Sci. 38, 293 (1985)).

    Parameters
    ----------
    frames
        ``(n, beads, 3)`` Å, in any position and orientation.
    n_select
        Number of frames to select, at most n.
    distances
        ``(n,)`` Å, distance of each frame to the reference. None: there is no reference, and frame 0 is
        selected first.

    Returns
    -------
    indices
        ``(k,)`` int64 in order of selection; ties go to the lower index.
    radius
        ``(k,)`` Å, distance of each frame to the reference and the earlier frames when it was selected
        (infinity for the first one without a reference).

    Raises
    ------
    SelectionError
        The lengths of ``distances`` and ``frames`` differ.
    """
    n = len(frames)
    left = np.full(n, np.inf) if distances is None else np.array(distances, dtype=np.float64)
    if left.shape != (n,):
        raise SelectionError(f"distances have shape {left.shape}; expected ({n},), one per frame")
    centred = centre(frames)
    sizes = squared_sizes(centred)
    features = fit_embedding(centred)(centred)
    reach = np.sqrt(np.einsum("nk,nk->n", features, features, dtype=np.float64))
    indices, radius = np.empty(min(n_select, n), dtype=np.int64), np.empty(min(n_select, n))
    for k in range(len(indices)):
        pick = int(np.argmax(left))
        indices[k], radius[k] = pick, left[pick]
        # a frame whose bound exceeds its present distance cannot come nearer
        difference = features - features[pick]
        bound = np.sqrt(np.einsum("nk,nk->n", difference, difference, dtype=np.float64))
        bound -= _FEATURE_ERROR * (reach + reach[pick])
        rows = np.flatnonzero(~(bound > left))
        for lo in range(0, len(rows), _BLOCK):
            some = rows[lo : lo + _BLOCK]
            left[some] = np.minimum(left[some], _to_one(centred, sizes, some, pick))
        left[pick] = -np.inf
    return indices, radius


def _to_one(
    centred: NDArray[np.float64], sizes: NDArray[np.float64], rows: NDArray[np.int64], pick: int
) -> NDArray[np.float64]:
    """Return the RMSD (p,) of the centred frames ``rows`` to the frame ``pick``, Å."""
    squared = one_to_many_squared_rmsd(centred[pick], centred[rows], sizes[pick], sizes[rows])
    distance = np.sqrt(squared)
    close = squared < _SMALL * (sizes[rows] + sizes[pick]) / centred.shape[1]
    if close.any():
        near = centred[rows[close]]
        distance[close] = exact_rmsd(near, np.broadcast_to(centred[pick], near.shape))
    return distance
