"""Exact nearest neighbours in RMSD: prune in the embedding of embedding.py, then superpose.

Reference features are sorted into clusters. The best RMSD of a candidate so far excludes whole clusters
(triangle inequality in the embedding), then single frames (embedded distance, a matrix product in single
precision with a margin for rounding errors). The remaining pairs are superposed in double precision. The
result is exact: the margins only increase the number of remaining pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.selector.embedding import Embedding, fit_embedding
from cgal_plugin.selector.kernel import (
    centre,
    exact_rmsd,
    may_be_within,
    pair_covariance,
    pair_squared_rmsd_bound,
    squared_sizes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

#: the search ignores reference frames that are nearer by less than this, Å
TIE = 1e-6
_CLUSTER_FRAMES = 128
_MAX_CLUSTERS = 2048
_GROUP = 256
_TILE = 4096
_PAIRS = 4096
_LABELS = 256
#: if a larger fraction of the pairs of a tile remains, the whole tile is superposed
_DENSE = 0.15
#: relative rounding error of a single-precision feature, with a margin
_FEATURE_ERROR = 4e-7


@dataclass(frozen=True)
class Frames:
    """Centred frames with their features."""

    centred: Float  # (n, beads, 3)
    columns: Float  # (3, beads, n)
    sizes: Float  # (n,)
    features: NDArray[np.float32]  # (n, k)
    lengths: Float  # (n,) of the features

    @classmethod
    def prepare(cls, frames: NDArray[np.floating], embedding: Embedding) -> Frames:
        """Centre frames ``(n, beads, 3)`` Å and compute their features."""
        centred = centre(frames)
        features = embedding(centred)
        return cls._from(centred, features)

    @classmethod
    def _from(cls, centred: Float, features: NDArray[np.float32]) -> Frames:
        lengths = np.sqrt(np.einsum("nk,nk->n", features, features, dtype=np.float64))
        columns = np.ascontiguousarray(centred.transpose(2, 1, 0))
        return cls(centred, columns, squared_sizes(centred), features, lengths)

    def take(self, order: Int) -> Frames:
        """Return the frames with the indices ``order``."""
        return self._from(self.centred[order], self.features[order])


class Index:
    """A block of reference frames, sorted into clusters in the embedding."""

    def __init__(self, reference: NDArray[np.floating]) -> None:
        centred = centre(reference)
        self.embedding = fit_embedding(centred)
        features = self.embedding(centred)
        n_clusters = int(np.clip(len(centred) // _CLUSTER_FRAMES, 1, _MAX_CLUSTERS))
        spread = np.linspace(0, len(centred) - 1, n_clusters).round().astype(np.int64)
        self.centres = features[spread].astype(np.float64)
        label = self.home(features)
        self.order = np.argsort(label, kind="stable")
        self.frames = Frames._from(centred[self.order], features[self.order])
        self.starts = np.searchsorted(label[self.order], np.arange(n_clusters + 1))
        distance = np.linalg.norm(self.frames.features - self.centres[label[self.order]], axis=1)
        self.radius = np.full(n_clusters, -np.inf)
        np.maximum.at(self.radius, label[self.order], distance)
        # [features, 1] of a candidate times these gives |f|² - 2 q·f
        f = self.frames.features
        squares = np.square(self.frames.lengths)[:, None]
        with np.errstate(over="ignore"):
            self.table = np.concatenate([-2.0 * f, squares], axis=1, dtype=np.float32)
        self.longest = float(self.frames.lengths.max())

    def home(self, features: NDArray[np.float32]) -> Int:
        """Return the nearest cluster centre (n,) of each row of ``features``."""
        # any cluster gives a correct result, the nearest is the most useful: single precision is sufficient
        label = np.empty(len(features), dtype=np.int64)
        centres = self.centres.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            half = 0.5 * np.einsum("ck,ck->c", centres, centres)
            for lo in range(0, len(features), _LABELS):
                label[lo : lo + _LABELS] = np.argmin(half - features[lo : lo + _LABELS] @ centres.T, axis=1)
        return label

    def groups(self, frames: Frames) -> list[Int]:
        """Return groups of candidates that share or have neighbouring clusters."""
        label = self.home(frames.features)
        order = np.argsort(label, kind="stable")
        return [order[lo : lo + _GROUP] for lo in range(0, len(order), _GROUP)]

    def search(self, group: Frames, best: Float, index: Int) -> None:
        """Lower ``best`` (n,) Å and set ``index`` (n,) in place where a frame here is nearer."""
        features = group.features.astype(np.float64)
        squared = np.square(group.lengths)[:, None] - 2.0 * features @ self.centres.T
        squared += np.einsum("ck,ck->c", self.centres, self.centres)
        rounding = _FEATURE_ERROR * (group.lengths + self.longest)
        bound = np.sqrt(np.maximum(squared, 0.0)) - self.radius - rounding[:, None]
        # the nearest clusters first: they lower the best RMSD
        # unphysical frames may overflow in single precision: pairs with NaN are superposed
        with np.errstate(over="ignore", invalid="ignore"):
            for tile in self._tiles(np.argsort(bound.min(axis=0), kind="stable"), bound, best):
                self._search_tile(group, tile, best, index, rounding)

    def _tiles(self, clusters: Int, bound: Float, best: Float) -> Iterator[Int]:
        """Yield frames of the clusters that are not excluded, in tiles of growing size."""
        position, target = 0, _CLUSTER_FRAMES
        while position < len(clusters):
            members, count = [], 0
            while position < len(clusters) and count < target:
                c = clusters[position]
                position += 1
                if not (bound[:, c] > best).all() and self.starts[c] < self.starts[c + 1]:
                    members.append(np.arange(self.starts[c], self.starts[c + 1]))
                    count += len(members[-1])
            if members:
                yield np.concatenate(members)
            target = min(4 * target, _TILE)

    def _search_tile(self, group: Frames, tile: Int, best: Float, index: Int, rounding: Float) -> None:
        height, k = group.features.shape
        left = np.ones((height, k + 1), dtype=np.float32)
        left[:, :-1] = group.features
        squared = left @ self.table[tile].T
        # rounding of a single-precision product of this length, relative to the size of its terms
        product_error = 2e-7 * (k + 3) * np.square(group.lengths + self.longest)
        rows, found = np.arange(height), np.argmin(squared, axis=1)
        fresh = np.isinf(best)
        if fresh.any():
            r, c = rows[fresh], tile[found[fresh]]
            best[r], index[r] = exact_rmsd(group.centred[r], self.frames.centred[c]), self.order[c]
        limit = np.square(best + rounding) - np.square(group.lengths) + product_error
        limit[best <= TIE] = -np.inf
        # the frame with the lowest bound of each row first: it lowers the limit for the others
        near = ~(squared[rows, found] > limit)
        if near.any():
            self._superpose(group, rows[near], tile[found[near]], best, index)
            limit = np.minimum(limit, np.square(best + rounding) - np.square(group.lengths) + product_error)
        beyond = squared > limit.astype(np.float32)[:, None]
        hits = np.flatnonzero(np.logical_not(beyond, out=beyond))
        if len(hits) > _DENSE * squared.size:
            self._superpose_all(group, tile, best, index)
            return
        for lo in range(0, len(hits), _PAIRS):
            rows, found = np.divmod(hits[lo : lo + _PAIRS], len(tile))
            self._superpose(group, rows, tile[found], best, index)

    def _superpose_all(self, group: Frames, tile: Int, best: Float, index: Int) -> None:
        """Superpose all pairs of a tile. If few are pruned, this is faster than to gather single pairs."""
        height = len(group.sizes)
        width = max(1, 4 * _PAIRS // height)
        left = group.columns.transpose(0, 2, 1)[:, None]
        for lo in range(0, len(tile), width):
            some = tile[lo : lo + width]
            cov = np.matmul(left, self.frames.columns[:, :, some][None]).reshape(9, -1)
            rows, columns = np.repeat(np.arange(height), len(some)), np.tile(some, height)
            self._superpose(group, rows, columns, best, index, cov)

    def _superpose(
        self, group: Frames, rows: Int, columns: Int, best: Float, index: Int, cov: Float | None = None
    ) -> None:
        ref, n_beads = self.frames, group.centred.shape[1]
        if cov is None:
            cov = pair_covariance(group.columns, ref.columns, rows, columns)
        mean_size = 0.5 * (group.sizes[rows] + ref.sizes[columns])
        hope = np.flatnonzero(may_be_within(cov, mean_size, best[rows] - TIE, n_beads))
        rows, columns = rows[hope], columns[hope]
        lowest = np.sqrt(pair_squared_rmsd_bound(cov[:, hope], mean_size[hope], n_beads))
        while True:
            better = lowest < best[rows] - TIE
            if not better.any():
                return
            rows, columns, lowest = rows[better], columns[better], lowest[better]
            order = np.lexsort((lowest, rows))
            rows, columns, lowest = rows[order], columns[order], lowest[order]
            first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
            r, c = rows[first], columns[first]
            distance = exact_rmsd(group.centred[r], ref.centred[c])
            nearer = distance < best[r]
            best[r[nearer]] = distance[nearer]
            index[r[nearer]] = self.order[c[nearer]]
            lowest[first] = np.inf
