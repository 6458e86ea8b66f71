"""Selection by coverage: the frames that stand for most of what is not covered yet.

The farthest frames (:class:`~cgal_plugin.selector.strategies.RMSDSelector`) are the rarest ones, often
shapes that only a model's error makes; random frames lie mostly where there are data already. Between them:
of the frames that no labelled frame is near to, those that have the most others near them.
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
    """Choose frames one by one, each with the most frames within ``radius`` that no earlier choice covers.

    Greedy choice covers at least 1 − 1/e of what the best possible choice would (Nemhauser, Wolsey, Fisher,
    Math. Program. 14, 265 (1978)). Time and memory grow with the square of the number of frames (one bit a
    pair).

    Parameters
    ----------
    frames
        ``(n, beads, 3)``, Å, in any position.
    n_select
        Frames to choose; fewer are where fewer cover all.
    radius
        Å: a frame covers those whose RMSD to it is at most that.

    Returns
    -------
    indices
        ``(k,)`` int64 in the order of the choice; ties go to the lower index.
    gains
        ``(k,)`` how many frames each covered that were not covered before, itself included.

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
    """The frames that stand for most candidates which are not covered: greedy maximum coverage in RMSD.

    A frame is covered when a labelled or chosen one is within ``min_rmsd`` of it. Unlike the farthest
    frames, those chosen are where the dynamics goes often; unlike random ones, none is where labels are.

    Parameters
    ----------
    n_select
        Frames to choose at most.
    min_rmsd
        Radius of coverage, Å; above 0.
    max_rmsd
        As in :class:`~cgal_plugin.selector.strategies.RMSDSelector`.
    max_candidates
        Of more uncovered candidates than that, as many are drawn at random: all pairs are compared.
    seed
        Of that draw.
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
