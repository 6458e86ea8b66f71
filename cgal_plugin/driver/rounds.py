"""The stages of one round, each finished once and read back ever after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.build import Components
from cgal_plugin.components.checks import check_component, check_sampled, check_selection
from cgal_plugin.components.label_job import LabelJob
from cgal_plugin.components.protocols import TrainedModel, TrainRequest
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.data.trajectories import load_replicas, save_trajectories
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.provenance import atomic_write, derive_seed
from cgal_plugin.runs.directory import RunDirectory, Stage
from cgal_plugin.runs.layout import WORK, shard_round
from cgal_plugin.runs.log import RunLog
from cgal_plugin.runs.quarantine import Quarantine

QUANTILES = (5, 25, 50, 75, 95)


class Round:
    """One round: train, simulate, evaluate, and where the loop goes on, select and label."""

    def __init__(
        self,
        index: int,
        config: Config,
        directory: RunDirectory,
        parts: Components,
        store: DataStore,
        reporter: RunLog,
    ) -> None:
        self.index = index
        self.config = config
        self.directory = directory
        self.parts = parts
        self.store = store
        self.reporter = reporter
        self.name = f"round_{index:03d}"

    def _stage(self, name: str) -> Stage:
        return self.directory.stage("rounds", self.name, name)

    def _seed(self, stage: str) -> int:
        return derive_seed(self.config.seed, self.index, stage)

    def _title(self, stage: str) -> str:
        return f"round {self.index}: {stage}"

    @property
    def _shards(self) -> list[str]:
        """Shards that this round's model is trained on: those of the seed and of earlier rounds."""
        return [n for n in self.store.names() if shard_round(n) < self.index]

    # ------------------------------------------------------------------ train

    def train(self, previous: TrainedModel | None) -> TrainedModel:
        """The round's model, and its potentials for one replica and for the sampler's number."""
        stage = self._stage("train")
        if stage.done:
            self.reporter.skipped(self._title("train"))
            return _model(stage)
        folder = stage.begin()
        shards = self._shards
        new = [n for n in shards if shard_round(n) == self.index - 1]
        request = TrainRequest(self.store, tuple(shards), tuple(new), folder, previous, self._seed("train"))
        with self.reporter.stage(self._title("train")) as progress:
            model = self.parts.trainer.train(request, progress)
        outputs = [model.checkpoint, *model.committee]
        for n_replicas in sorted({1, self.parts.packed_replicas}):
            path = self.potential(n_replicas)
            self.parts.trainer.export(model, self.store.topology, path, n_replicas)
            outputs.append(path)
        stage.finish(
            {
                "checkpoint": model.checkpoint.relative_to(folder).as_posix(),
                "committee": [p.relative_to(folder).as_posix() for p in model.committee],
                "metrics": [dict(m) for m in model.metrics],
                "n_frames": sum(self.store.record(n)["n_frames"] for n in shards),
            },
            inputs={"shards": shards, "new_shards": new, "config": self.config.resolved()["training"]},
            outputs=outputs,
            seeds={"train": request.seed},
        )
        return _model(stage)

    @property
    def train_folder(self) -> Path:
        """Where the round's model was trained."""
        return self._stage("train").folder

    def potential(self, n_replicas: int) -> Path:
        """The round's exported potential for that many replicas."""
        name = "potential.pt" if n_replicas == 1 else f"potential_x{n_replicas}.pt"
        return self.train_folder / name

    # ------------------------------------------------------------------ simulate

    def simulate(self, model: TrainedModel) -> None:
        """CG dynamics from training frames."""
        stage = self._stage("simulate")
        if stage.done:
            stage.manifest()
            self.reporter.skipped(self._title("simulate"))
            return
        folder = stage.begin()
        potential = self.potential(self.parts.packed_replicas)
        start = self.parts.start_positions(
            self.store.load_all(self._shards).positions, self.parts.n_replicas, self._seed("start")
        )
        with self.reporter.stage(self._title("simulate")) as progress:
            sampled = self.parts.sampler.sample(
                potential,
                self.store.topology,
                start,
                temperature=self.config.system.temperature,
                seed=self._seed("simulate"),
                out_dir=folder,
                progress=progress,
            )
        sampled = check_sampled(sampled, self.parts.sampler, self.store.topology)
        if not sum(len(t) for t in sampled.trajectories):
            details = "; ".join(sorted({f"{e.kind}: {e.detail}" for e in sampled.events})[:3])
            raise DynamicsError(
                f"round {self.index}: every replica blew up before its first frame "
                f"({details or 'no events'}). "
                "Train longer, use stronger priors or a smaller simulation.timestep_fs; delete "
                f"{folder} to simulate again"
            )
        frames = folder / "frames.npz"
        save_trajectories(frames, sampled.trajectories)
        stage.finish(
            {
                **sampled.facts,
                "events": [asdict(e) for e in sampled.events],
                "steps": int(sampled.steps),
            },
            inputs={
                "potential": self.potential(self.parts.packed_replicas).name,
                "config": self.config.resolved()["simulation"],
            },
            outputs=[frames],
            seeds={"start": self._seed("start"), "simulate": self._seed("simulate")},
        )

    def trajectories(self) -> list[np.ndarray]:
        """What this round's model sampled, one ``(n, n_beads, 3)`` Å array a replica."""
        self._stage("simulate").manifest()
        return load_replicas(self._stage("simulate").folder / "frames.npz")

    # ------------------------------------------------------------------ evaluate

    def evaluate(self) -> dict[str, Any]:
        """Coverage of what was sampled by what the model was trained on; W1 where there is a reference."""
        stage = self._stage("evaluate")
        if stage.done:
            self.reporter.skipped(self._title("evaluate"))
            return self._row(stage.results())
        stage.begin()
        with self.reporter.stage(self._title("evaluate")):
            trajectories = self.trajectories()
            sampled = np.concatenate(trajectories)
            training = self.store.load_all(self._shards).positions
            distance = self.parts.nearest_rmsd(sampled, training)
            coverage = save_array(stage.folder / "coverage.npz", distance)
            results: dict[str, Any] = {"coverage": summary(distance)}
            # one seed for all rounds: their bootstraps draw the same reference blocks and can be paired
            seed = derive_seed(self.config.seed, "evaluate")
            results |= self.parts.evaluate(trajectories, seed)
            stage.finish(
                results,
                inputs={"config": self.config.resolved()["evaluation"], "shards": self._shards},
                outputs=[coverage],
                seeds={"evaluate": seed},
            )
        return self._row(stage.results())

    def _row(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        train, simulate = self._stage("train").results(), self._stage("simulate").results()
        return {
            **evaluated,
            "n_frames": train["n_frames"],
            "last_epoch": train["metrics"][-1] if train["metrics"] else {},
            "n_blow_ups": len(simulate["events"]),
        }

    # ------------------------------------------------------------------ select

    def select(self, model: TrainedModel, most: int | None = None) -> None:
        """The frames to label; no more than ``most``, the first that the selector names."""
        stage = self._stage("select")
        if stage.done:
            stage.manifest()
            self.reporter.skipped(self._title("select"))
            return
        folder = stage.begin()
        with self.reporter.stage(self._title("select")):
            trajectories = self.trajectories()
            candidates = np.concatenate(trajectories)
            selector = self.parts.selector(model, self._seed("select"))
            fitted = selector.fit(self.store.load_all(self._shards).positions)
            check_component("selector", fitted)  # fit returns the selector itself; without its return, None
            chosen = fitted.select(candidates)
            indices, distances = (a[:most] for a in check_selection(chosen, selector, len(candidates)))
            path = folder / "selected.npz"
            with atomic_write(path) as handle:
                np.savez(
                    handle,
                    positions=candidates[indices],
                    candidate=indices,
                    distances=distances,
                    replica=np.repeat(np.arange(len(trajectories)), [len(t) for t in trajectories])[indices],
                )
        stage.finish(
            {"n_candidates": len(candidates), "n_selected": len(indices)},
            inputs={"config": self.config.resolved()["selector"], "shards": self._shards},
            outputs=[path],
            seeds={"select": self._seed("select")},
        )

    def selected(self) -> dict[str, np.ndarray]:
        """Arrays of the selection: positions (Å), candidate, distances (Å), replica."""
        stage = self._stage("select")
        stage.manifest()
        with np.load(stage.folder / "selected.npz", allow_pickle=False) as arrays:
            return {k: arrays[k] for k in arrays.files}

    # ------------------------------------------------------------------ label

    def label(self) -> dict[str, Any]:
        """Ask the oracle; each label is a shard of its own as soon as it is there."""
        stage = self._stage("label")
        if stage.done and all(name in self.store for name in stage.manifest()["inputs"]["shards"]):
            self.reporter.skipped(self._title("label"))
            return stage.results()
        stage.begin()
        job = self._label_job()
        if not stage.done:  # labels of a finished stage that are gone were sound once: only they are missing
            job.quarantine.release()
        with self.reporter.stage(self._title("label")) as progress:
            job.run(self.parts.oracle, self.config.executor, progress)
        names = [n for n in job.names if n in self.store]
        if not names:
            raise job.none_labelled()
        stage.finish(
            self._label_results(job),
            inputs={"config": self.config.resolved()["oracle"], "shards": names},
        )
        return stage.results()

    def _label_job(self) -> LabelJob:
        selected = self.selected()
        folder = self._stage("label").folder

        def inputs(i: int) -> dict[str, Any]:
            facts = {"round": self.index, "candidate": int(selected["candidate"][i])}
            facts |= {"replica": int(selected["replica"][i]), "oracle": self.config.resolved()["oracle"]}
            return {**facts, "config_hash": self.config.hash, "seed": self.config.seed}

        return LabelJob(
            selected["positions"],
            [self._shard(i) for i in range(len(selected["positions"]))],
            self.store,
            Quarantine(folder),
            self.directory.root / WORK,
            source=self.name,
            where=f"round {self.index}",
            max_failure_rate=self.config.oracle.max_failure_rate,
            facts={"round": self.index, "config_hash": self.config.hash},
            inputs=inputs,
            event=self.reporter.event,
            message=self.reporter.message,
        )

    def _shard(self, i: int) -> str:
        return f"r{self.index:03d}_f{i:04d}"

    def _label_results(self, job: LabelJob) -> dict[str, Any]:
        quarantined: list[dict[str, Any]] = []
        ns, new, labelled = 0.0, 0, 0
        for i, name in enumerate(job.names):
            if name in self.store:
                record = self.store.record(name)
                ns += float(record["metadata"].get("ps_per_frame", 0.0)) / 1000
                new += record["n_frames"]
                labelled += 1
            else:
                quarantined += [{"frame": i, **f} for f in job.quarantine.record(name)["failures"]]
        return {
            "n_selected": len(job.names),
            "n_labelled": labelled,
            "n_quarantined": len(job.names) - labelled,
            "n_new_frames": new,
            "quarantined": quarantined,
            "oracle_ns": ns,
        }


# ---------------------------------------------------------------------- files of a round


def save_array(path: Path, array: np.ndarray) -> Path:
    """Write one array as ``values`` of an npz; returns the path."""
    with atomic_write(path) as handle:
        np.savez(handle, values=array)
    return path


def summary(distance: np.ndarray) -> dict[str, float]:
    """Mean and quantiles (Å) of nearest RMSDs."""
    values = {f"q{q:02d}": float(np.percentile(distance, q)) for q in QUANTILES}
    return {"mean": float(distance.mean()), "max": float(distance.max()), "n": len(distance), **values}


def _model(stage: Stage) -> TrainedModel:
    results = stage.results()
    try:
        return TrainedModel(
            stage.file(results["checkpoint"]),
            tuple(stage.file(p) for p in results["committee"]),
            results["metrics"],
        )
    except KeyError as error:
        raise StateError(
            f"{stage.folder} has a manifest without {error}; delete it to train again"
        ) from error
