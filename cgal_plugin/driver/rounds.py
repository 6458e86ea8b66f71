"""The stages of one round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.checks import check_exported, check_trained
from cgal_plugin.components.frames import check_any_frame, coverage, start_positions
from cgal_plugin.components.label_job import round_label_job
from cgal_plugin.components.protocols import TrainedModel, TrainRequest
from cgal_plugin.components.selection import select_frames
from cgal_plugin.driver.context import RunContext
from cgal_plugin.runs.layout import round_dependencies, round_name, sampled_trajectories, shard_round
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import Stage, StageOutput
from cgal_plugin.runs.summary import load_arrays, save_arrays, summary


class Round:
    """One round: train, simulate and evaluate; select and label if the loop continues.

    Each method runs one stage, or loads it if an earlier call completed it. Candidates and their nearest
    RMSDs stay in memory between the stages.
    """

    def __init__(self, index: int, run: RunContext) -> None:
        self.index = index
        self.run = run
        self.name = round_name(index)
        self._trajectories: Sequence[NDArray[np.floating]] | None = None
        self._distances: NDArray[Any] | None = None

    def _stage(self, name: str) -> Stage:
        return self.run.directory.stage("rounds", self.name, name)

    def _seed(self, stage: str) -> int:
        return self.run.seed(self.index, stage)

    def _run(
        self,
        name: str,
        compute: Callable[[Path, Progress], StageOutput],
        inputs: Mapping[str, Any],
        seeds: Mapping[str, int] | None = None,
        usable: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> dict[str, Any]:
        return self._stage(name).run(
            compute,
            title=f"round {self.index}: {name}",
            inputs=inputs,
            seeds=seeds,
            depends=round_dependencies(self.run.config, self.run.directory, self.run.store, self.index, name),
            reporter=self.run.log,
            usable=usable,
        )

    @property
    def _shards(self) -> list[str]:
        """Shards that the model of this round is trained on: those of the seed data and earlier rounds."""
        return [n for n in self.run.store.names() if shard_round(n) < self.index]

    # ------------------------------------------------------------------ train

    def train(self, previous: TrainedModel | None) -> TrainedModel:
        """Train the model, and export its potentials for one replica and for the replicas of the sampler."""
        run, trainer, shards = self.run, self.run.components.trainer, self._shards
        new = [n for n in shards if shard_round(n) == self.index - 1]
        seed = self._seed("train")

        def compute(folder: Path, progress: Progress) -> StageOutput:
            request = TrainRequest(run.store, tuple(shards), tuple(new), folder, previous, seed)
            model = check_trained(trainer.train(request, progress), trainer, folder)
            potentials = []
            for n_replicas in sorted({1, run.components.packed_replicas}):
                potentials.append(self.potential(n_replicas))
                trainer.export(model, run.store.topology, potentials[-1], n_replicas)
            check_exported(potentials, trainer)
            results = {
                "checkpoint": model.checkpoint.relative_to(folder).as_posix(),
                "committee": [p.relative_to(folder).as_posix() for p in model.committee],
                "metrics": [dict(m) for m in model.metrics],
                "n_frames": sum(run.store.record(n)["n_frames"] for n in shards),
            }
            return StageOutput(results, [model.checkpoint, *model.committee, *potentials])

        inputs = {"shards": shards, "new_shards": new, "config": run.settings("training")}
        self._trained = self._run("train", compute, inputs, {"train": seed})
        return _model(self._stage("train"), self._trained)

    @property
    def train_folder(self) -> Path:
        """Folder in which the model of the round was trained."""
        return self._stage("train").folder

    def potential(self, n_replicas: int) -> Path:
        """Return the file of the exported potential for this number of replicas."""
        name = "potential.pt" if n_replicas == 1 else f"potential_x{n_replicas}.pt"
        return self.train_folder / name

    # ------------------------------------------------------------------ simulate

    def simulate(self) -> None:
        """Run CG dynamics from training frames."""
        run, components = self.run, self.run.components
        potential = self.potential(components.packed_replicas)
        seeds = {name: self._seed(name) for name in ("start", "simulate")}

        def compute(folder: Path, progress: Progress) -> StageOutput:
            n, spread = components.n_replicas, components.spread_starts
            start = start_positions(run.store, self._shards, n, seeds["start"], spread=spread)
            trajectories, output = run.sample(
                components.sampler,
                potential,
                start,
                seed=seeds["simulate"],
                folder=folder,
                out_dir=folder,
                progress=progress,
            )
            check_any_frame(trajectories, output.results["events"], f"round {self.index}", folder)
            self._trajectories = trajectories
            return output

        inputs = {"potential": potential.name, "config": run.settings("simulation")}
        self._simulated = self._run("simulate", compute, inputs, seeds)

    def trajectories(self) -> Sequence[NDArray[np.floating]]:
        """Return the sampled trajectories of this round, one ``(n, n_beads, 3)`` Å array per replica."""
        if self._trajectories is None:
            self._trajectories = sampled_trajectories(self._stage("simulate"))
        return self._trajectories

    # ------------------------------------------------------------------ evaluate

    def evaluate(self) -> dict[str, Any]:
        """Measure how well the training data cover the samples."""
        run, shards = self.run, self._shards

        def compute(folder: Path, progress: Progress) -> StageOutput:
            self._distances = coverage(np.concatenate(self.trajectories()), run.store, shards)
            path = save_arrays(folder / "coverage.npz", values=self._distances)
            return StageOutput({"coverage": summary(self._distances)}, [path])

        # earlier versions compared the samples with the reference as well
        evaluated = self._run("evaluate", compute, {"shards": shards})
        metrics = self._trained["metrics"]
        return {
            "coverage": evaluated["coverage"],
            "n_frames": self._trained["n_frames"],
            "last_epoch": metrics[-1] if metrics else {},
            "n_blow_ups": len(self._simulated["events"]),
        }

    def distances(self) -> NDArray[np.float64]:
        """Return ``(n,)`` Å, the nearest RMSD of each sampled frame to the training frames."""
        if self._distances is None:
            self._distances = load_arrays(self._stage("evaluate").folder / "coverage.npz")["values"]
        return self._distances

    # ------------------------------------------------------------------ test

    def test(self, model: TrainedModel) -> dict[str, Any]:
        """Test the model from fixed starts, if there is a reference; return the results for the user."""
        run, stage = self.run, self._stage("test")
        depends = round_dependencies(run.config, run.directory, run.store, self.index, "test")
        old = self._stage("select").done or (run.directory.root / "model.ckpt").exists()
        return run.test(model, stage, f"round {self.index}", depends, old=old)

    # ------------------------------------------------------------------ select

    def select(self, model: TrainedModel, most: int | None = None) -> str | None:
        """Select the frames to label, at most ``most``; return why there is none, if the data cover all."""
        run, seed = self.run, self._seed("select")
        counts = [len(t) for t in self.trajectories()]

        def compute(folder: Path, progress: Progress) -> StageOutput:
            candidates = np.concatenate(self.trajectories())
            indices, distances, covered = select_frames(
                run.components.selector(model, seed),
                candidates,
                lambda: run.store.positions(self._shards),
                self.distances,
            )
            indices, distances = indices[:most], distances[:most]
            path = save_arrays(
                folder / "selected.npz",
                positions=candidates[indices],
                candidate=indices,
                distances=distances,
                replica=np.repeat(np.arange(len(counts)), counts)[indices],
            )
            counted = {"n_candidates": len(candidates), "n_selected": len(indices), "covered": covered}
            return StageOutput(counted, [path])

        inputs = {"config": run.settings("selector"), "shards": self._shards}
        return self._run("select", compute, inputs, {"select": seed}).get("covered")

    # ------------------------------------------------------------------ label

    def label(self) -> dict[str, Any]:
        """Label the selected frames. Each label becomes a shard as soon as it is complete."""
        run, stage = self.run, self._stage("label")
        selected = load_arrays(self._stage("select").folder / "selected.npz")
        job = round_label_job(self.index, run.config, run.store, selected, stage.folder, run.log)

        def compute(folder: Path, progress: Progress) -> StageOutput:
            if not stage.done:  # in a complete stage, only lost labels are missing
                job.quarantine.release()
            job.run(run.components.oracle, run.components.executor, progress)
            names = [n for n in job.names if n in run.store]
            if not names:
                raise job.none_labelled()
            return StageOutput(job.results(), inputs={"shards": names})

        def usable(manifest: Mapping[str, Any]) -> bool:
            return all(name in run.store for name in manifest["inputs"]["shards"])

        return self._run("label", compute, {"config": run.settings("oracle")}, usable=usable)


def _model(stage: Stage, results: Mapping[str, Any]) -> TrainedModel:
    committee = tuple(stage.file(p) for p in results["committee"])
    return TrainedModel(stage.file(results["checkpoint"]), committee, results["metrics"])
