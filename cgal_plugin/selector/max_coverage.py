"""Selection by coverage: the frames with the most uncovered frames near them.

The farthest frames (:class:`~cgal_plugin.selector.strategies.RMSDSelector`) are rare and often artefacts of
the model; random frames are mostly near labelled frames. This selector is a compromise: of the frames that
are far from all labelled frames, it selects those with the most neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.kernel import centre, one_to_many_squared_rmsd, squared_sizes
from cgal_plugin.selector.strategies import BaseSelector

if TYPE_CHECKING:
    from numpy.typing import NDArray


def max_coverage(
    frames: NDArray[np.floating], n_select: int, radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Select frames one by one, each with the most frames within ``radius`` that are not covered yet.

    The greedy selection covers at least 1 − 1/e of the optimum (Nemhauser, Wolsey, Fisher, Math. Program. 14,
    265 (1978)). Time and memory grow with the square of the number of frames (one bit per pair).

    Parameters
    ----------
    frames
        ``(n, beads, 3)`` Å, in any position and orientation.
    n_select
        Number of frames to select; fewer are selected if they cover all frames.
    radius
        Å: a frame covers all frames within this RMSD.

    Returns
    -------
    indices
        ``(k,)`` int64 in order of selection; ties go to the lower index.
    gains
        ``(k,)`` number of frames that each selected frame covers and no earlier one does, itself included.

    Raises
    ------
    SelectionError
        ``radius`` is not positive and finite.
    """
    if not 0.0 < radius < np.inf:
        raise SelectionError(f"radius is {radius!r} Å; expected a positive, finite distance")
    centred = centre(frames)
    sizes, n = squared_sizes(centred), len(frames)
    near = np.empty((n, (n + 7) // 8), dtype=np.uint8)
    for i in range(n):
        squared = one_to_many_squared_rmsd(centred[i], centred, sizes[i], sizes)
        row = squared <= radius * radius
        row[i] = True
        near[i] = np.packbits(row)
    left = np.packbits(np.ones(n, dtype=bool))
    indices, gains = [], []
    for _ in range(min(n_select, n)):
        count = np.bitwise_count(near & left).sum(axis=1, dtype=np.int64)
        pick = int(np.argmax(count))
        if count[pick] == 0:
            break
        indices.append(pick)
        gains.append(int(count[pick]))
        left &= ~near[pick]
    return np.array(indices, dtype=np.int64), np.array(gains, dtype=np.int64)


class CoverageSelector(BaseSelector):
    """Select the frames that cover the most uncovered candidates: greedy maximum coverage in RMSD.

    A frame is covered if a labelled or selected frame is within ``min_rmsd`` of it. Unlike the farthest
    frames, the selected ones are in regions that the dynamics visits often; unlike random frames, none is
    near a label.

    Parameters
    ----------
    n_select
        Maximum number of frames to select.
    min_rmsd
        Radius of coverage, Å; above 0.
    max_rmsd
        As in :class:`~cgal_plugin.selector.strategies.RMSDSelector`.
    max_candidates
        If more candidates are uncovered, this number is drawn at random, because all pairs are compared.
    seed
        Seed of that draw.
    unit, n_threads
        As in :class:`~cgal_plugin.selector.strategies.RMSDSelector`.

    Raises
    ------
    SelectionError
        A parameter is out of its range.
    """

    _needs_reference = True

    def __init__(
        self,
        n_select: int,
        *,
        min_rmsd: float = 1.0,
        max_rmsd: float = np.inf,
        max_candidates: int = 5000,
        seed: int = 0,
        unit: str = "angstrom",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, unit=unit, n_threads=n_threads
        )
        if min_rmsd == 0.0:
            raise SelectionError("min_rmsd is 0; it is the radius within which a frame covers others")
        if max_candidates < 1:
            raise SelectionError(f"max_candidates is {max_candidates!r}; expected a positive integer")
        self.max_candidates = int(max_candidates)

    def _choose(
        self, candidates: NDArray[np.floating], eligible: NDArray[np.int64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], None]:
        del distances
        if len(eligible) > self.max_candidates:
            rng = np.random.default_rng(self.seed)
            eligible = np.sort(rng.choice(eligible, size=self.max_candidates, replace=False))
        chosen, _ = max_coverage(candidates[eligible], self.n_select, self.min_rmsd)
        return eligible[chosen], None
