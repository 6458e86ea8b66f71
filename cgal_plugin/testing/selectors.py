"""The contract of a selector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgal_plugin.components.checks import check_selection
from cgal_plugin.components.protocols import DistanceSelector, PartialFitSelector, Selector
from cgal_plugin.testing.contract import checked, has_role, unchanged


def check_selector(
    make: Callable[..., Selector], candidates: ArrayLike, reference: ArrayLike, *, n_select: int | None = 5
) -> None:
    """Check that a selector keeps the contract that a run relies on.

    The abilities :class:`DistanceSelector` and :class:`PartialFitSelector` are checked if present.

    Parameters
    ----------
    make
        A class or function that returns a new, equal selector in each call. Called as ``make(n)``, where n
        is the maximum number of frames to choose, or as ``make()`` if ``n_select`` is None.
    candidates, reference
        ``(n, n_beads, 3)`` Å; more than ``n_select`` candidates, of which the selector accepts at least one.
    n_select
        Maximum number of frames. None: the selector decides the number.

    Raises
    ------
    AssertionError
        The selector breaks the contract; the message says how.
    """
    frames, covered = np.asarray(candidates), np.asarray(reference)

    def new(n: int | None = n_select) -> Selector:
        return make() if n is None else make(n)

    selector = new()
    has_role("selector", selector)
    with unchanged(covered, "fit changed the reference that was passed"):
        fitted = selector.fit(covered)
        has_role("selector", fitted)
    with unchanged(frames, "select changed the candidates that were passed"):
        chosen = _chosen(fitted, frames)
    if n_select is not None:
        assert len(chosen) <= n_select, f"{len(chosen)} frames chosen; expected at most {n_select}"
        everything = _chosen(new(len(frames) + 7).fit(covered), frames)
        assert len(everything) >= len(chosen), "asking for more frames gave fewer"

    assert np.array_equal(chosen, _chosen(new().fit(covered), frames)), (
        "two equal selectors chose differently from the same candidates; seed random numbers"
    )
    again = selector.fit(covered[:1]).fit(covered)
    assert np.array_equal(chosen, _chosen(again, frames)), (
        "the choice depends on an earlier reference or selection; fit must replace the reference"
    )
    if isinstance(fitted, DistanceSelector):
        _check_distances(new, frames, covered, chosen)
    if isinstance(fitted, PartialFitSelector):
        has_role("selector", fitted.partial_fit(covered[:1]))
        _chosen(fitted, frames)


def _chosen(selector: Selector, frames: NDArray[np.floating]) -> NDArray[np.int64]:
    return checked(check_selection, selector.select(frames), selector, len(frames))[0]


def _check_distances(
    new: Callable[[], Selector],
    frames: NDArray[np.floating],
    covered: NDArray[np.floating],
    chosen: NDArray[np.int64],
) -> None:
    from cgal_plugin.selector import nearest_rmsd

    selector, distances = new(), nearest_rmsd(frames, covered)[0]
    assert isinstance(selector, DistanceSelector), "select_with appears only after fit"
    with unchanged(distances, "select_with changed the distances that were passed"):
        found = selector.select_with(frames, distances)
    indices, _ = checked(check_selection, found, selector, len(frames))
    assert np.array_equal(indices, chosen), "select_with chose other frames than fit and select"
