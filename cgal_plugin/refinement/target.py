"""Target populations of a refinement, from the all-atom dynamics in a data store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.config.refine_by_default import common_interval
from cgal_plugin.data import DataStore
from cgal_plugin.data.dynamics import free_trajectories, save_intervals
from cgal_plugin.errors import DataError, DynamicsError
from cgal_plugin.priors import PriorSet
from cgal_plugin.priors.linear import energies, linear_terms, shifted
from cgal_plugin.refinement.correction import correction
from cgal_plugin.refinement.populations import DynamicStates, Populations, populations
from cgal_plugin.runs.layout import EQUILIBRATION, REFINEMENT, without_equilibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: frames of the all-atom dynamics in one lag time
_FRAMES_PER_LAG = 25
_MAX_FRAMES, _MIN_FRAMES = 20_000, 200


@dataclass(frozen=True, eq=False)
class Target:
    """States of the all-atom dynamics, and their populations as target of all iterations.

    The ratio of states that the data do not connect is that of the force-matched model. With the ratio of the
    previous model, errors would accumulate: a basin that one correction deepens by chance would be deepened
    again.

    Attributes
    ----------
    data
        Unbiased all-atom trajectories, ``(n, n_beads, 3)`` Å each, equally spaced in time.
    states
        States in the slowest components of the data.
    data_states
        State of each frame of ``data``.
    first
        Target populations, and those that the first model sampled.
    """

    data: list[NDArray[np.floating]]
    states: DynamicStates
    data_states: list[NDArray[np.int64]]
    first: Populations

    @classmethod
    def build(
        cls,
        store: DataStore,
        first_sampled: Sequence[NDArray[np.floating]],
        *,
        lag_ps: float,
        n_states: int,
        seed: int,
    ) -> Target:
        """Fit states and target populations.

        Parameters
        ----------
        store
            Data store with the all-atom dynamics.
        first_sampled
            Trajectories of the model before its first correction.
        lag_ps
            Lag time of the Markov state model, ps.

        Raises
        ------
        DataError
            The store holds no unbiased dynamics, or its frames are too far apart in time.
        """
        interval_ps = _interval(store, lag_ps)
        data: list[NDArray[np.floating]] = list(free_trajectories(store, interval_ps))
        lag_frames = max(1, round(lag_ps / interval_ps))
        states = DynamicStates.fit(data, first_sampled, lag_frames=lag_frames, n_states=n_states, seed=seed)
        data_states, own = states.assign(data), states.assign(first_sampled)
        first = populations(data_states, own, states.n_states, states.lag_frames)
        return cls(data, states, data_states, first)

    def compare(self, sampled: Sequence[NDArray[np.floating]]) -> Populations:
        """Return the target populations and those of trajectories that another model sampled."""
        return self.first.with_model(self.states.assign(sampled))

    def correct(
        self,
        priors: PriorSet,
        sampled: Sequence[NDArray[np.floating]],
        found: Populations,
        *,
        kT: float,
        ridge: float,
    ) -> tuple[PriorSet, float]:
        """Correct the priors by one step towards the target.

        Returns
        -------
        The new priors, and the spread of the energy that the correction adds (kcal/mol).
        """
        terms = linear_terms(priors)
        (x, s), (y, t) = _thinned(sampled, self.states.assign(sampled)), _thinned(self.data, self.data_states)
        step = correction(energies(terms, x), s, energies(terms, y), t, found, kT=kT, ridge=ridge)
        return shifted(priors, terms, step.change), step.spread


def equilibrated(trajectories: Sequence[NDArray[np.floating]], iteration: int) -> list[NDArray[np.floating]]:
    """Return the trajectories of an iteration without their equilibration.

    Raises
    ------
    DynamicsError
        Too few frames are left.
    """
    used = without_equilibration(trajectories)
    n = sum(len(t) for t in used)
    if n < _MIN_FRAMES:
        raise DynamicsError(
            f"{REFINEMENT}: the model of iteration {iteration} gave {n} frames after the first "
            f"{100 * EQUILIBRATION:.0f} % of each replica; {_MIN_FRAMES} are needed. If replicas blew up "
            "(the log counts them), raise refinement.ridge, or delete the folder and refine with fewer "
            "iterations; otherwise raise refinement.steps or lower simulation.report_interval"
        )
    return used


def _interval(store: DataStore, lag_ps: float) -> float:
    """Return the shortest useful interval (ps) at which all shards have frames, given the lag time."""
    common = common_interval(save_intervals(store))
    interval: float = round(common * max(1, round(lag_ps / _FRAMES_PER_LAG / common)), 6)
    if interval > lag_ps:
        raise DataError(
            f"the shards have common frames only every {interval:g} ps, which is longer than "
            f"refinement.lag_ps = {lag_ps:g}: raise refinement.lag_ps, or save frames more often"
        )
    return interval


def _thinned(
    trajectories: Sequence[NDArray[np.floating]], states: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Return at most 20,000 frames, evenly spaced, and their states."""
    x, s = np.concatenate(trajectories), np.concatenate(states)
    step = max(1, -(-len(x) // _MAX_FRAMES))
    return x[::step], s[::step]
