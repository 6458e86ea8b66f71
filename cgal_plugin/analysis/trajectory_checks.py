"""Validate the arguments of the analysis: trajectories, points and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import AnalysisError, UnitError
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_trajectories(frames: Any, name: str, n_beads: int | None = None) -> list[NDArray[np.float64]]:
    """Return trajectories in Å from one array, one ``mdtraj.Trajectory``, or a sequence of these.

    Trajectories without frames (replicas that blew up at once) are left out.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` Å, or a sequence of such arrays.
    name
        Name of the argument in error messages.
    n_beads
        Expected number of beads; None accepts any.

    Raises
    ------
    AnalysisError
        The shape is wrong, bead counts differ, values are not finite, or there are no frames.
    """
    if isinstance(frames, np.ndarray) or hasattr(frames, "xyz"):
        frames = [frames]
    trajectories = []
    for i, item in enumerate(frames):
        try:
            array = np.asarray(as_angstrom(item), dtype=np.float64)
        except (UnitError, ValueError, TypeError) as error:
            raise AnalysisError(f"{name} trajectory {i}: {error}") from error
        if len(array) == 0:
            continue
        if n_beads is None:
            n_beads = array.shape[1]
        if array.shape[1] != n_beads:
            raise AnalysisError(
                f"{name} trajectory {i} has {array.shape[1]} beads; expected {n_beads}. "
                "Map all trajectories with the same mapping."
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
        if bad.size:
            raise AnalysisError(
                f"{name} trajectory {i}: {bad.size} of {len(array)} frames are not finite (first: frame "
                f"{bad[0]}); leave out the frames after a blow-up"
            )
        trajectories.append(array)
    if not trajectories:
        raise AnalysisError(f"{name} has no frames")
    return trajectories


def as_points(points: Any, name: str, dim: int | None = None) -> list[NDArray[np.float64]]:
    """Return ``(n, d)`` arrays of points from one array or a sequence of arrays, one per trajectory.

    Raises
    ------
    AnalysisError
        Shapes do not match, values are not finite, or there are no points.
    """
    if isinstance(points, np.ndarray):
        points = [points]
    parts = []
    for i, item in enumerate(points):
        array = np.asarray(item, dtype=np.float64)
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2:
            raise AnalysisError(f"{name} points {i} have shape {array.shape}; expected (n, dim)")
        if len(array) == 0:
            continue
        dim = array.shape[1] if dim is None else dim
        if array.shape[1] != dim:
            raise AnalysisError(f"{name} points {i} have {array.shape[1]} coordinates; expected {dim}")
        if not np.isfinite(array).all():
            bad = int((~np.isfinite(array).all(axis=1)).sum())
            raise AnalysisError(f"{name} points {i}: {bad} of {len(array)} are not finite")
        parts.append(array)
    if not parts:
        raise AnalysisError(f"{name} has no points")
    return parts


def as_weights(weights: Any, lengths: Sequence[int], name: str) -> NDArray[np.float64]:
    """Return one normalised weight per frame, ``(sum(lengths),)``; equal weights for None.

    Parameters
    ----------
    weights
        None, one ``(sum(lengths),)`` array, or one ``(length,)`` array per trajectory.

    Raises
    ------
    AnalysisError
        The length is wrong, or weights are negative, not finite or all zero.
    """
    total = int(sum(lengths))
    if weights is None:
        return np.full(total, 1.0 / total)
    if not isinstance(weights, np.ndarray) and len(weights) and np.ndim(weights[0]) > 0:
        parts = [np.asarray(w, dtype=np.float64).reshape(-1) for w in weights]
        parts = [p for p in parts if len(p)]
        if [len(p) for p in parts] != [int(n) for n in lengths]:
            raise AnalysisError(
                f"{name} weights have lengths {[len(p) for p in parts]}; trajectories {list(lengths)}"
            )
        array = np.concatenate(parts)
    else:
        array = np.asarray(weights, dtype=np.float64).reshape(-1)
    if array.shape != (total,):
        raise AnalysisError(f"{name} weights have shape {array.shape}; expected ({total},), one per frame")
    if not np.isfinite(array).all() or (array < 0).any() or array.sum() <= 0:
        raise AnalysisError(f"{name} weights must be finite, not negative, and not all zero")
    return np.asarray(array / array.sum())
