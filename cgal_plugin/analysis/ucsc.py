"""W1 as defined by the published CG benchmark of the UCSC group.

The definition follows the group's ``CGML_Benchmark`` (``gen_report.py``,
``report_generator/tica_plots.py``, ``kullback_leibler_divergence.py``); no code is copied:

1. features: all CA–CA distances in nm, including neighbours; deeptime TICA (lag 20 frames in the published
   code) of the reference only, with kinetic-map scaling;
2. from each model trajectory of n ≥ 20 frames, the first ``int(n/10) − 1`` frames and the last frame are
   removed;
3. Gaussian KDE (Scott's rule) of TIC 1–2 of each set, on a 25 × 25 grid over the joint range of both sets,
   extended by 10 % of the range on each side;
4. densities normalised to a sum of 1; POT ``emd2`` with Euclidean cost in TIC units.

The published code keeps every tenth frame of its reference (millions of frames) before step 3:
``reference_stride``. The estimate is not robust, because the grid and the bandwidth depend on the most
extreme frame of either set. :func:`~cgal_plugin.analysis.w1` is the robust estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.resampling import make_blocks
from cgal_plugin.analysis.results import W1Result
from cgal_plugin.analysis.tica import TICAModel
from cgal_plugin.analysis.trajectory_checks import as_points, as_trajectories, as_weights
from cgal_plugin.analysis.transport import exact_w1
from cgal_plugin.analysis.wasserstein import bootstrap, floors
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import hash_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = 25
MARGIN = 0.1
#: the least populated cells with this total probability are left out of the replicates, not of the value
_NEGLIGIBLE = 1e-4


def trimmed(trajectory: NDArray[Any]) -> NDArray[Any]:
    """Apply step 2 to one trajectory."""
    start = max(int(len(trajectory) / 10) - 1, 0)
    return trajectory if start == 0 else trajectory[start:-1]


def w1_ucsc(
    model_frames: Any,
    reference_frames: Any,
    *,
    tica: TICAModel | None = None,
    lag_frames: int = 20,
    reference_stride: int = 1,
    reference_weights: Any = None,
    **options: Any,
) -> W1Result:
    """Compute W1 by the published recipe, and add an interval and a floor.

    Parameters
    ----------
    model_frames, reference_frames
        Lists of ``(n, n_beads, 3)`` Å trajectories, or one such array. The recipe is for CA beads.
    tica
        A fitted projection; None fits one to the reference with ``lag_frames``.
    reference_stride
        Use every ``reference_stride``-th reference frame for the density (10 in the published code).
    **options
        Passed to :func:`w1_ucsc_points`.

    Raises
    ------
    AnalysisError
        Bead counts differ, frames are not finite, TICA fails, or a density is degenerate.
    """
    if int(reference_stride) != reference_stride or reference_stride < 1:
        raise AnalysisError(f"reference_stride is {reference_stride!r}; it must be an integer of 1 or more")
    reference = as_trajectories(reference_frames, "reference")
    if tica is None:
        tica = TICAModel.fit(reference, lag_frames, 2)
    model = as_trajectories(model_frames, "model", tica.n_beads)
    if reference_weights is not None:
        flat = as_weights(reference_weights, [len(r) for r in reference], "reference")
        edges = np.cumsum([len(r) for r in reference])[:-1]
        reference_weights = [w[::reference_stride] for w in np.split(flat, edges)]
    return w1_ucsc_points(
        [trimmed(p) for p in tica.transform(model)],
        [p[::reference_stride] for p in tica.transform(reference)],
        reference_weights=reference_weights,
        notes=tica.notes,
        **options,
    )


def w1_ucsc_points(
    model: Any,
    reference: Any,
    *,
    model_weights: Any = None,
    reference_weights: Any = None,
    n_bootstrap: int = 100,
    n_splits: int = 10,
    confidence: float = 0.95,
    block_frames: int | None = None,
    seed: int = 0,
    notes: tuple[str, ...] = (),
) -> W1Result:
    """Apply steps 3 and 4 of the recipe to projected points (their first two coordinates).

    Bootstrap replicates use the grid and the bandwidths of the complete sets, so the interval does not
    include the sensitivity of the recipe to extreme frames. The floor is the recipe applied to halves of the
    reference.

    Raises
    ------
    AnalysisError
        There are fewer than two coordinates, or the covariance of a set is singular.
    """
    ref = [p[:, :2] for p in as_points(reference, "reference")]
    mod = [p[:, :2] for p in as_points(model, "model")]
    if ref[0].shape[1] < 2 or mod[0].shape[1] < 2:
        raise AnalysisError("w1_ucsc needs two coordinates (TIC 1 and 2)")
    y, x = np.concatenate(ref), np.concatenate(mod)
    b = as_weights(reference_weights, [len(r) for r in ref], "reference")
    a = as_weights(model_weights, [len(m) for m in mod], "model")
    value, grid = _recipe(x, y, a, b)
    blocks_x = make_blocks([len(m) for m in mod], block_frames, a)
    blocks_y = make_blocks([len(r) for r in ref], block_frames, b)
    replicates: tuple[float, ...] = ()
    if n_bootstrap and min(len(blocks_x.active), len(blocks_y.active)) > 1:
        dx = _block_densities(x, a, blocks_x.label, blocks_x.n, grid)
        dy = _block_densities(y, b, blocks_y.label, blocks_y.n, grid)
        first_x = np.unique(blocks_x.label, return_index=True)[1]
        first_y = np.unique(blocks_y.label, return_index=True)[1]

        def replicate(factor_x: NDArray[np.float64], factor_y: NDArray[np.float64]) -> float:
            return _grid_w1(grid, factor_x[first_x] @ dx, factor_y[first_y] @ dy, _NEGLIGIBLE)

        replicates = bootstrap(replicate, blocks_x, blocks_y, n_bootstrap, seed, hash_array(x))
    return W1Result.build(
        metric="w1_ucsc",
        unit="kinetic-map TIC units",
        value=value,
        replicates=replicates,
        replicate_centre=value,
        floors=floors(
            lambda half: _recipe(y[half], y[~half], b[half], b[~half])[0],
            blocks_y,
            b,
            n_splits,
            seed,
            ("w1_ucsc", hash_array(y)),
        ),
        confidence=confidence,
        blocks=(blocks_x, blocks_y),
        notes=notes,
    )


def _recipe(
    x: NDArray[np.float64], y: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    low = np.minimum(x.min(axis=0), y.min(axis=0))
    high = np.maximum(x.max(axis=0), y.max(axis=0))
    margin = MARGIN * (high - low)
    axes = [np.linspace(lo, hi, GRID) for lo, hi in zip(low - margin, high + margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    p, q = (_block_densities(z, w, np.zeros(len(z), dtype=np.int64), 1, grid)[0] for z, w in ((x, a), (y, b)))
    return _grid_w1(grid, p, q, 0.0), grid


def _block_densities(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    label: NDArray[np.int64],
    n_blocks: int,
    grid: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return each block's contribution ``(n_blocks, n_grid)`` to the KDE of all points."""
    from scipy.stats import gaussian_kde

    keep = weights > 0
    points, weights, label = points[keep], weights[keep], label[keep]
    try:
        kde = gaussian_kde(points.T, weights=weights / weights.sum())
        whiten = np.linalg.inv(np.linalg.cholesky(kde.covariance))
    except (np.linalg.LinAlgError, ValueError, ZeroDivisionError) as error:
        raise AnalysisError(
            f"the density of {len(points)} points cannot be estimated: their TIC 1–2 covariance is singular"
        ) from error
    # centre the points, so that |c|² + |t|² − 2 c·t does not lose precision
    middle = points.mean(axis=0)
    centres, targets = (points - middle) @ whiten.T, (grid - middle) @ whiten.T
    reach = (targets**2).sum(axis=1)
    out = np.zeros((n_blocks, len(grid)))
    for block in range(n_blocks):
        mine = np.flatnonzero(label == block)
        for start in range(0, len(mine), 4096):
            rows = mine[start : start + 4096]
            square = centres[rows] @ (-2.0 * targets.T)
            square += reach
            square += (centres[rows] ** 2).sum(axis=1)[:, None]
            out[block] += weights[rows] @ np.exp(-0.5 * np.maximum(square, 0.0))
    return out


def _grid_w1(
    grid: NDArray[np.float64], p: NDArray[np.float64], q: NDArray[np.float64], negligible: float
) -> float:
    if p.sum() <= 0 or q.sum() <= 0:
        raise AnalysisError(
            "the density of a set vanishes on the whole 25 × 25 grid: it is much narrower than the joint "
            "range, which one extreme frame can cause; use w1 instead"
        )
    p, q = p / p.sum(), q / q.sum()
    if negligible:
        p, q = _without_tail(p, negligible), _without_tail(q, negligible)
    return exact_w1(grid, grid, p, q)


def _without_tail(p: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    order = np.argsort(p)
    kept = p.copy()
    kept[order[np.cumsum(p[order]) < share]] = 0.0
    return kept
