"""Robust W1 between the distributions of a model and of a reference in TIC space, with its uncertainty.

* The distance between two samples is biased **upwards**: two samples of one distribution have W1 > 0, of
  order n^(−1/2) (times √log n in two dimensions) in the number n of *independent* frames. ``floor`` is the
  distance between halves of the reference: no model can be shown to be closer to the reference than that.
  Each half has half of the data, so the floor is too high by a factor of up to √2.
* ``interval`` is a block bootstrap over trajectories or time blocks of both sets. Resampling adds the
  sampling bias a second time, so that percentiles of the replicates would be too high. The deviations of the
  replicates from their mean are therefore reversed about the value. The interval describes the sampling error
  of the value but not its bias: read it together with ``bias`` (mean of the replicates minus the value, an
  estimate of the remaining upward bias) and ``floor``. Near W1 = 0 no bootstrap of W1 is consistent (the
  limit is not Gaussian): compare with the floor there.
* The uncertainty of the TICs is not included: they are fitted once to the whole reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.resampling import Blocks, make_blocks, resampled_counts, split_halves
from cgal_plugin.analysis.results import Reduction, W1Result, relative_reduction
from cgal_plugin.analysis.tica import TICAModel
from cgal_plugin.analysis.trajectory_checks import as_points, as_trajectories, as_weights
from cgal_plugin.analysis.transport import Quantised, exact_w1
from cgal_plugin.errors import AnalysisError
from cgal_plugin.execution.threads import thread_map
from cgal_plugin.provenance import derive_seed, hash_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: how far outside the reference's quantiles points are moved to a limit, in standard deviations
_CLIP_MARGIN, _CLIP_QUANTILE = 3.0, 0.001

__all__ = ["Reduction", "W1Result", "relative_reduction", "w1", "w1_points"]


def w1(
    model_frames: Any,
    reference_frames: Any,
    *,
    tica: TICAModel | None = None,
    lag_frames: int = 10,
    dim: int = 2,
    **options: Any,
) -> W1Result:
    """Compute the robust W1 in TIC space, in units of the reference's standard deviation of each TIC.

    Parameters
    ----------
    model_frames, reference_frames
        Lists of ``(n, n_beads, 3)`` Å trajectories, or one such array.
    tica
        A fitted projection; None fits one to the reference with ``lag_frames`` and ``dim``.
    **options
        Passed to :func:`w1_points`: weights, seed, bootstrap settings.

    Raises
    ------
    AnalysisError
        Bead counts differ, frames are not finite, or TICA fails.
    """
    reference = as_trajectories(reference_frames, "reference")
    if tica is None:
        tica = TICAModel.fit(reference, lag_frames, dim)
    model = as_trajectories(model_frames, "model", tica.n_beads)
    return w1_points(tica.transform(model), tica.transform(reference), notes=tica.notes, **options)


def w1_points(
    model: Any,
    reference: Any,
    *,
    model_weights: Any = None,
    reference_weights: Any = None,
    scale: bool = True,
    clip_margin: float = _CLIP_MARGIN,
    clip_quantile: float = _CLIP_QUANTILE,
    max_points: int = 700,
    bootstrap_points: int = 300,
    n_bootstrap: int = 100,
    n_splits: int = 10,
    confidence: float = 0.95,
    block_frames: int | None = None,
    seed: int = 0,
    notes: tuple[str, ...] = (),
) -> W1Result:
    """Compute the robust W1 between projected points.

    Both sets are shifted by the mean of the reference and divided by its standard deviation, so neither
    origin nor unit depends on the model. Coordinates more than ``clip_margin`` standard deviations outside
    the reference's range from ``clip_quantile`` to ``1 − clip_quantile`` are moved to that limit, and their
    frames are counted. One frame of a blow-up therefore changes W1 by at most about (range + margin) / n,
    while a model that samples another region still has a large W1. The distance is exact optimal transport
    between deterministic reductions of the sets (:class:`Quantised`), with an error of at most
    ``resolution``.

    Parameters
    ----------
    model, reference
        ``(n, d)`` points, or one such array per trajectory, in time order.
    model_weights, reference_weights
        One weight per frame (MSM reweighting), or None.
    scale
        False: do not shift and scale the points. They are clipped all the same.
    max_points, bootstrap_points
        Points per set for the value and the floor, and for each bootstrap replicate.
    n_bootstrap, n_splits
        Number of replicates (0: no interval) and of split halves (0: no floor).
    block_frames
        Length of time blocks; for the default see :func:`make_blocks`.

    Raises
    ------
    AnalysisError
        Shapes, weights or options are wrong, or a coordinate of the reference is constant.
    """
    ref = as_points(reference, "reference")
    mod = as_points(model, "model", ref[0].shape[1])
    _check_options(confidence, n_bootstrap, n_splits, max_points, bootstrap_points)
    y, x = np.concatenate(ref), np.concatenate(mod)
    b = as_weights(reference_weights, [len(r) for r in ref], "reference")
    a = as_weights(model_weights, [len(m) for m in mod], "model")
    if scale:
        centre, spread = _scale_of(y, b)
        x, y = (x - centre) / spread, (y - centre) / spread
    low, high = _clip_box(y, clip_quantile, clip_margin, scale)
    n_clipped = int(((x < low) | (x > high)).any(axis=1).sum())
    n_clipped_reference = int(((y < low) | (y > high)).any(axis=1).sum())
    x, y = np.clip(x, low, high), np.clip(y, low, high)

    qx, qy = Quantised(x, a, max_points), Quantised(y, b, max_points)
    value = exact_w1(qx.points, qy.points, qx.weights, qy.weights)
    blocks_x = make_blocks([len(m) for m in mod], block_frames, a)
    blocks_y = make_blocks([len(r) for r in ref], block_frames, b)
    sx, sy = Quantised(x, a, bootstrap_points), Quantised(y, b, bootstrap_points)

    def replicate(factor_x: NDArray[np.float64], factor_y: NDArray[np.float64]) -> float:
        return exact_w1(sx.points, sy.points, sx.reweighted(a * factor_x), sy.reweighted(b * factor_y))

    centre_value = exact_w1(sx.points, sy.points, sx.weights, sy.weights) if n_bootstrap else value
    replicates = bootstrap(replicate, blocks_x, blocks_y, n_bootstrap, seed, hash_array(x))

    def half_distance(half: NDArray[np.bool_]) -> float:
        one, two = Quantised(y[half], b[half], max_points), Quantised(y[~half], b[~half], max_points)
        return exact_w1(one.points, two.points, one.weights, two.weights)

    return W1Result.build(
        metric="w1",
        unit="standard deviations of the reference" if scale else "units of the points",
        value=value,
        replicates=replicates,
        replicate_centre=centre_value,
        floors=floors(half_distance, blocks_y, b, n_splits, seed, ("w1", hash_array(y), max_points)),
        confidence=confidence,
        blocks=(blocks_x, blocks_y),
        n_clipped=n_clipped,
        n_clipped_reference=n_clipped_reference,
        resolution=qx.shift + qy.shift,
        notes=notes,
    )


def standardised(
    points: list[NDArray[np.float64]],
    reference: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
) -> list[NDArray[np.float64]]:
    """Scale and clip points ``(n, d)`` as :func:`w1_points` does, with the reference ``(m, d)``.

    Raises
    ------
    AnalysisError
        A coordinate of the reference is constant.
    """
    y = np.asarray(reference, dtype=np.float64)
    b = np.full(len(y), 1.0 / len(y)) if weights is None else np.asarray(weights) / np.sum(weights)
    centre, spread = _scale_of(y, b)
    low, high = _clip_box((y - centre) / spread, _CLIP_QUANTILE, _CLIP_MARGIN, True)
    return [np.clip((x - centre) / spread, low, high) for x in points]


def _scale_of(
    y: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation ``(d,)`` of the reference."""
    centre = weights @ y
    spread = np.sqrt(weights @ (y - centre) ** 2)
    if (spread <= 1e-12 * (1.0 + np.abs(centre))).any():
        raise AnalysisError(
            f"the reference does not vary in coordinate {int(np.argmin(spread)) + 1} "
            f"(standard deviation {spread.min():.3g}): distances cannot be scaled by it"
        )
    return centre, spread


