"""One round of one system, whose model is trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.checks import check_exported
from cgal_plugin.components.label_job import round_label_job
from cgal_plugin.components.protocols import TrainedModel
from cgal_plugin.components.selection import select_frames
from cgal_plugin.driver.rounds import Round
from cgal_plugin.provenance import derive_seed, hash_object
from cgal_plugin.runs.layout import shard_round
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import Dependencies, StageOutput
from cgal_plugin.runs.summary import load_arrays
from cgal_plugin.systems.budget import Allotted, Wanted


class SystemRound(Round):
    """A round of a run with several systems: the shared model in place of a training."""

    def export(self, model: TrainedModel, digest: str) -> None:
        """Export the potentials of the shared model for this molecule; ``digest`` is that of the model."""
        run = self.run

        def compute(folder: Path, progress: Progress) -> StageOutput:
            trainer, potentials = run.components.trainer, []
            for n in sorted({1, run.components.packed_replicas}):
                potentials.append(self.potential(n))
                trainer.export(model, run.store.topology, potentials[-1], n)
            check_exported(potentials, trainer)
            n_frames = sum(run.store.record(name)["n_frames"] for name in self._shards)
            # the metrics of the training are those of all systems
            return StageOutput({"metrics": [], "n_frames": n_frames}, potentials)

        self._trained = self._stage("train").run(
            compute,
            title=f"round {self.index}: export",
            inputs={"shards": self._shards},
            depends=Dependencies({"model": digest}),
            reporter=run.log,
        )

    @property
    def shards(self) -> list[str]:
        """Names of the shards that the model of this round is trained on."""
        return self._shards

    @property
    def shards_digest(self) -> str:
        """Digest of the shards that the model of this round is trained on."""
        return self.run.store.digest(self._shards)

    def candidates(self) -> NDArray[np.floating]:
        """Return the sampled frames ``(n, n_beads, 3)`` Å."""
        return np.concatenate(self.trajectories())

    @property
    def candidates_digest(self) -> str:
        """Digest of the sampled frames and of their coverage."""
        return hash_object([self._stage(name).digest() for name in ("simulate", "evaluate")])

    @property
    def labelled(self) -> bool:
        """Whether frames of this round have labels."""
        return any(shard_round(name) == self.index for name in self.run.store.names())

    def physical(self) -> NDArray[np.int64]:
        """Return the candidates that are not farther from the data than ``selector.max_rmsd``."""
        most = getattr(self.run.config.selector, "max_rmsd", None)
        return np.flatnonzero(self.distances() <= (np.inf if most is None else most))

    def as_wanted(self, indices: NDArray[np.int64]) -> Wanted:
        """Return given candidates as wanted frames."""
        seed = derive_seed(self._seed("select"), "scale")
        return Wanted.of(self.candidates(), indices, self.distances()[indices], seed)

    def wanted(self, model: TrainedModel) -> Wanted:
        """Return the frames that the selector of this system wants."""
        seed, candidates = self._seed("select"), self.candidates()
        indices, distances, _ = select_frames(
            self.run.components.selector(model, seed),
            candidates,
            lambda: self.run.store.positions(self._shards),
            self.distances,
        )
        unknown = np.isnan(distances)
        distances = np.where(unknown, self.distances()[indices], distances)
        return Wanted.of(candidates, indices, distances, derive_seed(seed, "scale"))

    def select_and_label(
        self, model: TrainedModel, indices: list[int], distances: list[float]
    ) -> dict[str, Any]:
        """Label the frames that this system has got.

        Failed frames are recorded, and other systems go on; if none could be labelled, ``failed`` of the
        result says why.
        """
        components, own = self.run.components, self.run.components.selector
        components.selector = lambda model, seed: Allotted(indices, distances)
        try:
            if self.select(model) is not None:
                return {"n_selected": 0, "n_labelled": 0, "n_quarantined": 0, "oracle_ns": 0.0}
            found = self.label()
        finally:
            components.selector = own
        if found["n_selected"] and not found["n_labelled"]:
            reasons = list(dict.fromkeys(str(f["reason"]) for f in found["quarantined"]))
            found["failed"] = "; ".join(reasons[:3]) or "no reason is recorded"
            self.run.log.message(
                f"none of {found['n_selected']} frames could be labelled ({found['failed']}). The other "
                "systems go on"
            )
        return found

    def label(self) -> dict[str, Any]:
        """Label the selected frames; the stage is complete also if some or all of them failed.

        How many may fail is decided for all systems together.
        """
        run, stage = self.run, self._stage("label")
        selected = load_arrays(self._stage("select").folder / "selected.npz")
        job = round_label_job(self.index, run.config, run.store, selected, stage.folder, run.log)
        job.max_failure_rate = 1.0

        def compute(folder: Path, progress: Progress) -> StageOutput:
            job.run(run.components.oracle, run.components.executor, progress)
            return StageOutput(job.results(), inputs={"shards": [n for n in job.names if n in run.store]})

        def usable(manifest: Mapping[str, Any]) -> bool:
            return all(name in run.store for name in manifest["inputs"]["shards"])

        return self._run("label", compute, {"config": run.settings("oracle")}, usable=usable)

    def forget_labels(self) -> None:
        """Put the record of the labels of this round aside, so that failed ones are tried again."""
        stage = self._stage("label")
        if stage.done:
            self.run.directory.move_aside("rounds", self.name, "label")
