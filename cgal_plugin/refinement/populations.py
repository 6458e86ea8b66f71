"""Equilibrium populations of states from short all-atom trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.markov_states import kmeans_centres, nearest_centre, reversible_model
from cgal_plugin.analysis.tica import TICAModel
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: number of slowest components in which frames are clustered
_DIM = 4
#: fraction of the transitions out of each state that follow the model's dynamics
MIXING = 0.1
#: self-transitions (in independent counts) assigned to a state without data
_FLOOR_COUNTS = 0.05
_MAX_POINTS = 20_000
#: lower limit of populations whose logarithm is taken
LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class DynamicStates:
    """k-means states in the slowest components of all-atom trajectories.

    Attributes
    ----------
    tica
        Components, fitted on the all-atom trajectories.
    centres
        ``(n_states, dim)`` in TIC space.
    lag_frames
        Lag time of the components and of the transitions, in frames of the all-atom trajectories.
    """

    tica: TICAModel
    centres: NDArray[np.float64]
    lag_frames: int

    @classmethod
    def fit(cls, data: Any, model: Any, *, lag_frames: int, n_states: int, seed: int) -> DynamicStates:
        """Fit the components of ``data``, and cluster ``data`` and ``model`` together.

        Parameters
        ----------
        data, model
            Lists of ``(n, n_beads, 3)`` Å trajectories, in time order and equally spaced.
        lag_frames
            Lag time, frames of ``data``.

        Raises
        ------
        AnalysisError
            No trajectory is longer than the lag, or there are fewer than two frames per state.
        """
        long = [t for t in data if len(t) > lag_frames]
        if not long:
            raise AnalysisError(
                f"none of the {len(data)} all-atom trajectories is longer than the lag of {lag_frames} "
                "frames: make the labels longer or refinement.lag_ps shorter"
            )
        tica = TICAModel.fit(long, lag_frames, _DIM)
        points = np.concatenate([_thinned(tica.transform(t)) for t in (data, model)])
        if len(points) < 2 * n_states:
            raise AnalysisError(f"{len(points)} frames are too few for {n_states} states")
        return cls(tica, kmeans_centres(points, n_states, seed=seed, max_iterations=100), lag_frames)

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.centres)

    def assign(self, trajectories: Any) -> list[NDArray[np.int64]]:
        """Return the state of each frame, one ``(n,)`` array per trajectory ``(n, n_beads, 3)`` Å."""
        return [nearest_centre(p, self.centres) for p in self.tica.transform(trajectories)]


@dataclass(frozen=True, eq=False)
class Populations:
    """Populations of the states.

    Attributes
    ----------
    target
        ``(n_states,)``: equilibrium populations of the all-atom dynamics.
    model
        ``(n_states,)``: fractions of the model's frames.
    connected
        Fraction of the all-atom frames in states that transitions of data or model connect; the other
        states have no target population.
    """

    target: NDArray[np.float64]
    model: NDArray[np.float64]
    connected: float = 1.0

    def with_model(self, states: Sequence[NDArray[np.int64]]) -> Populations:
        """Return the same target with another model: its states, one ``(n,)`` array per trajectory."""
        return replace(self, model=_fractions(states, len(self.target)))

    def to_dict(self) -> dict[str, Any]:
        """Return divergence, connected share, and both populations, ready for JSON."""
        populations = {"target": self.target.tolist(), "model": self.model.tolist()}
        return {"divergence": self.divergence, "connected": self.connected, **populations}

    @property
    def divergence(self) -> float:
        """Kullback–Leibler divergence of ``model`` from ``target``; a population below 1e-4 is 1e-4."""
        there, model = self.target > 0, np.maximum(self.model, LEAST)
        return float((self.target[there] * np.log(self.target[there] / model[there])).sum())


def populations(
    data: Sequence[NDArray[np.int64]],
    model: Sequence[NDArray[np.int64]],
    n_states: int,
    lag_frames: int,
) -> Populations:
    """Estimate equilibrium populations with a reversible Markov state model of the data's transitions.

    Transition counts of short trajectories determine free-energy differences, independent of where the
    trajectories start (Prinz et al., J. Chem. Phys. 134, 174105, 2011). They do not determine the ratio of
    states that the data do not connect in both directions, and transitions seen in one direction only would
    create an absorbing state: they are removed. For such states, the ratio of the model is used: a fraction
    (:data:`MIXING`) of the transitions out of each state follow the model's dynamics. The model's transitions
    are counted in both directions, so that they obey detailed balance with the model's populations. States
    that only the model visits thus keep their population relative to their neighbours.

    Parameters
    ----------
    data, model
        States of the all-atom frames and of the frames of the model, one ``(n,)`` array per trajectory.
    n_states
        Number of states.
    lag_frames
        Lag of the data, frames. A fifth of it is used for the model, whose dynamics is faster.

    Raises
    ------
    AnalysisError
        The model has no frames, or the Markov state model does not converge.
    """
    from deeptime.markov import TransitionCountModel

    fractions = _fractions(model, n_states)
    # sliding windows overlap: one in lag_frames is independent
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
        target[symbols] = reversible_model(connected).stationary_distribution
    everything = np.concatenate(data)
    found = float(np.isin(everything, symbols).mean()) if len(everything) else 0.0
    return Populations(target / target.sum(), fractions, found)


def _fractions(states: Sequence[NDArray[np.int64]], n_states: int) -> NDArray[np.float64]:
    frames = np.bincount(np.concatenate(states), minlength=n_states).astype(np.float64)
    if not frames.sum():
        raise AnalysisError("the model sampled no frames")
    return np.asarray(frames / frames.sum())


def _returning(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep transitions between states that can be reached from each other."""
    from scipy.sparse.csgraph import connected_components

    part = connected_components(counts > 0, directed=True, connection="strong")[1]
    return np.asarray(np.where(part[:, None] == part[None, :], counts, 0.0))


def _counts(states: Sequence[NDArray[np.int64]], n_states: int, lag: int) -> NDArray[np.float64]:
    found = np.zeros((n_states, n_states))
    for path in states:
        if len(path) > lag:
            np.add.at(found, (path[:-lag], path[lag:]), 1.0)
    return found


def _thinned(points: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    everything = np.concatenate(points)
    return everything[:: max(1, -(-len(everything) // _MAX_POINTS))]
