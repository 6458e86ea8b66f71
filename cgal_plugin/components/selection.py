"""Select the frames to label, or find that none is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.checks import check_component, check_selection
from cgal_plugin.components.protocols import DistanceSelector, Selector
from cgal_plugin.errors import NothingToSelect


def select_frames(
    selector: Selector,
    candidates: NDArray[np.floating],
    reference: Callable[[], NDArray[np.floating]],
    distances: Callable[[], NDArray[np.floating]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], str | None]:
    """Call a selector and check its result.

    Parameters
    ----------
    candidates
        ``(n, n_beads, 3)`` Å.
    reference, distances
        Return the training frames ``(m, n_beads, 3)`` Å, and the nearest RMSD of each candidate to them
        ``(n,)`` Å; only what the selector needs is called.

    Returns
    -------
    Indices ``(k,)``, distances ``(k,)`` Å, and None; or empty arrays and the reason why nothing is left to
    label.

    Raises
    ------
    SelectionError
        The selector failed, or its result breaks the contract.
    """
    chosen: Any
    try:
        if isinstance(selector, DistanceSelector):
            chosen = selector.select_with(candidates, distances())
        else:
            fitted = selector.fit(reference())
            check_component("selector", fitted)  # a fit without return statement gives None
            chosen = fitted.select(candidates)
        return *check_selection(chosen, selector, len(candidates)), None
    except NothingToSelect as reason:
        return np.zeros(0, dtype=np.int64), np.zeros(0), str(reason)
