"""The active-learning loop: the order of the stages. Components do the physics, stages write the files."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgal_plugin import interrupts
from cgal_plugin.components.build import Components, build_components
from cgal_plugin.components.protocols import RefinableTrainer, TrainedModel
from cgal_plugin.components.seed_data import filled_store
from cgal_plugin.components.starts import reserved_notes
from cgal_plugin.config import Config
from cgal_plugin.driver.context import RunContext
from cgal_plugin.driver.refinement import Refinement
from cgal_plugin.driver.rounds import Round
from cgal_plugin.execution.threads import one_numerical_thread
from cgal_plugin.provenance import atomic_path
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.disk import disk_errors
from cgal_plugin.runs.layout import REFINEMENT, seed_digest, seed_shards
from cgal_plugin.runs.log import LOG, Progress, Reporter, RunLog, SilentReporter
from cgal_plugin.runs.stage import StageOutput, visible_files
from cgal_plugin.runs.stopping import stop_reason


@dataclass(frozen=True)
class RunResult:
    """Output of a finished run.

    Attributes
    ----------
    out_dir
        Run directory.
    rounds
        One dict of results per round; the last belongs to the final model before its refinement.
    refined
        Test of the refined model: the same keys as those of a round's test; empty without refinement or test.
    checkpoint, potential
        Final model, as TorchMD-Net checkpoint and as TorchScript for one replica.
    report
        HTML report.
    """

    out_dir: Path
    rounds: tuple[Mapping[str, Any], ...]
    checkpoint: Path
    potential: Path
    report: Path
    refined: Mapping[str, Any] = field(default_factory=dict)


def run(
    config: Config,
    out_dir: str | os.PathLike[str],
    *,
    reporter: Reporter | None = None,
    accept_changes: bool = False,
    **components: Any,
) -> RunResult:
    """Run active learning, or resume a run that was interrupted.

    Parameters
    ----------
    config
        Configuration (:func:`cgal_plugin.config.load_yaml`).
    out_dir
        Run directory; created if it does not exist.
    reporter
        Receives progress; default: none.
    accept_changes
        Continue although the run was started with another configuration.
    **components
        Objects that replace built-in components: ``oracle``, ``selector``, ``sampler``, ``trainer`` or
        ``seed_source`` (see :mod:`cgal_plugin.components.protocols`).

    Raises
    ------
    CGALError
        The run cannot continue. Everything computed is kept, and the same call resumes from there.
    Interrupted, KeyboardInterrupt
        SIGTERM, SIGUSR1 or SIGINT arrived (in the main thread). The same call resumes.
    """
    directory = RunDirectory(out_dir)
    with interrupts.handled():
        # before the directory is written to: what is refused leaves no trace
        built = build_components(config, platforms=directory.platforms(), **components)
        directory.check_layout(alone=True)
        with directory.locked(), disk_errors(directory.root):
            log = RunLog(reporter or SilentReporter(), directory.root / LOG)
            config, used = built.config, built.resources.facts()
            directory.adopt(config, accept_changes=accept_changes, event=log.event, resources=used)
            directory.sweep()
            with log.recorded(config.hash, used, config.decided), one_numerical_thread():
                return _Loop(*prepare_data(config, directory, built, log)).run()


def prepare_data(
    config: Config, directory: RunDirectory, components: Components, log: RunLog
) -> tuple[RunContext, float]:
    """Run the seed stage and open the data store; return the context and the cost of the seed data, ns."""
    source = components.seed_source

    def compute(folder: Path, progress: Progress) -> StageOutput:
        log.messages(components.what_was_read)
        source.prepare(folder, progress)
        store = filled_store(config, directory.root / "data", source, reserve=components.reserve)
        log.messages(reserved_notes(store))
        results = {"shards": seed_shards(store), "oracle_ns": components.seed_ns}
        return StageOutput(results, visible_files(folder))

    results = directory.stage("seed").run(
        compute,
        title="seed data",
        inputs={"config": config.resolved()["seed_data"], "system": config.resolved()["system"]},
        seeds={"root": config.seed},
        reporter=log,
        restore=source.prepare,
    )
    data, reserve = directory.root / "data", components.reserve
    store = filled_store(config, data, source, reserve=reserve, on_damage=log.event)
    components.connect(store)
    return RunContext(config, directory, components, store, log), float(results["oracle_ns"])


class _Loop:
    def __init__(self, context: RunContext, seed_ns: float) -> None:
        self.context = context
        self.seed_ns = seed_ns
        self.rows: list[dict[str, Any]] = []
        self.refined: dict[str, Any] = {}

    def run(self) -> RunResult:
        context = self.context
        self._prepare(context)
        model: TrainedModel | None = None
        while True:
            current = Round(len(self.rows), context)
            model = current.train(model)
            current.simulate()
            row = current.evaluate() | current.test(model)
            most = self._affordable()
            reason = stop_reason(context.config.stopping, self.rows, row, self._oracle_ns(), most)
            if reason is None:
                covered = current.select(model, most)
                if covered is None:
                    row |= current.label()
                else:
                    reason = f"converged, nothing is left to label ({covered})"
            self.rows.append(row | {"round": current.index, "stop": reason})
            context.log.round(self.rows[-1])
            if reason is not None:
                context.log.message(f"stopped after round {current.index}: {reason}")
                return self._finish(self._refine(model, current))

    def _prepare(self, context: RunContext) -> None:
        """Let the trainer prepare what all rounds use, such as the priors."""
        prepare = functools.partial(context.components.trainer.prepare, context.store)

        def compute(folder: Path, progress: Progress) -> StageOutput:
            prepare(folder)
            return StageOutput({}, visible_files(folder))

        context.directory.stage("priors").run(
            compute,
            title="priors",
            inputs={"shards": seed_shards(context.store)},
            depends=seed_digest(context.store),
            reporter=context.log,
            restore=prepare,
        )

    def _affordable(self) -> int | None:
        """Return how many labels the oracle's budget allows; None without a budget or a known cost."""
        budget, cost = self.context.config.stopping.oracle_ns, self.context.components.ns_per_label
        if budget is None or cost <= 0:
            return None
        return max(0, int((budget - self._oracle_ns()) / cost + 1e-6))  # 1e-6: rounding of the sum of costs

    def _oracle_ns(self) -> float:
        return self.seed_ns + sum(float(r["oracle_ns"]) for r in self.rows)

    # ------------------------------------------------------------------ the final model

    def _refine(self, model: TrainedModel, last: Round) -> tuple[Path, Path]:
        """Return checkpoint and potential of the final model, refined if the configuration says so."""
        context = self.context
        trainer = context.components.trainer
        if context.config.refinement is None:
            return model.checkpoint, last.potential(1)
        assert isinstance(trainer, RefinableTrainer)  # checked by build_components
        packed = last.potential(context.components.packed_replicas)
        refinement = Refinement(context.config.refinement, trainer, context)
        refined = refinement.run(model, trainer.priors(last.train_folder), packed)
        if refined is None:
            return model.checkpoint, last.potential(1)
        self.refined = refinement.test(refined)
        potential = context.directory.root / REFINEMENT / "potential.pt"
        trainer.export(refined, context.store.topology, potential, 1)
        return refined.checkpoint, potential

    def _finish(self, final: tuple[Path, Path]) -> RunResult:
        from cgal_plugin.reporting.collect import report_run

        root = self.context.directory.root
        checkpoint, potential = root / "model.ckpt", root / "potential.pt"
        for source, target in zip(final, (checkpoint, potential), strict=True):
            atomic_path(target, functools.partial(shutil.copyfile, source))
        with self.context.log.stage("report"):
            report = report_run(root)
        return RunResult(root, tuple(self.rows), checkpoint, potential, report, self.refined)
