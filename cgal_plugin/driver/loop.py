"""The active-learning loop: which stage comes when. Physics is in the parts, files in the stages."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin import interrupts
from cgal_plugin.components.build import Components, build_components
from cgal_plugin.components.protocols import RefinableTrainer, TrainedModel
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.driver.refinement import Refinement
from cgal_plugin.driver.rounds import Round
from cgal_plugin.errors import DataError, StateError
from cgal_plugin.provenance import atomic_path, versions
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, Reporter, RunLog, SilentReporter

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_SPACE = 1 << 20  # bytes


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes
    ----------
    out_dir
        The run directory.
    rounds
        One dict of results a round; the last is the final model's.
    checkpoint, potential
        The final model, as TorchMD-Net checkpoint and as TorchScript for one replica.
    report
        The HTML report.
    """

    out_dir: Path
    rounds: tuple[Mapping[str, Any], ...]
    checkpoint: Path
    potential: Path
    report: Path


def run(
    config: Config,
    out_dir: str | os.PathLike[str],
    *,
    reporter: Reporter | None = None,
    accept_changes: bool = False,
    **parts: Any,
) -> RunResult:
    """Run active learning, or go on with a run that was interrupted.

    Parameters
    ----------
    config
        The configuration (:func:`cgal_plugin.config.load_yaml`).
    out_dir
        The run directory; made when it is not there.
    reporter
        Receives progress; default: silence.
    accept_changes
        Go on although the configuration is not the one that the run was started with.
    **parts
        Objects to use in place of ours: ``oracle``, ``selector``, ``sampler``, ``trainer`` or
        ``seed_source`` (see :mod:`cgal_plugin.components.protocols`).

    Raises
    ------
    CGALError
        Whatever stops the run; all that was computed stays, and the same call goes on from there.
    Interrupted, KeyboardInterrupt
        SIGTERM, SIGUSR1 or SIGINT came (in the main thread); as above.
    """
    directory = RunDirectory(out_dir)
    with interrupts.handled(), directory.locked(), _disk_errors(directory.root):
        made = build_components(
            config, **parts
        )  # first: a wrong setting must leave no trace to disagree with
        directory.adopt(config, accept_changes=accept_changes)
        directory.sweep()
        log = RunLog(reporter or SilentReporter(), directory.root / LOG)
        with _recorded(log, config):
            return _Loop(config, directory, made, log).run()


@contextmanager
def _recorded(log: RunLog, config: Config) -> Iterator[None]:
    """The run's start and end in its log."""
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "versions": versions()}
    log.event("run started", config_hash=config.hash, **facts)
    try:
        yield
    except (KeyboardInterrupt, interrupts.Interrupted) as interrupted:
        log.event("interrupted", stage=log.current, signal=str(interrupted))
        raise
    except Exception as error:
        with suppress(OSError):  # on a full disk there is no room for it
            log.event("error", stage=log.current, error=type(error).__name__, text=str(error))
        raise
    log.event("run finished")


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Say what to do about a disk that is full or cannot be written.

    Raises
    ------
    StateError
        It was that.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        # torch's writer of archives has a RuntimeError for everything
        full = number in _FULL or (number is None and shutil.disk_usage(root).free < _NO_SPACE)
        if not full and number not in _DENIED:
            raise
        raise StateError(
            f"{root}: {'the disk is full' if full else error}. What was finished is kept; the same command "
            "goes on once there is room, and permission to write"
        ) from error


