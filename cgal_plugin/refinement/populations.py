"""Equilibrium populations of states from short all-atom trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.tica import TICAModel
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: slowest components in which states are told apart
_DIM = 4
#: share of each state's transitions that are those of the model's dynamics
MIXING = 0.1
#: transitions (independent ones) to itself that a state without data is given
_FLOOR_COUNTS = 0.05
_MAX_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class DynamicStates:
    """k-means states in the slowest components of all-atom trajectories.

    Attributes
    ----------
    tica
        Fitted on the all-atom trajectories.
    centres
        ``(n_states, dim)`` in TIC space.
    lag_frames
        Of the components and of the transitions, frames of the all-atom trajectories.
    """

    tica: TICAModel
    centres: NDArray[np.float64]
    lag_frames: int

    @classmethod
    def fit(cls, data: Any, model: Any, *, lag_frames: int, n_states: int, seed: int) -> DynamicStates:
        """Components of ``data``, states of ``data`` and ``model`` together.

        Parameters
        ----------
        data, model
            Lists of ``(n, n_beads, 3)`` Å trajectories, in time order and equally spaced.
        lag_frames
            Lag time, frames of ``data``.

        Raises
        ------
        AnalysisError
            No trajectory is longer than the lag, or there are fewer frames than states.
        """
        from deeptime.clustering import KMeans

        long = [t for t in data if len(t) > lag_frames]
        if not long:
            raise AnalysisError(
                f"none of the {len(data)} all-atom trajectories is longer than the lag of {lag_frames} "
                "frames: make labels longer, or refinement.lag_ps shorter"
            )
        tica = TICAModel.fit(long, lag_frames, _DIM)
        points = np.concatenate([_thinned(tica.transform(t)) for t in (data, model)])
        if len(points) < 2 * n_states:
            raise AnalysisError(f"{len(points)} frames are too few for {n_states} states")
        estimator = KMeans(n_states, fixed_seed=seed % 2**31, max_iter=100, n_jobs=1)
        centres = np.asarray(estimator.fit_fetch(points).cluster_centers, dtype=np.float64)
        return cls(tica, centres, lag_frames)

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.centres)

    def assign(self, trajectories: Any) -> list[NDArray[np.int64]]:
        """State of each frame, one array a trajectory."""
        from scipy.spatial import cKDTree

        tree = cKDTree(self.centres)
        return [tree.query(p)[1].astype(np.int64) for p in self.tica.transform(trajectories)]


@dataclass(frozen=True, eq=False)
class Populations:
    """Shares of the states.

    Attributes
    ----------
    target
        ``(n_states,)``: equilibrium of the all-atom dynamics.
    model
        ``(n_states,)``: what the model sampled.
    connected
        Share of the all-atom frames in states that the data or the model connect; the others are left out.
    """

    target: NDArray[np.float64]
    model: NDArray[np.float64]
    connected: float = 1.0

    def with_model(self, states: Sequence[NDArray[np.int64]]) -> Populations:
        """The same target, and the shares of what another model sampled (states, one array a trajectory)."""
        return replace(self, model=_shares(states, len(self.target)))

    @property
    def divergence(self) -> float:
        """Kullback–Leibler divergence of ``model`` from ``target``, over states that the model visits."""
        both = (self.target > 0) & (self.model > 0)
        return float((self.target[both] * np.log(self.target[both] / self.model[both])).sum())


def populations(
    data: Sequence[NDArray[np.int64]],
    model: Sequence[NDArray[np.int64]],
    n_states: int,
    lag_frames: int,
) -> Populations:
    """Stationary distribution of a reversible Markov state model of the data's transitions.

    Short trajectories from anywhere tell free-energy differences through how often they pass from one
    state to another, whatever their starts were (Prinz et al., J. Chem. Phys. 134, 174105, 2011). States
    that the data do not connect both ways have no ratio, and a passage that was seen in one direction only
    would make a trap of its end: such passages are left out. There the model's ratio holds: a small share
    (:data:`MIXING`) of each state's transitions are those of the model's dynamics, counted in both
    directions, so that it obeys detailed balance with the model's populations. States that only the model
    visits keep, in that way, their share relative to their neighbours.

    Parameters
    ----------
    data, model
        States of the all-atom frames and of the model's, one array a trajectory.
    n_states
        Number of states.
    lag_frames
        Lag of the data, frames. The model's own is a fifth of it: its dynamics is faster.

    Raises
    ------
    AnalysisError
        The model has no frames.
    """
    from deeptime.markov import TransitionCountModel
    from deeptime.markov.msm import MaximumLikelihoodMSM

    shares = _shares(model, n_states)
    # a window slides by a frame: of lag_frames windows one is independent
    counts = _returning(_counts(data, n_states, lag_frames) / lag_frames)
    own = _counts(model, n_states, max(1, lag_frames // 5))
    own = own + own.T
    own /= np.maximum(own.sum(axis=1, keepdims=True), 1e-12)
    counts[np.diag_indices(n_states)] += np.where(counts.any(axis=1), 0.0, _FLOOR_COUNTS)
    mixed = (1.0 - MIXING) * counts + MIXING * counts.sum(axis=1, keepdims=True) * own
    connected = TransitionCountModel(mixed, counting_mode="effective", lagtime=lag_frames)
    connected = connected.submodel_largest(connectivity_threshold=0.0)
    symbols = np.asarray(connected.state_symbols, dtype=np.int64)
    target = np.zeros(n_states)
    target[symbols] = 1.0
    if len(symbols) > 1:
        estimator = MaximumLikelihoodMSM(reversible=True, maxiter=200_000, maxerr=1e-8)
        target[symbols] = estimator.fit_fetch(connected).stationary_distribution
    everything = np.concatenate(data)
    share = float(np.isin(everything, symbols).mean()) if len(everything) else 0.0
    return Populations(target / target.sum(), shares, share)


def _shares(states: Sequence[NDArray[np.int64]], n_states: int) -> NDArray[np.float64]:
    frames = np.bincount(np.concatenate(states), minlength=n_states).astype(np.float64)
    if not frames.sum():
        raise AnalysisError("the model sampled no frames")
    return frames / frames.sum()


def _returning(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transitions between states of which each can be reached from the other."""
    from scipy.sparse.csgraph import connected_components

    part = connected_components(counts > 0, directed=True, connection="strong")[1]
    return np.where(part[:, None] == part[None, :], counts, 0.0)


def _counts(states: Sequence[NDArray[np.int64]], n_states: int, lag: int) -> NDArray[np.float64]:
    found = np.zeros((n_states, n_states))
    for path in states:
        if len(path) > lag:
            np.add.at(found, (path[:-lag], path[lag:]), 1.0)
    return found


def _thinned(points: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    everything = np.concatenate(points)
    return everything[:: max(1, -(-len(everything) // _MAX_POINTS))]
