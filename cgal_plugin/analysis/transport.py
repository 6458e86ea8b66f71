"""Optimal transport between weighted point sets, for both W1 estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_ITERATIONS = 2_000_000


def exact_w1(
    x: NDArray[np.floating], y: NDArray[np.floating], a: NDArray[np.floating], b: NDArray[np.floating]
) -> float:
    """Compute the exact Wasserstein-1 distance between two weighted point sets, with Euclidean cost.

    In one dimension it is the area between the distribution functions (scipy), otherwise the solution of a
    linear programme (POT ``emd2``), whose cost grows as about n³: use at most 2,000 points per set.

    Parameters
    ----------
    x, y
        ``(n, d)`` and ``(m, d)`` points.
    a, b
        ``(n,)`` and ``(m,)`` weights, which are normalised.

    Raises
    ------
    AnalysisError
        All weights of a set are zero, or the solver does not converge.
    """
    if not (a.sum() > 0 and b.sum() > 0):
        raise AnalysisError("optimal transport: all weights of a set are zero")
    keep_a, keep_b = a > 0, b > 0
    x, a, y, b = x[keep_a], a[keep_a], y[keep_b], b[keep_b]
    a, b = a / a.sum(), b / b.sum()
    if x.shape[1] == 1:
        from scipy.stats import wasserstein_distance

        return float(wasserstein_distance(x[:, 0], y[:, 0], a, b))
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(x, y)  # ot.dist expands the square, which leaves 1e-8 on the diagonal
    value, log = ot.emd2(a, b, cost, numItermax=_MAX_ITERATIONS, log=True)
    if log.get("warning"):
        raise AnalysisError(f"optimal transport of {len(a)} × {len(b)} points failed: {log['warning']}")
    return float(value)


class Quantised:
    """A point set, reduced deterministically to at most ``max_points`` weighted points.

    The points in each cell of a cubic grid are replaced by their weighted mean. The cell width starts at
    ``min_width`` and grows by factors of 1.25 until few enough cells are occupied. W1 changes by at most
    :attr:`shift`, the weighted mean displacement of the points (triangle inequality). Thinning the frames
    would instead add sampling noise of order n^(−1/2), which biases W1 upwards.

    Attributes
    ----------
    cell
        ``(n,)`` int, index of the reduced point of each point.
    points, weights
        ``(k, d)`` reduced points and their ``(k,)`` weights.
    shift
        Upper bound of the change of W1 due to the reduction.
    """

    def __init__(
        self,
        points: NDArray[np.float64],
        weights: NDArray[np.float64],
        max_points: int,
        min_width: float = 0.02,
    ) -> None:
        if len(points) <= max_points:
            self.cell = np.arange(len(points))
        else:
            width = min_width
            while True:
                keys = np.floor(points / width).astype(np.int64)
                cells, cell = np.unique(keys, axis=0, return_inverse=True)
                if len(cells) <= max_points:
                    break
                width *= 1.25
            self.cell = cell.reshape(-1)
        k = int(self.cell.max()) + 1
        self.weights = self._sums(weights, k)
        sums = np.stack([self._sums(weights * c, k) for c in points.T], axis=1)
        counts = np.bincount(self.cell, minlength=k)
        plain = np.stack([self._sums(c, k) for c in points.T], axis=1) / counts[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = sums / self.weights[:, None]
        self.points = np.where(self.weights[:, None] > 0, means, plain)
        moved = np.linalg.norm(points - self.points[self.cell], axis=1)
        self.shift = float((weights * moved).sum() / weights.sum())

    def reweighted(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ``(k,)`` weights of the reduced points for other weights ``(n,)`` of the points."""
        return self._sums(weights, len(self.points))

    def _sums(self, values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
        return np.bincount(self.cell, values, minlength=k).astype(np.float64, copy=False)
