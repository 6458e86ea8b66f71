"""The refinement of the final model: sample, compare populations, correct the priors, and repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.frames import continued_positions
from cgal_plugin.components.protocols import RefinableTrainer, TrainedModel
from cgal_plugin.components.sampler import dynamics_folder, refinement_sampler
from cgal_plugin.config.refinement import Refinement as Settings
from cgal_plugin.driver.context import RunContext
from cgal_plugin.errors import AnalysisError
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import hash_file
from cgal_plugin.refinement.target import Target, equilibrated
from cgal_plugin.runs.layout import REFINEMENT, sampled_trajectories
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import Dependencies, Stage, StageOutput
from cgal_plugin.units import kT

#: share of the all-atom frames whose populations should be known
_MIN_CONNECTED = 0.95


class Refinement:
    """Stages ``refinement/iteration_000`` and so on; the last one only samples the final model.

    The folder of an iteration holds the trajectories of its model, and the next model with its potential. The
    potential is kept because a killed simulation can be resumed only with the same file.

    Raises
    ------
    DataError
        The data store holds no unbiased all-atom dynamics, or its frames are too far apart in time.
    """

    def __init__(self, settings: Settings, trainer: RefinableTrainer, context: RunContext) -> None:
        self.settings, self.trainer, self.context = settings, trainer, context
        self._sampled: dict[int, Sequence[NDArray[np.floating]]] = {}

    def run(self, model: TrainedModel, priors: PriorSet, potential: Path) -> TrainedModel | None:
        """Refine ``model`` with the energy ``priors`` and the exported ``potential``; None: not possible."""
        context = self.context
        inputs = {
            "checkpoint": hash_file(model.checkpoint),
            "shards": context.store.names(),
            "config": self.settings.model_dump(mode="json"),
        }
        for k in range(self.settings.iterations + 1):
            stage = self._stage(k)
            results = stage.run(
                partial(self._iterate, k, model, priors, potential),
                title=f"refinement: iteration {k}",
                inputs=inputs,
                seeds={"simulate": context.seed(REFINEMENT, k)},
                depends=Dependencies({"iteration": self._stage(k - 1).digest()} if k else {}),
                reporter=context.log,
                usable=partial(self._usable, inputs),
            )
            if "failed" in results:
                context.log.message(f"{REFINEMENT} left out, the model is not refined: {results['failed']}")
                return None
            if k < self.settings.iterations:
                model = TrainedModel(stage.file("model.ckpt"))
                priors = PriorSet.load(stage.file("priors.yaml"))
                potential = stage.file(potential.name)
        return model

    def _stage(self, k: int) -> Stage:
        return self.context.directory.stage(REFINEMENT, f"iteration_{k:03d}")

    def _usable(self, inputs: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Return whether an iteration belongs to this refinement; if not, rename their folder."""
        if manifest["inputs"] == inputs:
            return True
        self.context.directory.move_aside(REFINEMENT)
        self._sampled.clear()
        self.context.log.message(
            f"{REFINEMENT}/ belongs to another model or other settings: it is renamed, and the "
            "refinement starts again"
        )
        return False

    # ------------------------------------------------------------------ one iteration

    def _iterate(
        self,
        k: int,
        model: TrainedModel,
        priors: PriorSet,
        potential: Path,
        folder: Path,
        progress: Progress,
    ) -> StageOutput:
        context, settings = self.context, self.settings
        sampler = refinement_sampler(context.components.sampler, settings, context.config.system.temperature)
        self._sampled[k], output = context.sample(
            sampler,
            potential,
            self._start(k),
            seed=context.seed(REFINEMENT, k),
            folder=folder,
            out_dir=folder / dynamics_folder(sampler),
            progress=progress,
        )
        trajectories = equilibrated(self._trajectories(k), k)
        results = dict(output.results)
        try:
            found = self._target.compare(trajectories)
        except AnalysisError as error:  # a Markov state model that did not converge, too few frames
            return StageOutput(results | {"failed": str(error)}, output.files)
        results |= found.to_dict()
        made: list[Path] = []
        if k < settings.iterations:
            energy = kT(context.config.system.temperature)
            corrected, results["energy_spread"] = self._target.correct(
                priors, trajectories, found, kT=energy, ridge=settings.ridge
            )
            made = [folder / name for name in ("priors.yaml", "model.ckpt", potential.name)]
            corrected.save(made[0])
            next_model = self.trainer.with_priors(model, corrected, made[1])
            packed = context.components.packed_replicas
            self.trainer.export(next_model, context.store.topology, made[2], packed)
        if k == 0 and found.connected < _MIN_CONNECTED:
            context.log.message(
                f"{REFINEMENT}: {100 * (1 - found.connected):.0f} % of the all-atom frames are in states "
                "that neither the data nor the model connect to the others; they are left out. Longer labels "
                "connect more states"
            )
        return StageOutput(results, [*output.files, *made])

    @cached_property
    def _target(self) -> Target:
        return Target.build(
            self.context.store,
            equilibrated(self._trajectories(0), 0),
            lag_ps=self.settings.lag_ps,
            n_states=self.settings.n_states,
            seed=self.context.seed(REFINEMENT, "states"),
        )

    # ------------------------------------------------------------------ sampling

    def _trajectories(self, k: int) -> Sequence[NDArray[np.floating]]:
        if k not in self._sampled:
            self._sampled[k] = sampled_trajectories(self._stage(k))
        return self._sampled[k]

    def _start(self, k: int) -> NDArray[np.floating]:
        """Return the last frames of the previous iteration; data frames at first, and after a blow-up."""
        context, parts = self.context, self.context.components
        last, results = (self._trajectories(k - 1), self._stage(k - 1).results()) if k else ((), {})
        seed, n, spread = context.seed(REFINEMENT, "start", k), parts.n_replicas, parts.spread_starts
        return continued_positions(context.store, last, results, n, seed=seed, spread=spread)

    def test(self, model: TrainedModel) -> dict[str, Any]:
        """Test the refined model; return the results for the user."""
        context = self.context
        depends = Dependencies({"model": hash_file(model.checkpoint)})
        old = (context.directory.root / "model.ckpt").exists()
        return context.test(
            model, context.directory.stage(REFINEMENT, "test"), "refined model", depends, old=old
        )
