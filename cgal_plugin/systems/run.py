"""The loop over several systems: one training, one oracle budget, and the rounds of each system.

Each system has a folder ``systems/NAME`` with the files of a run of one system; ``rounds/`` has the shared
trainings and what each system got.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin import interrupts
from cgal_plugin.components.checks import check_trained
from cgal_plugin.components.protocols import TrainedModel
from cgal_plugin.config.systems import OneSystem, SystemsConfig
from cgal_plugin.driver.context import RunContext
from cgal_plugin.driver.loop import prepare_data
from cgal_plugin.errors import OracleError
from cgal_plugin.execution.threads import one_numerical_thread
from cgal_plugin.provenance import atomic_path, derive_seed, hash_object
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.disk import disk_errors
from cgal_plugin.runs.layout import round_name, seed_digest
from cgal_plugin.runs.log import LOG, Progress, Reporter, RunLog, SilentReporter
from cgal_plugin.runs.quarantine import ENOUGH
from cgal_plugin.runs.stage import Dependencies, Stage, StageOutput, visible_files
from cgal_plugin.runs.stopping import stop_reason
from cgal_plugin.systems.budget import draw, record, share_by_coverage, share_equally
from cgal_plugin.systems.build import build_systems
from cgal_plugin.systems.directory import check_systems, known_platforms, record_systems, system_folder
from cgal_plugin.systems.log import SystemReporter, round_lines
from cgal_plugin.systems.rounds import SystemRound
from cgal_plugin.systems.trainer import SystemData


@dataclass(frozen=True)
class SystemsResult:
    """Output of a finished run with several systems.

    Attributes
    ----------
    out_dir
        Run directory.
    rounds
        One dict per round: results of each system by name, and ``stop``.
    checkpoint
        Final model, as TorchMD-Net checkpoint.
    potentials
        Name of the system → its potential for one replica.
    report
        HTML report.
    """

    out_dir: Path
    rounds: tuple[Mapping[str, Any], ...]
    checkpoint: Path
    potentials: Mapping[str, Path]
    report: Path


def run_systems(
    config: SystemsConfig,
    out_dir: str | os.PathLike[str],
    *,
    reporter: Reporter | None = None,
    accept_changes: bool = False,
) -> SystemsResult:
    """Run active learning of one potential for several systems, or resume a run that was interrupted.

    Each round trains one model on the data of all systems of role ``train``, simulates each of them, and
    labels the frames that get a share of the budget. Systems of role ``test`` are simulated by the test only.

    Parameters
    ----------
    config
        Configuration (:func:`cgal_plugin.config.systems.load_systems`).
    out_dir
        Run directory; created if it does not exist.
    reporter
        Receives progress; default: none.
    accept_changes
        Continue although the run was started with another configuration or other systems.

    Raises
    ------
    CGALError
        The run cannot continue. Everything computed is kept, and the same call resumes from there.
    Interrupted, KeyboardInterrupt
        SIGTERM, SIGUSR1 or SIGINT arrived (in the main thread). The same call resumes.
    """
    root = RunDirectory(out_dir)
    with interrupts.handled():
        loop = _Loop(config, root, accept_changes)
        with root.locked(), disk_errors(root.root), ExitStack() as stack:
            log = RunLog(reporter or SilentReporter(), root.root / LOG)
            check_systems(config, root.root, accept_changes=accept_changes)
            stack.enter_context(log.recorded(config.hash))
            stack.enter_context(one_numerical_thread())
            return loop.run(log, stack)


class _Loop:
    def __init__(self, config: SystemsConfig, root: RunDirectory, accept_changes: bool) -> None:
        self.config, self.root, self.accept_changes = config, root, accept_changes
        self.directories = {s.name: RunDirectory(system_folder(root.root, s.name)) for s in config.systems}
        # all are built before anything is written, so that what is refused leaves no trace
        used = {name: directory.platforms() for name, directory in self.directories.items()}
        found = build_systems(config, platforms=used, trained_on=known_platforms(root.root))
        self.built, self.trainer, self.platforms = found.systems, found.trainer, found.platforms
        self.contexts: dict[str, RunContext] = {}
        self.rows: list[dict[str, Any]] = []
        self.seed_ns = 0.0

    # ------------------------------------------------------------------ order of the stages

    def run(self, log: RunLog, stack: ExitStack) -> SystemsResult:
        self.log = log
        logs = {s.name: self._adopt(s, stack) for s in self.config.systems}
        # after the systems have accepted their configurations: a call that is refused changes nothing
        record_systems(self.config, self.root.root, self.platforms, accept_changes=self.accept_changes)
        for system in self.config.systems:
            self._open(system, logs[system.name])
        train = self.config.of_role("train")
        self._prepare()
        model: TrainedModel | None = None
        while True:
            index = len(self.rows)
            rounds = {s.name: SystemRound(index, self.contexts[s.name]) for s in self.config.systems}
            model, digest = self._train(index, rounds, model)
            row: dict[str, Any] = {"round": index, "systems": {}}
            for system in self.config.systems:
                current = rounds[system.name]
                current.export(model, digest)
                found: dict[str, Any] = {"role": system.role}
                if system.role == "train":
                    current.simulate()
                    found |= current.evaluate()
                row["systems"][system.name] = found | current.test(model)
            means = [row["systems"][s.name]["coverage"]["mean"] for s in train]
            row["coverage"] = {"mean": sum(means) / len(means)}
            most = self._affordable()
            reason = stop_reason(self._stopping, self.rows, row, self._oracle_ns(), most)
            if reason is None:
                shares = self._share(index, rounds, model, most)
                if not any(own["n"] for own in shares.values()):
                    reason = "converged, the data of all systems cover what the model visits"
                else:
                    self._label(row, rounds, model, shares)
            row["stop"] = reason
            self.rows.append(row)
            log.event("round", results=row)
            log.messages(round_lines(row))
            if reason is not None:
                log.message(f"stopped after round {index}: {reason}")
                return self._finish(model, rounds)

    @property
    def _stopping(self) -> Any:
        rounds = max(s.config.stopping.rounds for s in self.config.of_role("train"))
        return self.config.main.stopping.model_copy(update={"rounds": rounds})

    def _adopt(self, system: OneSystem, stack: ExitStack) -> RunLog:
        directory, built = self.directories[system.name], self.built[system.name]
        stack.enter_context(directory.locked())
        log = RunLog(SystemReporter(self.log, system.name), directory.root / LOG)
        used = built.resources.facts()
        directory.adopt(built.config, accept_changes=self.accept_changes, event=log.event, resources=used)
        directory.sweep()
        stack.enter_context(log.recorded(built.config.hash, used, built.config.decided))
        return log

    def _open(self, system: OneSystem, log: RunLog) -> None:
        directory, built = self.directories[system.name], self.built[system.name]
        self.contexts[system.name], ns = prepare_data(built.config, directory, built, log)
        if system.role == "train":
            self.seed_ns += ns

    def _data(self, shards: Mapping[str, list[str]]) -> list[SystemData]:
        """Return the data to train on, with these shards of each system."""
        return [
            SystemData(self.contexts[s.name].store, tuple(shards[s.name]), s.weight)
            for s in self.config.of_role("train")
        ]

    def _prepare(self) -> None:
        stores = {s.name: self.contexts[s.name].store for s in self.config.of_role("train")}
        prepare = functools.partial(
            self.trainer.prepare_shared, self._data({name: store.names() for name, store in stores.items()})
        )

        def compute(folder: Path, progress: Progress) -> StageOutput:
            prepare(folder)
            return StageOutput({}, visible_files(folder))

        digests = {name: seed_digest(store).digests["shards"] for name, store in stores.items()}
        self.root.stage("priors").run(
            compute,
            title="priors",
            inputs={"systems": sorted(stores)},
            depends=Dependencies({"data": self._data_digest(digests)}),
            reporter=self.log,
            restore=prepare,
        )

    def _data_digest(self, of_system: Mapping[str, str]) -> str:
        """Return one digest of the data of all systems to train on, which another set of systems changes."""
        weights = {s.name: s.weight for s in self.config.of_role("train")}
        return hash_object([[name, weights[name], of_system[name]] for name in sorted(weights)])

    def _stage(self, index: int, name: str) -> Stage:
        return self.root.stage("rounds", round_name(index), name)

    def _train(
        self, index: int, rounds: Mapping[str, SystemRound], previous: TrainedModel | None
    ) -> tuple[TrainedModel, str]:
        """Train the model of a round; return it with the digest of its files."""
        names = [s.name for s in self.config.of_role("train")]
        data = self._data({name: rounds[name].shards for name in names})
        seed, stage = derive_seed(self.config.seed, index, "train"), self._stage(index, "train")

        def compute(folder: Path, progress: Progress) -> StageOutput:
            made = self.trainer.train_shared(data, folder, previous, seed, progress)
            check_trained(made, self.trainer, folder)
            results = {
                "checkpoint": made.checkpoint.relative_to(folder).as_posix(),
                "committee": [p.relative_to(folder).as_posix() for p in made.committee],
                "metrics": [dict(m) for m in made.metrics],
            }
            return StageOutput(results, [made.checkpoint, *made.committee])

        depends = {
            "data": self._data_digest({name: rounds[name].shards_digest for name in names}),
            "priors": self.root.stage("priors").digest(),
        }
        if previous is not None and self.config.main.torchmdnet.mode != "scratch":
            depends |= {"previous": self._stage(index - 1, "train").digest()}
        results = stage.run(
            compute,
            title=f"round {index}: train",
            inputs={"shards": {name: rounds[name].shards for name in names}},
            seeds={"train": seed},
            depends=Dependencies(depends),
            reporter=self.log,
        )
        committee = tuple(stage.file(p) for p in results["committee"])
        return TrainedModel(stage.file(results["checkpoint"]), committee, results["metrics"]), stage.digest()

    # ------------------------------------------------------------------ the budget

    def _share(
        self, index: int, rounds: Mapping[str, SystemRound], model: TrainedModel, most: int | None
    ) -> dict[str, dict[str, Any]]:
        """Return what each system gets; see :mod:`.budget`."""
        own = {s.name: rounds[s.name] for s in self.config.of_role("train")}
        n = self.config.n_select if most is None else min(most, self.config.n_select)
        seed = derive_seed(self.config.seed, index, "share")

        def compute(folder: Path, progress: Progress) -> StageOutput:
            if self.config.share == "random":
                chosen = draw({name: current.physical() for name, current in own.items()}, n, seed)
                wanted = {name: current.as_wanted(chosen[name]) for name, current in own.items()}
                taken = {name: len(rows) for name, rows in chosen.items()}
            else:
                wanted = {name: current.wanted(model) for name, current in own.items()}
                counts = {name: len(w.indices) for name, w in wanted.items()}
                equal = self.config.share == "equal"
                taken = share_equally(counts, n, index) if equal else share_by_coverage(wanted, n)
            return StageOutput({"systems": record(wanted, taken)})

        labelled = any(current.labelled for current in own.values())
        results = self._stage(index, "share").run(
            compute,
            title=f"round {index}: share the labels",
            inputs={"share": self.config.share, "n": n},
            seeds={"share": seed},
            depends=Dependencies(
                {"candidates": hash_object([[name, own[name].candidates_digest] for name in sorted(own)])},
                "its frames are labelled" if labelled else "",
            ),
            reporter=self.log,
        )
        nothing = {"n": 0, "indices": [], "distances": []}
        found: dict[str, dict[str, Any]] = results["systems"]
        return {name: found.get(name, nothing) for name in own}  # systems may be new, or gone

    def _label(
        self,
        row: dict[str, Any],
        rounds: Mapping[str, SystemRound],
        model: TrainedModel,
        shares: Mapping[str, Mapping[str, Any]],
    ) -> None:
        for name, got in shares.items():
            found = rounds[name].select_and_label(model, got["indices"], got["distances"])
            row["systems"][name] |= found
        results = {name: row["systems"][name] for name, got in shares.items() if got["n"]}
        tried = sum(own["n_selected"] for own in results.values())
        failed = sum(own["n_quarantined"] for own in results.values())
        limit = self.config.main.oracle.max_failure_rate
        if failed < tried and (tried < ENOUGH or failed <= limit * tried):
            return
        for name in results:  # the next call labels their frames again
            rounds[name].forget_labels()
        reasons = "\n".join(f"{name}: {own['failed']}" for name, own in results.items() if "failed" in own)
        raise OracleError(
            f"round {row['round']}: {failed} of {tried} frames could not be labelled "
            f"(oracle.max_failure_rate is {limit:.0%}).\n{reasons}\nLabels that exist are kept. Remove the "
            "cause or raise oracle.max_failure_rate, and run again"
        )

    def _affordable(self) -> int | None:
        budget = self.config.main.stopping.oracle_ns
        cost = max(self.built[s.name].ns_per_label for s in self.config.of_role("train"))
        if budget is None or cost <= 0:
            return None
        return max(0, int((budget - self._oracle_ns()) / cost + 1e-6))  # 1e-6: rounding of the sum of costs

    def _oracle_ns(self) -> float:
        rows = (own for row in self.rows for own in row["systems"].values())
        return self.seed_ns + sum(float(own.get("oracle_ns", 0.0)) for own in rows)

    # ------------------------------------------------------------------ the end

    def _finish(self, model: TrainedModel, rounds: Mapping[str, SystemRound]) -> SystemsResult:
        from cgal_plugin.reporting.collect import report_run
        from cgal_plugin.systems.report import report_systems

        checkpoint = self.root.root / "model.ckpt"
        potentials = {name: self.directories[name].root / "potential.pt" for name in rounds}
        for name, current in rounds.items():
            copies = {potentials[name]: current.potential(1)}
            copies[self.directories[name].root / "model.ckpt"] = model.checkpoint
            for target, source in copies.items():
                atomic_path(target, functools.partial(shutil.copyfile, source))
        atomic_path(checkpoint, functools.partial(shutil.copyfile, model.checkpoint))
        with self.log.stage("report"):
            for system in self.config.of_role("train"):
                report_run(self.directories[system.name].root)
            report = report_systems(self.root.root)
        return SystemsResult(self.root.root, tuple(self.rows), checkpoint, potentials, report)
