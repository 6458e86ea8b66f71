"""Markov state models: k-means states, reversible transition matrices, and weights for a reference.

Ensembles that start far from equilibrium are weighted by the stationary distribution of a reversible
Markov state model (Prinz et al., J. Chem. Phys. 134, 174105, 2011).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.trajectory_checks import as_points
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: smallest fraction of the frames in the largest connected set for which a reference is reweighted
MIN_CONNECTED = 0.95
#: limit of the fixed-point iteration of a transition matrix, before Newton's method takes over
_FIXED_POINT_STEPS = 200_000
_NEWTON_STEPS = 200
#: relative change of the populations in the last Newton step
_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class ReferenceStates:
    """k-means states of a reference in TIC space.

    Attributes
    ----------
    centres
        ``(n_states, d)`` coordinates of the centres, divided by :attr:`scale` (no unit).
    scale
        ``(d,)`` standard deviation of the reference in each coordinate.
    assignments
        State of each reference frame, one ``(n,)`` array per trajectory.
    """

    centres: NDArray[np.float64]
    scale: NDArray[np.float64]
    assignments: tuple[NDArray[np.int64], ...]

    @classmethod
    def fit(cls, reference: Any, *, n_states: int | None = None, seed: int = 0) -> ReferenceStates:
        """Cluster ``reference`` (``(n, d)`` points, or one such array per trajectory) by k-means.

        Coordinates are divided by their standard deviation first. ``n_states`` defaults to one state per
        20 frames, at least 2 and at most 50.

        Raises
        ------
        AnalysisError
            There are fewer frames than states, or a coordinate is constant.
        """
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
            raise AnalysisError(
                "the reference does not vary in one coordinate: its frames cannot be clustered"
            )
        centres = kmeans_centres(everything / scale, n_states, seed=seed, max_iterations=200)
        return cls(centres, scale, tuple(nearest_centre(p / scale, centres) for p in points))

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.centres)

    def assign(self, points: Any) -> list[NDArray[np.int64]]:
        """Return the state of each frame, one array per trajectory."""
        return [nearest_centre(p / self.scale, self.centres) for p in as_points(points, "points")]

    def visited(self, points: Any, *, reach: float = 0.25) -> float:
        """Return the fraction of states with a frame of ``points`` within ``reach`` standard deviations."""
        from scipy.spatial import cKDTree

        everything = np.concatenate(as_points(points, "points", self.centres.shape[1])) / self.scale
        return float((cKDTree(everything).query(self.centres)[0] <= reach).mean())


@dataclass(frozen=True, eq=False)
class Reweighting:
    """Weights of a reference from a Markov state model.

    Attributes
    ----------
    weights
        One ``(n,)`` array per trajectory with a total of 1, or None: the reference stays unweighted.
    connected
        Fraction of the frames in the largest connected set of states.
    timescales_frames
        Slowest implied timescales, frames.
    lag_frames, n_states
        Lag time and number of states of the model.
    note
        One sentence for the report.
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
    """Compute equilibrium weights of the reference's frames from a reversible Markov state model.

    The weight of a frame is the stationary probability of its state divided by the number of frames in
    that state; frames outside the connected set have weight 0.

    Parameters
    ----------
    states
        States of the reference.
    lag_frames
        Lag time in frames.
    min_connected
        Smallest fraction of frames in the largest connected set; below it, the reference stays unweighted.

    Raises
    ------
    AnalysisError
        No trajectory is longer than the lag, or the Markov state model does not converge.
    """
    dtrajs = states.assignments
    if max(len(d) for d in dtrajs) <= lag_frames:
        raise AnalysisError(f"no reference trajectory is longer than the lag of {lag_frames} frames")
    symbols, model = _sliding_window_model(dtrajs, lag_frames)
    everything = np.concatenate(dtrajs)
    connected = float(np.isin(everything, symbols).mean())
    weights = None
    if model is None or connected < min_connected:
        note = (
            f"UNWEIGHTED: only {100 * connected:.0f} % of the frames of the reference are in states that are "
            "connected in both directions, so no Markov state model can reweight it"
        )
    else:
        probability = np.zeros(states.n_states)
        probability[symbols] = model.stationary_distribution
        count = np.bincount(everything, minlength=states.n_states)
        weight = np.divide(probability, count, out=np.zeros(states.n_states), where=count > 0)
        total = weight[everything].sum()
        weights = tuple(weight[d] / total for d in dtrajs)
        note = f"reweighted by a Markov state model of {len(symbols)} states at a lag of {lag_frames} frames"
    return Reweighting(
        weights,
        connected=connected,
        timescales_frames=_timescales(model, 3),
        lag_frames=int(lag_frames),
        n_states=states.n_states,
        note=note,
    )


def implied_timescales(
    states: ReferenceStates, lags: Sequence[int], *, n: int = 3
) -> dict[int, tuple[float, ...]]:
    """Return the ``n`` slowest implied timescales (frames) at each lag that a trajectory is longer than."""
    longest = max(len(d) for d in states.assignments)
    return {
        int(lag): _timescales(_sliding_window_model(states.assignments, lag)[1], n)
        for lag in lags
        if lag < longest
    }


