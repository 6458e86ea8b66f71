"""Share the labels of a round among systems.

RMSDs of different molecules cannot be compared as they are: two random conformations of a long chain are
farther apart than those of a short one, and a folded protein moves less than a disordered peptide. A distance
is therefore divided by the scale of its system: the median RMSD of pairs of its sampled frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.observables import rmsd_to_structure
from cgal_plugin.errors import NothingToSelect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.selector import Selection

#: frames on each side of the pairs from which a scale is computed
_FRAMES = 50


@dataclass(frozen=True, eq=False)
class Wanted:
    """The frames of one system that its selector wants, most wanted first.

    Attributes
    ----------
    indices
        ``(k,)`` into the candidates of the system.
    distances
        ``(k,)`` Å, nearest RMSD to the training data.
    gains
        ``(k,)`` Å, the same to the training data and the frames before it.
    scale
        Å, scale of the system.
    n_candidates
        Number of candidates.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    gains: NDArray[np.float64]
    scale: float
    n_candidates: int

    @classmethod
    def of(
        cls,
        candidates: NDArray[np.floating],
        indices: NDArray[np.int64],
        distances: NDArray[np.float64],
        seed: int,
    ) -> Wanted:
        """Compute gains and scale for the choice ``indices`` of candidates ``(n, n_beads, 3)`` Å."""
        chosen = candidates[indices]
        gains = np.array(distances, dtype=np.float64)
        for k in range(len(indices) - 1):  # the distance of the later ones to frame k
            gains[k + 1 :] = np.minimum(gains[k + 1 :], rmsd_to_structure(chosen[k + 1 :], chosen[k]))
        return cls(indices, distances, gains, scale_of(candidates, seed), len(candidates))


def scale_of(candidates: NDArray[np.floating], seed: int) -> float:
    """Return the median RMSD (Å) of random pairs of frames ``(n, n_beads, 3)`` Å."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(candidates))[: 2 * _FRAMES]
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    if not len(first):
        return 1.0
    found = np.concatenate([rmsd_to_structure(candidates[second], candidates[i]) for i in first])
    return max(float(np.median(found)), 1e-6)


def share_by_coverage(wanted: Mapping[str, Wanted], n: int) -> dict[str, int]:
    """Return how many of its frames each system gets: one after the other to the largest gain per scale.

    Gains of one system are compared in the order of its selector, so that a frame never comes before another
    one that its selector wants more.
    """
    taken = dict.fromkeys(wanted, 0)
    for _ in range(n):
        left = [name for name, w in wanted.items() if taken[name] < len(w.indices)]
        if not left:
            break
        best = max(left, key=lambda name: wanted[name].gains[taken[name]] / wanted[name].scale)
        taken[best] += 1
    return taken


def share_equally(sizes: Mapping[str, int], n: int, first: int) -> dict[str, int]:
    """Return the same number for each system, at most its size; the rest goes round from system ``first``."""
    names = list(sizes)
    order = [names[(first + i) % len(names)] for i in range(len(names))]
    taken = dict.fromkeys(names, 0)
    while sum(taken.values()) < n and any(taken[name] < sizes[name] for name in names):
        for name in order:
            if taken[name] < sizes[name] and sum(taken.values()) < n:
                taken[name] += 1
    return taken


def draw(rows: Mapping[str, NDArray[np.int64]], n: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return ``n`` distinct random frames of all systems, among the candidates ``rows`` of each."""
    rng = np.random.default_rng(seed)
    total = sum(len(own) for own in rows.values())
    chosen = rng.choice(total, size=min(n, total), replace=False)
    found, start = {}, 0
    for name, own in rows.items():
        here = chosen[(chosen >= start) & (chosen < start + len(own))] - start
        found[name] = np.asarray(own[here], dtype=np.int64)
        start += len(own)
    return found


def record(wanted: Mapping[str, Wanted], taken: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return JSON-ready facts of what each system got, and why."""
    return {
        name: {
            "n": taken[name],
            "indices": w.indices[: taken[name]].tolist(),
            "distances": w.distances[: taken[name]].tolist(),
            "relative": (w.gains[: taken[name]] / w.scale).tolist(),
            "wanted": len(w.indices),
            "scale": w.scale,
            "n_candidates": w.n_candidates,
        }
        for name, w in wanted.items()
    }


@dataclass(frozen=True, eq=False)
class Allotted:
    """A selector that returns the frames that a system has got.

    Raises
    ------
    NothingToSelect
        It has got none (from :meth:`select`).
    """

    indices: Sequence[int]
    distances: Sequence[float]

    def fit(self, reference: NDArray[np.floating]) -> Allotted:
        """Return the selector; the reference is not used."""
        return self

    def select(self, candidates: NDArray[np.floating]) -> Selection:
        """Return the frames, whatever the candidates."""
        from cgal_plugin.selector import Selection

        if not self.indices:
            raise NothingToSelect("the labels of this round go to other systems")
        found, distances = np.asarray(self.indices, dtype=np.int64), np.asarray(self.distances)
        return Selection(found, distances, np.full(len(candidates), np.nan))

    def select_with(self, candidates: NDArray[np.floating], distances: NDArray[np.floating]) -> Selection:
        """Return the frames, whatever the candidates."""
        return self.select(candidates)
