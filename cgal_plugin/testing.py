"""Contract checks for a model, prior, selector or oracle of one's own: call them in one's own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cgal_plugin.errors import CGALError


def check_selector(make: Callable[[int], Any], candidates: Any, reference: Any, *, n_select: int = 5) -> None:
    """Check that a selector keeps the contract that the driver relies on.

    Parameters
    ----------
    make
        ``make(n)`` returns a new selector of ``n`` frames, with cuts that let at least one
        candidate through; with the same ``n`` always the same selector.
    candidates, reference
        ``(n, beads, 3)`` arrays, Å; more than ``n_select`` candidates.
    n_select
        Number of frames to ask for.

    Raises
    ------
    AssertionError
        Saying what the selector did that it must not do.
    """
    candidates, reference = np.asarray(candidates), np.asarray(reference)
    given = candidates.copy(), reference.copy()
    selector = make(n_select)
    assert selector.fit(reference) is selector, "fit(reference) must return the selector itself"
    selection = selector.select(candidates)
    _check_selection(selection, n_select, len(candidates))
    assert np.array_equal(given[0], candidates), "select changed the candidates that it was given"
    assert np.array_equal(given[1], reference), "fit changed the reference that it was given"

    again = make(n_select).fit(reference).select(candidates)
    assert np.array_equal(selection.indices, again.indices), (
        "two selectors made alike chose differently from the same candidates; seed what is random"
    )
    everything = make(len(candidates) + 7).fit(reference).select(candidates)
    _check_selection(everything, len(candidates), len(candidates))
    assert len(everything.indices) >= len(selection.indices), "asking for more frames gave fewer"

    assert selector.partial_fit(reference[:1]) is selector, "partial_fit(new_frames) must return the selector"
    _check_selection(selector.select(candidates), n_select, len(candidates))
    try:
        make(n_select).fit(reference).select(candidates[:0])
    except CGALError:
        return
    raise AssertionError("selecting from no candidates must raise a cgal_plugin error")


def _check_selection(selection: Any, most: int, n_candidates: int) -> None:
    indices, distances = np.asarray(selection.indices), np.asarray(selection.distances)
    assert indices.ndim == 1, f"indices have shape {indices.shape}; expected one dimension"
    assert np.issubdtype(indices.dtype, np.integer), f"indices have dtype {indices.dtype}; expected integers"
    assert 1 <= len(indices) <= most, f"{len(indices)} frames chosen; expected 1 to {most}"
    assert len(set(indices.tolist())) == len(indices), "a frame was chosen twice"
    assert indices.min() >= 0, "an index is negative"
    assert indices.max() < n_candidates, f"index {indices.max()} is beyond the {n_candidates} candidates"
    assert distances.shape == indices.shape, f"distances: shape {distances.shape}, not {indices.shape}"