def kmeans_centres(
    points: NDArray[np.float64], n_states: int, *, seed: int, max_iterations: int
) -> NDArray[np.float64]:
    """Cluster ``points`` ``(n, d)`` by k-means; returns the ``(n_states, d)`` centres."""
    from deeptime.clustering import KMeans

    estimator = KMeans(n_states, fixed_seed=int(seed) % 2**31, max_iter=max_iterations, n_jobs=1)
    return np.asarray(estimator.fit_fetch(points).cluster_centers, dtype=np.float64)


def nearest_centre(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index ``(n,)`` of the centre ``(n_states, d)`` nearest to each point ``(n, d)``."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(centres).query(points)[1], dtype=np.int64)


def reversible_model(counts: Any) -> Any:
    """Estimate the reversible maximum-likelihood Markov state model of strongly connected counts.

    deeptime's fixed-point iteration converges slowly where sets of states are weakly connected, and fails for
    very small populations. There, Newton's method solves the same equations.

    Parameters
    ----------
    counts
        ``deeptime.markov.TransitionCountModel``.

    Returns
    -------
    ``deeptime.markov.msm.MarkovStateModel``.

    Raises
    ------
    AnalysisError
        The estimate does not converge.
    """
    from deeptime.markov.msm import MarkovStateModel, MaximumLikelihoodMSM
    from deeptime.util.exceptions import NotConvergedWarning

    estimator = MaximumLikelihoodMSM(reversible=True, maxiter=_FIXED_POINT_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConvergedWarning)
        try:
            return estimator.fit_fetch(counts)
        except (NotConvergedWarning, RuntimeError):  # the latter for populations below 1e-15
            pass
    matrix, stationary = newton_reversible(np.asarray(counts.count_matrix, dtype=np.float64))
    return MarkovStateModel(matrix, stationary_distribution=stationary, reversible=True, count_model=counts)


def newton_reversible(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the reversible maximum-likelihood transition matrix of ``counts`` by Newton's method.

    With row sums cᵢ and energies fᵢ = ln(πᵢ / cᵢ) the stationarity conditions are
    cᵢ = Σⱼ (cᵢⱼ + cⱼᵢ) / (1 + exp(fᵢ − fⱼ)): the gradient of a convex, generalised self-concordant function
    of f, for which the damped steps used here converge (Sun & Tran-Dinh, Math. Program. 178, 145, 2019).

    Parameters
    ----------
    counts
        ``(n, n)``, strongly connected.

    Returns
    -------
    Transition matrix ``(n, n)`` and stationary distribution ``(n,)``.

    Raises
    ------
    AnalysisError
        Newton's method does not converge.
    """
    from scipy.special import expit

    both = counts + counts.T
    # self-transitions cancel in the gradient: without them it is accurate for rare transitions
    leaving = counts - np.diag(np.diag(counts))
    pairs, rows = leaving + leaving.T, leaving.sum(axis=1)
    f = np.zeros(len(counts))
    for _ in range(_NEWTON_STEPS):
        fraction = expit(f[None, :] - f[:, None])
        gradient = rows - (pairs * fraction).sum(axis=1)
        curvature = pairs * fraction * fraction.T
        hessian = np.diag(curvature.sum(axis=1)) - curvature
        # f is defined up to a constant: fix its mean
        try:
            step = np.linalg.solve(hessian + hessian.trace() / len(f) ** 2, -gradient)
        except np.linalg.LinAlgError:  # states that are connected by less than rounding
            break
        reach = float(np.ptp(step))
        if reach < _TOLERANCE:
            flow = both * fraction * np.exp(f - f.max())[:, None]
            flow = 0.5 * (flow + flow.T)
            stationary = flow.sum(axis=1)
            return flow / stationary[:, None], stationary / stationary.sum()
        f = f + step * (np.log1p(reach) / reach)
    raise AnalysisError(
        f"the Markov state model of {len(counts)} states did not converge: its transition counts connect "
        "some states too weakly; use fewer states, a shorter lag or longer trajectories"
    )


def _timescales(model: Any, n: int) -> tuple[float, ...]:
    return () if model is None else tuple(float(t) for t in model.timescales(k=min(n, model.n_states - 1)))


def _sliding_window_model(dtrajs: Sequence[NDArray[np.int64]], lag: int) -> tuple[NDArray[np.int64], Any]:
    """Return the states of the largest connected set, and its model (None for a single state)."""
    from deeptime.markov import TransitionCountEstimator

    used = [np.asarray(d, dtype=np.int32) for d in dtrajs if len(d) > lag]
    counts = TransitionCountEstimator(lagtime=int(lag), count_mode="sliding").fit_fetch(used)
    largest = counts.submodel_largest(connectivity_threshold=0.0)
    symbols = np.asarray(largest.state_symbols, dtype=np.int64)
    return symbols, None if len(symbols) < 2 else reversible_model(largest)
