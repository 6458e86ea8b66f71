"""What trajectories keep of their start: differences between groups of replicas, and between halves in time.

A simulation that has forgotten its start samples the same distribution from every start and at every time.
Two checks, each a permutation test of the robust W1 in the TICs of the reference:

* ``starts``: W1 between two groups of replicas with different starts. By chance: the replicas are dealt
  to the groups at random.
* ``halves``: W1 between the first and the second halves of all replicas. By chance: the halves of random
  replicas are exchanged (the dynamics are reversible, so a half in equilibrium can stand for the other).

Each check finds a difference by chance in a share :data:`ALPHA` of simulations without any, exactly, whatever
the correlation within a replica: a simulation is marked falsely in at most twice that share, 5 %. Many long
replicas show differences that do not matter. Therefore a difference counts only if it also exceeds that by
chance (its mean) by :data:`LEAST`. If the starts differ by that much, the pooled distribution is off by about
half of it, 0.05 standard deviations of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.transport import Quantised, exact_w1
from cgal_plugin.analysis.wasserstein import standardised
from cgal_plugin.execution.threads import thread_map
from cgal_plugin.provenance import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: share of falsely found differences, of each check
ALPHA = 0.025
#: least difference that counts, beyond the mean by chance, in standard deviations of the reference
LEAST = 0.1
_PERMUTATIONS = 199
_POINTS = 200


@dataclass(frozen=True)
class Difference:
    """W1 between two parts of a simulation, in standard deviations of the reference.

    Attributes
    ----------
    w1
        The distance; None if there are not two parts.
    expected
        Upper limit by chance; None if there are too few replicas to tell.
    typical
        Mean by chance.
    """

    w1: float | None = None
    expected: float | None = None
    typical: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the distance exceeds the limit by chance."""
        return self.w1 is not None and self.expected is not None and self.w1 > self.expected

    @property
    def counts(self) -> bool:
        """Whether the distance is significant and large enough to matter."""
        if self.w1 is None or self.typical is None:
            return False
        return self.significant and self.w1 - self.typical >= LEAST


@dataclass(frozen=True)
class Drift:
    """The two checks of a simulation."""

    starts: Difference
    halves: Difference

    @property
    def drifts(self) -> bool:
        """Whether one of the differences counts."""
        return self.starts.counts or self.halves.counts

    @property
    def text(self) -> str:
        """What differs, or an empty text."""
        named = (("starts", self.starts), ("halves in time", self.halves))
        return "; ".join(
            f"{name} still differ: {found.w1:.2f}, by chance up to {found.expected:.2f}"
            for name, found in named
            if found.counts
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        checks = {"starts": asdict(self.starts), "halves": asdict(self.halves)}
        return checks | {"drifts": self.drifts, "drift_text": self.text}


def drift(
    replicas: Sequence[NDArray[np.floating]],
    reference: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
    *,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> Drift:
    """Compare replicas of different starts, and their halves in time.

    Parameters
    ----------
    replicas
        One ``(n, d)`` array of TICs per replica, in time order.
    reference
        ``(m, d)`` TICs of the reference, which sets the unit of each.
    weights
        ``(m,)`` weights of the reference frames, or None.
    groups
        0 or 1 for each replica: its group of starts. None: there is one start.
    seed
        Seed of the permutations.

    Raises
    ------
    AnalysisError
        A coordinate of the reference is constant.
    """
    scaled = standardised([np.asarray(r, dtype=np.float64) for r in replicas], reference, weights)
    starts, halves = Difference(), Difference()
    if groups is not None:
        starts = _between_starts(scaled, np.asarray(groups), derive_seed(seed, "starts"))
    long = [r for r in scaled if len(r) > 1]
    if long:
        halves = _between_halves(long, derive_seed(seed, "halves"))
    return Drift(starts, halves)


def _between_starts(
    replicas: Sequence[NDArray[np.float64]], groups: NDArray[np.integer], seed: int
) -> Difference:
    first = groups == 0
    n, k = len(first), int(first.sum())
    if not 0 < k < n:
        return Difference()
    rng = np.random.default_rng(seed)
    ways = math.comb(n, k) // (2 if 2 * k == n else 1)
    return _test(replicas, first, ways, lambda: rng.permutation(first))


def _between_halves(replicas: Sequence[NDArray[np.float64]], seed: int) -> Difference:
    n = len(replicas)
    pieces = [r[: len(r) // 2] for r in replicas] + [r[len(r) // 2 :] for r in replicas]
    rng = np.random.default_rng(seed)

    def exchanged() -> NDArray[np.bool_]:
        first = rng.random(n) < 0.5
        return np.concatenate([first, ~first])

    return _test(pieces, np.arange(2 * n) < n, 2 ** (n - 1), exchanged)


def _test(
    pieces: Sequence[NDArray[np.float64]],
    first: NDArray[np.bool_],
    ways: int,
    permuted: Callable[[], NDArray[np.bool_]],
) -> Difference:
    """Compare the pieces that ``first`` marks with the others; ``ways``: number of permutations."""
    counts, points = _common_cells(pieces)

    def distance(mask: NDArray[np.bool_]) -> float:
        return _moved(counts[mask].sum(axis=0), counts[~mask].sum(axis=0), points)

    value = distance(first)
    if ways * ALPHA < 1:  # no difference could be told from chance
        return Difference(value)
    chance = np.sort(list(thread_map(distance, [permuted() for _ in range(_PERMUTATIONS)])))
    # value > limit if, and only if, fewer than this number of permutations reach it: p <= ALPHA
    limit = chance[-math.floor(ALPHA * (_PERMUTATIONS + 1) + 1e-9)]
    return Difference(value, float(limit) + 1e-9, float(chance.mean()))


def _common_cells(
    pieces: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reduce all pieces to common points ``(k, d)``; return the frames of each piece there, and these."""
    joined = np.concatenate(pieces)
    reduced = Quantised(joined, np.full(len(joined), 1.0 / len(joined)), _POINTS)
    ends = np.cumsum([len(p) for p in pieces])[:-1]
    counts = [np.bincount(c, minlength=len(reduced.points)) for c in np.split(reduced.cell, ends)]
    return np.stack(counts).astype(np.float64), reduced.points


def _moved(a: NDArray[np.float64], b: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """Return W1 between two distributions on the same points: what they have in common is not moved."""
    if not (a.sum() > 0 and b.sum() > 0):
        return 0.0
    change = a / a.sum() - b / b.sum()
    more, less = change > 1e-12, change < -1e-12
    if not (more.any() and less.any()):
        return 0.0
    share = float(change[more].sum())
    return share * exact_w1(points[more], points[less], change[more], -change[less])
