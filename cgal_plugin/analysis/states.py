"""Discrete states of a reference in TIC space, and its reweighting to equilibrium by a Markov state model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis._frames import as_points
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: share of the reference's frames that the connected set must hold for a reweighting to stand for all
MIN_CONNECTED = 0.95


@dataclass(frozen=True, eq=False)
class ReferenceStates:
    """k-means states of a reference's TICs.

    Attributes
    ----------
    centres
        ``(n_states, d)`` in the unit of the points, each divided by :attr:`scale` (no unit).
    scale
        ``(d,)`` standard deviation of the reference in each coordinate.
    assignments
        State of each reference frame, one ``(n,)`` array a trajectory.
    """

    centres: NDArray[np.float64]
    scale: NDArray[np.float64]
    assignments: tuple[NDArray[np.int64], ...]

    @classmethod
    def fit(cls, reference: Any, *, n_states: int | None = None, seed: int = 0) -> ReferenceStates:
        """Cluster ``reference`` (``(n, d)`` points, or one such array a trajectory) by k-means.

        Coordinates are divided by their standard deviation first. ``n_states`` is 50 by default, fewer
        where there would be less than 20 frames a state.

        Raises
        ------
        AnalysisError
            Fewer frames than states, or a coordinate does not vary.
        """
        from deeptime.clustering import KMeans

        points = as_points(reference, "reference")
        everything = np.concatenate(points)
        if n_states is None:
            n_states = max(2, min(50, len(everything) // 20))
        if not 2 <= n_states <= len(everything):
            raise AnalysisError(
                f"n_states is {n_states}; it must be 2 to the number of frames, {len(everything)}"
            )
        scale = everything.std(axis=0)
        if (scale <= 0).any():
            raise AnalysisError("the reference does not vary in some coordinate: no states can be told apart")
        estimator = KMeans(n_states, fixed_seed=int(seed), max_iter=200, n_jobs=1)
        centres = np.asarray(estimator.fit_fetch(everything / scale).cluster_centers, dtype=np.float64)
        return cls(centres, scale, tuple(_nearest(p / scale, centres) for p in points))

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.centres)

    def assign(self, points: Any) -> list[NDArray[np.int64]]:
        """State of each frame, one array a trajectory."""
        return [_nearest(p / self.scale, self.centres) for p in as_points(points, "points")]

    def visited(self, points: Any, *, reach: float = 0.25) -> float:
        """Share of the states that have a frame of ``points`` within ``reach`` standard deviations."""
        from scipy.spatial import cKDTree

        everything = np.concatenate(as_points(points, "points", self.centres.shape[1])) / self.scale
        return float((cKDTree(everything).query(self.centres)[0] <= reach).mean())


@dataclass(frozen=True, eq=False)
class Reweighting:
    """What a Markov state model says about a reference.

    Attributes
    ----------
    weights
        One ``(n,)`` array a trajectory, summing to 1 over all, or None: the reference stays unweighted.
    connected
        Share of the frames in the largest connected set of states.
    timescales_frames
        Slowest implied timescales, frames.
    lag_frames, n_states
        Of the model.
    note
        One sentence for the reader.
    """

    weights: tuple[NDArray[np.float64], ...] | None
    connected: float
    timescales_frames: tuple[float, ...]
    lag_frames: int
    n_states: int
    note: str


def reweight(
    states: ReferenceStates, *, lag_frames: int, min_connected: float = MIN_CONNECTED
) -> Reweighting:
    """Equilibrium weights of the reference's frames from a reversible Markov state model.

    A frame's weight is the stationary probability of its state over the number of frames in it
    (Prinz et al., J. Chem. Phys. 134, 174105, 2011); frames outside the connected set get 0.

    Parameters
    ----------
    states
        States of the reference.
    lag_frames
        Lag time in frames.
    min_connected
        Without this share of the frames in the largest connected set there are no weights.

    Raises
    ------
    AnalysisError
        No trajectory is longer than the lag.
    """
    dtrajs = states.assignments
    if max(len(d) for d in dtrajs) <= lag_frames:
        raise AnalysisError(f"no reference trajectory is longer than the lag of {lag_frames} frames")
    symbols, msm = _markov_model(dtrajs, lag_frames)
    everything = np.concatenate(dtrajs)
    connected = float(np.isin(everything, symbols).mean())
    facts = {
        "connected": connected,
        "timescales_frames": _timescales(msm, 3),
        "lag_frames": int(lag_frames),
        "n_states": states.n_states,
    }
    if msm is None or connected < min_connected:
        note = (
            f"UNWEIGHTED: only {100 * connected:.0f} % of the reference's frames are in states that are "
            "connected both ways, so no Markov state model can reweight it"
        )
        return Reweighting(None, note=note, **facts)
    probability = np.zeros(states.n_states)
    probability[symbols] = msm.stationary_distribution
    count = np.bincount(everything, minlength=states.n_states)
    weight = np.divide(probability, count, out=np.zeros(states.n_states), where=count > 0)
    total = weight[everything].sum()
    return Reweighting(
        tuple(weight[d] / total for d in dtrajs),
        note=f"reweighted by a Markov state model of {len(symbols)} states at a lag of {lag_frames} frames",
        **facts,
    )


def implied_timescales(
    states: ReferenceStates, lags: Sequence[int], *, n: int = 3
) -> dict[int, tuple[float, ...]]:
    """The ``n`` slowest implied timescales (frames) at each lag that a trajectory is longer than."""
    longest = max(len(d) for d in states.assignments)
    found = {}
    for lag in lags:
        if lag < longest:
            found[int(lag)] = _timescales(_markov_model(states.assignments, lag)[1], n)
    return found


def _timescales(msm: Any, n: int) -> tuple[float, ...]:
    return () if msm is None else tuple(float(t) for t in msm.timescales(k=min(n, msm.n_states - 1)))


def _markov_model(dtrajs: Sequence[NDArray[np.int64]], lag: int) -> tuple[NDArray[np.int64], Any]:
    """States of the largest connected set, and its model (None where it is a single state)."""
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM

    used = [np.asarray(d, dtype=np.int32) for d in dtrajs if len(d) > lag]
    counts = TransitionCountEstimator(lagtime=int(lag), count_mode="sliding").fit_fetch(used)
    largest = counts.submodel_largest(connectivity_threshold=0.0)
    symbols = np.asarray(largest.state_symbols, dtype=np.int64)
    if len(symbols) < 2:
        return symbols, None
    return symbols, MaximumLikelihoodMSM(reversible=True, maxiter=100_000).fit_fetch(largest)


def _nearest(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    from scipy.spatial import cKDTree

    return cKDTree(centres).query(points)[1].astype(np.int64)
