"""The refinement of a run's final model: sample, compare populations, correct the priors, and again."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.build import Components
from cgal_plugin.components.checks import check_sampled
from cgal_plugin.components.protocols import Sampler, TrainedModel
from cgal_plugin.components.sampler import OpenMMSampler
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.data.dynamics import free_trajectories, save_intervals
from cgal_plugin.data.trajectories import load_replicas, save_trajectories
from cgal_plugin.errors import DataError, DynamicsError
from cgal_plugin.priors import PriorSet
from cgal_plugin.priors.linear import energies, linear_terms, shifted
from cgal_plugin.provenance import derive_seed, hash_file
from cgal_plugin.refinement import DynamicStates, Populations, correction, populations
from cgal_plugin.runs.directory import RunDirectory, Stage
from cgal_plugin.runs.layout import EQUILIBRATION, REFINEMENT, equilibrated
from cgal_plugin.runs.log import RunLog
from cgal_plugin.units import kT

#: frames of the all-atom dynamics in a lag time
_FRAMES_A_LAG = 25
_MAX_FRAMES = 20_000
_MIN_FRAMES = 200
#: share of the all-atom frames whose populations should be known
_MIN_CONNECTED = 0.95


class Refinement:
    """Stages ``refinement/iteration_000`` and on; the last one only samples what was made.

    The folder of an iteration holds what its model sampled, and the next model with its potential: a killed
    simulation is gone on with only by the very file that it was begun with.

    Raises
    ------
    DataError
        The data store holds no unbiased all-atom dynamics, or its frames are too far apart.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        parts: Components,
        store: DataStore,
        reporter: RunLog,
    ) -> None:
        assert config.refinement is not None
        self.config, self.settings = config, config.refinement
        self.directory, self.parts, self.store, self.reporter = directory, parts, store, reporter

    def run(self, model: TrainedModel, priors: PriorSet, potential: Path) -> TrainedModel:
        """Refine ``model``, whose prior energy is ``priors`` and whose ``potential`` the sampler runs."""
        inputs = {
            "checkpoint": hash_file(model.checkpoint),
            "shards": self.store.names(),
            "config": self.settings.model_dump(mode="json"),
        }
        for k in range(self.settings.iterations + 1):
            stage = self._stage(k)
            if stage.done and stage.manifest()["inputs"] != inputs:
                self._start_anew()
            if stage.done:
                self.reporter.skipped(_title(k))
            else:
                self._iterate(k, stage, model, priors, potential, inputs)
            if k < self.settings.iterations:
                model = TrainedModel(stage.file("model.ckpt"))
                priors = PriorSet.load(stage.file("priors.yaml"))
                potential = stage.file(potential.name)
        return model

    def _stage(self, k: int) -> Stage:
        return self.directory.stage(REFINEMENT, f"iteration_{k:03d}")

    def _start_anew(self) -> None:
        """Put aside what was refined from another model, or with other settings."""
        folder = self.directory.root / REFINEMENT
        aside = folder.with_name(f".{REFINEMENT}.{sum(1 for _ in folder.parent.glob(f'.{REFINEMENT}.*'))}")
        folder.rename(aside)
        self.reporter.message(f"{REFINEMENT}/ was made with another model or other settings: it starts anew")

    # ------------------------------------------------------------------ an iteration

    def _iterate(
        self,
        k: int,
        stage: Stage,
        model: TrainedModel,
        priors: PriorSet,
        potential: Path,
        inputs: dict[str, Any],
    ) -> None:
        folder = stage.begin()
        seeds = {"simulate": derive_seed(self.config.seed, REFINEMENT, k), "evaluate": self._evaluation_seed}
        with self.reporter.stage(_title(k)) as progress:
            sampled = check_sampled(
                self._sampler.sample(
                    potential,
                    self.store.topology,
                    self._start(k),
                    temperature=self.config.system.temperature,
                    seed=seeds["simulate"],
                    out_dir=folder / "dynamics",
                    progress=progress,
                ),
                self.parts.sampler,
                self.store.topology,
            )
            save_trajectories(folder / "frames.npz", sampled.trajectories)
            outputs = [folder / "frames.npz"]
            results: dict[str, Any] = {
                "events": [dict(e) for e in sampled.events],
                "steps": int(sampled.steps),
            }
            trajectories = self._equilibrated(k)
            results |= self.parts.evaluate(trajectories, seeds["evaluate"])
            own = self._states.assign(trajectories)
            found = self._first.with_model(own)
            results |= {"divergence": found.divergence, "connected": found.connected}
            results |= {"target": found.target.tolist(), "model": found.model.tolist()}
            if k < self.settings.iterations:
                corrected, results["energy_spread"] = self._corrected(priors, trajectories, own, found)
                made = [folder / name for name in ("priors.yaml", "model.ckpt", potential.name)]
                corrected.save(made[0])
                next_model = self.parts.trainer.with_priors(model, corrected, made[1])
                replicas = self.parts.packed_replicas
                self.parts.trainer.export(next_model, self.store.topology, made[2], replicas)
                outputs += made
        stage.finish(results, inputs=inputs, outputs=outputs, seeds=seeds)
        if k == 0 and found.connected < _MIN_CONNECTED:
            self.reporter.message(
                f"{REFINEMENT}: {100 * (1 - found.connected):.0f} % of the all-atom frames are in states "
                "that neither they nor the model connect with the others, and are left out: "
                "longer labels help"
            )

    def _corrected(
        self, priors: PriorSet, trajectories: list[np.ndarray], own: list[np.ndarray], found: Populations
    ) -> tuple[PriorSet, float]:
        """The priors a step on, and the spread of the energy that this adds (kcal/mol)."""
        terms = linear_terms(priors)
        (x, s), (y, t) = _thinned(trajectories, own), _thinned(self._data, self._data_states)
        step = correction(
            energies(terms, x),
            s,
            energies(terms, y),
            t,
            found,
            kT=kT(self.config.system.temperature),
            ridge=self.settings.ridge,
        )
        return shifted(priors, terms, step.change), step.spread

    # ------------------------------------------------------------------ what it needs

    @property
    def _evaluation_seed(self) -> int:
        # that of the rounds: bootstraps draw the same reference blocks and can be paired
        return derive_seed(self.config.seed, "evaluate")

    @cached_property
    def _sampler(self) -> Sampler:
        sampler = self.parts.sampler
        if not isinstance(sampler, OpenMMSampler):
            return sampler
        longer = sampler.settings.model_copy(update={"steps": self.settings.steps})
        return OpenMMSampler(longer, sampler.executor)

    def _start(self, k: int) -> np.ndarray:
        """Where the last iteration ended; spread over the data at first, and for replicas that blew up."""
        before = self._stage(k - 1)
        last = load_replicas(before.file("frames.npz")) if k > 0 else []
        gone = {e["replica"] for e in before.results()["events"]} if k > 0 else set()
        ends = {i: path[-1] for i, path in enumerate(last) if len(path) and i not in gone}
        n = self.parts.n_replicas
        if len(ends) == n:
            return np.stack([ends[i] for i in range(n)])
        seed = derive_seed(self.config.seed, REFINEMENT, "start", k)
        start = np.array(self.parts.start_positions(self.store.load_all().positions, n, seed))
        for i, frame in ends.items():
            start[i] = frame
        return start

    def _equilibrated(self, k: int) -> list[np.ndarray]:
        used = equilibrated(self._stage(k))
        n = sum(len(t) for t in used)
        if n < _MIN_FRAMES:
            raise DynamicsError(
                f"{REFINEMENT}: the model of iteration {k} gave {n} frames without the first "
                f"{100 * EQUILIBRATION:.0f} % of each replica, and {_MIN_FRAMES} are needed. If replicas "
                "blew up (the log counts them), raise refinement.ridge, or delete the folder and refine with "
                "fewer iterations; otherwise raise refinement.steps or lower simulation.report_interval"
            )
        return used

    @cached_property
    def _states(self) -> DynamicStates:
        """Those of the first iteration: the same for all."""
        return DynamicStates.fit(
            self._data,
            self._equilibrated(0),
            lag_frames=max(1, round(self.settings.lag_ps / self._interval_ps)),
            n_states=self.settings.n_states,
            seed=derive_seed(self.config.seed, REFINEMENT, "states"),
        )

    @cached_property
    def _first(self) -> Populations:
        """The target of all iterations, and what the first model sampled.

        Where data do not connect states the ratio is that of the force-matched model. With that of the
        last one errors add up: a basin that a correction makes deeper by chance would be wanted deeper.
        """
        own = self._states.assign(self._equilibrated(0))
        return populations(self._data_states, own, self._states.n_states, self._states.lag_frames)

    @cached_property
    def _data(self) -> list[np.ndarray]:
        return free_trajectories(self.store, self._interval_ps)

    @cached_property
    def _data_states(self) -> list[np.ndarray]:
        return self._states.assign(self._data)

    @cached_property
    def _interval_ps(self) -> float:
        """The shortest that all shards have frames at, and no shorter than is of use."""
        saved = [round(1000.0 * t) for t in save_intervals(self.store)]
        common = math.lcm(*saved) if saved else 1
        fine = 1000.0 * self.settings.lag_ps / _FRAMES_A_LAG
        interval = common * max(1, round(fine / common)) / 1000.0
        if interval > self.settings.lag_ps:
            raise DataError(
                f"frames of the data are {interval:g} ps apart where all have them: longer than "
                f"refinement.lag_ps = {self.settings.lag_ps:g}; raise that, or save more often"
            )
        return interval


def _title(k: int) -> str:
    return f"refinement: iteration {k}"


def _thinned(trajectories: list[np.ndarray], states: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """At most 20,000 frames, evenly, and their states."""
    x, s = np.concatenate(trajectories), np.concatenate(states)
    step = max(1, -(-len(x) // _MAX_FRAMES))
    return x[::step], s[::step]