class _Loop:
    def __init__(self, config: Config, directory: RunDirectory, parts: Components, reporter: RunLog) -> None:
        self.config = config
        self.directory = directory
        self.parts = parts
        self.reporter = reporter

    def run(self) -> RunResult:
        store = self._seed()
        self._prepare(store)
        model: TrainedModel | None = None
        rows: list[dict[str, Any]] = []
        index = 0
        while True:
            current = Round(index, self.config, self.directory, self.parts, store, self.reporter)
            model = current.train(model)
            current.simulate(model)
            row = current.evaluate()
            most = self._affordable(rows)
            reason = self._stop_reason(rows, row, most)
            if reason is None:
                current.select(model, most)
                row |= current.label()
            rows.append(row | {"round": index, "stop": reason})
            self.reporter.round(rows[-1])
            if reason is not None:
                self.reporter.message(f"stopped after round {index}: {reason}")
                break
            index += 1
        return self._finish(rows, self._refine(model, current, store))

    # ------------------------------------------------------------------ once a run

    def _seed(self) -> DataStore:
        stage = self.directory.stage("seed")
        source = self.parts.seed_source
        if stage.done:
            stage.manifest()
            self.reporter.skipped("seed data")
            source.prepare(stage.folder)
        else:
            folder = stage.begin()
            with self.reporter.stage("seed data") as progress:
                source.prepare(folder, progress)
        store = DataStore.create(
            self.directory.root / "data",
            source.topology,
            temperature=self.config.system.temperature,
            force_map_hash=source.force_map_hash,
            config_hash=self.config.hash,
        )
        self._check_shards(store)
        source.fill(store)
        if not stage.done:
            outputs = sorted(p for p in stage.folder.rglob("*") if p.is_file() and not p.name.startswith("."))
            stage.finish(
                {"shards": store.names(), "oracle_ns": getattr(source, "oracle_ns", 0.0)},
                inputs={
                    "config": self.config.resolved()["seed_data"],
                    "system": self.config.resolved()["system"],
                },
                outputs=outputs,
                seeds={"root": self.config.seed},
            )
        self.parts.connect()
        return store

    def _check_shards(self, store: DataStore) -> None:
        """Put damaged shards aside; the stage that made them makes them again."""
        for name in store.names():
            try:
                store.verify(name)
            except DataError as error:
                store.set_aside(name)
                self.reporter.event("damage", what=str(error), remedy="it is made again")

    def _prepare(self, store: DataStore) -> None:
        stage = self.directory.stage("priors")
        if stage.done:
            stage.manifest()
            self.reporter.skipped("priors")
        folder = stage.begin()
        self.parts.trainer.prepare(store, folder)
        if not stage.done:
            outputs = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
            stage.finish({}, inputs={"shards": store.names()}, outputs=outputs)

    def _affordable(self, rows: list[dict[str, Any]]) -> int | None:
        """How many frames the oracle's budget is left for; None without a budget or where it is not known."""
        budget, cost = self.config.stopping.oracle_ns, self.parts.ns_per_label
        if budget is None or cost <= 0:
            return None
        used = self._oracle_ns(rows)
        # a share of a label: the sum of costs is not exact
        return max(0, int((budget - used) / cost + 1e-6))

    def _oracle_ns(self, rows: list[dict[str, Any]]) -> float:
        return self.directory.stage("seed").results()["oracle_ns"] + sum(r["oracle_ns"] for r in rows)

    def _stop_reason(
        self, rows: list[dict[str, Any]], row: Mapping[str, Any], most: int | None
    ) -> str | None:
        stopping = self.config.stopping
        if len(rows) >= stopping.rounds:
            return f"{stopping.rounds} rounds done (stopping.rounds)"
        if stopping.oracle_ns is not None:
            used = self._oracle_ns(rows)
            if most == 0 or used >= stopping.oracle_ns:
                return f"oracle budget spent: {used:.3f} of {stopping.oracle_ns} ns (stopping.oracle_ns)"
        if stopping.coverage_plateau is not None and rows:
            before, now = rows[-1]["coverage"]["mean"], row["coverage"]["mean"]
            if before - now < stopping.coverage_plateau * before:
                return f"nearest RMSD {before:.2f} -> {now:.2f} Å: a plateau (stopping.coverage_plateau)"
        return None

    def _refine(self, model: TrainedModel, last: Round, store: DataStore) -> tuple[Path, Path]:
        """Checkpoint and potential of the final model, refined where the configuration asks for it."""
        if self.config.refinement is None:
            return model.checkpoint, last.potential(1)
        trainer = self.parts.trainer
        assert isinstance(trainer, RefinableTrainer)  # build_components has checked it
        stages = Refinement(self.config, self.directory, self.parts, store, self.reporter)
        priors, packed = trainer.priors(last.train_folder), last.potential(self.parts.packed_replicas)
        refined = stages.run(model, priors, packed)
        potential = refined.checkpoint.with_name("potential.pt")
        if not potential.exists():
            trainer.export(refined, store.topology, potential, 1)
        return refined.checkpoint, potential

    def _finish(self, rows: list[dict[str, Any]], final: tuple[Path, Path]) -> RunResult:
        from cgal_plugin.reporting.collect import report_run

        root = self.directory.root
        checkpoint, potential = root / "model.ckpt", root / "potential.pt"
        for source, target in zip(final, (checkpoint, potential), strict=True):
            atomic_path(target, functools.partial(shutil.copyfile, source))
        with self.reporter.stage("report"):
            report = report_run(root)
        return RunResult(root, tuple(rows), checkpoint, potential, report)