def _check_options(confidence: float, n_bootstrap: int, n_splits: int, *points: int) -> None:
    if not 0.5 <= confidence < 1.0:
        raise AnalysisError(f"confidence is {confidence}; it must be in [0.5, 1)")
    if n_bootstrap < 0 or n_splits < 0 or 0 < n_bootstrap < 20:
        raise AnalysisError(
            f"n_bootstrap={n_bootstrap}, n_splits={n_splits}: use 0 (none) or at least 20 replicates, and "
            "0 or more splits"
        )
    if min(points) < 10:
        raise AnalysisError(f"points per set for optimal transport: {points}; use at least 10")


def _clip_box(
    y: NDArray[np.float64], quantile: float, margin: float, scaled: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return limits ``(d,)`` from quantiles of the reference, which do not depend on its extremes."""
    if not (0.0 <= quantile < 0.5 and margin >= 0):
        raise AnalysisError(
            f"clip_quantile={quantile}, clip_margin={margin}: they must be in [0, 0.5) and not negative"
        )
    spread = np.ones(y.shape[1]) if scaled else y.std(axis=0)
    low, high = np.quantile(y, [quantile, 1.0 - quantile], axis=0)
    if not scaled and (spread == 0).any():
        return np.full(y.shape[1], -np.inf), np.full(y.shape[1], np.inf)
    return low - margin * spread, high + margin * spread


def bootstrap(
    replicate: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    model: Blocks,
    reference: Blocks,
    n_bootstrap: int,
    seed: int,
    model_key: str,
) -> tuple[float, ...]:
    """Compute bootstrap replicates of a two-sample estimate; both sets are resampled by blocks.

    ``replicate`` receives a factor for the weight of each model frame and of each reference frame. The draws
    of the reference depend on ``seed`` only, so that replicates of several models against one reference are
    paired. The draws of the model depend on ``model_key`` as well.
    """
    if n_bootstrap == 0 or min(len(model.active), len(reference.active)) < 2:
        return ()
    counts_x = resampled_counts(model, n_bootstrap, derive_seed(seed, "model", model_key))
    counts_y = resampled_counts(reference, n_bootstrap, derive_seed(seed, "reference"))

    def one(counts: tuple[NDArray[Any], NDArray[Any]]) -> float:
        return replicate(counts[0][model.label].astype(float), counts[1][reference.label].astype(float))

    return tuple(thread_map(one, list(zip(counts_x, counts_y, strict=True))))


def floors(
    half_distance: Callable[[NDArray[np.bool_]], float],
    reference: Blocks,
    weights: NDArray[np.float64],
    n_splits: int,
    seed: int,
    key: tuple[Any, ...],
) -> tuple[float, ...]:
    """Compute distances between halves of the reference; splits with a half of zero weight are skipped.

    They are the same for all models, and take about as long as the rest of a comparison: they are computed
    once in a process. ``key`` is what they depend on beside the other arguments.
    """
    if n_splits == 0:
        return ()
    key = (*key, hash_array(reference.label, reference.trajectory, weights), n_splits, seed)
    if key not in _floors:
        halves = split_halves(reference, n_splits, derive_seed(seed, "halves"))
        usable = [h for h in halves if weights[h].sum() > 0 and weights[~h].sum() > 0]
        _floors[key] = tuple(thread_map(half_distance, usable))
    return _floors[key]


#: floors of this process, a few numbers each
_floors: dict[tuple[Any, ...], tuple[float, ...]] = {}
