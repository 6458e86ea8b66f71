"""Train a committee: several models that differ in their seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.config.executor import LocalExecutor, ParslExecutor
from cgal_plugin.errors import ConfigError
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.resources import resolve_threads
from cgal_plugin.provenance import derive_seed
from cgal_plugin.training.run import Progress, TrainingResult, train

if TYPE_CHECKING:
    from cgal_plugin.data.sources import FrameTable


def train_ensemble(
    hparams: Mapping[str, Any],
    out_dir: str | os.PathLike[str],
    *,
    n_models: int,
    seed: int,
    init_checkpoints: Sequence[str | os.PathLike[str]] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[TrainingResult]:
    """Train ``n_models`` models that differ in their seed (weights, shuffle and split), in this process.

    Parameters
    ----------
    hparams, options
        See :func:`~cgal_plugin.training.train`.
    out_dir
        Folder; model n is in ``model_00n``.
    n_models
        At least 1.
    seed
        The seed of each model is derived from this seed and the number of the model, so that a larger
        committee has the same first models.
    init_checkpoints
        One per model, or None.
    progress
        Called with the epochs of all models together.

    Raises
    ------
    ConfigError
        ``n_models`` is not positive, or there is not one checkpoint per model.
    """
    members = member_arguments(hparams, out_dir, n_models, seed, init_checkpoints, options)
    return train_members(members, progress)


def member_arguments(
    hparams: Mapping[str, Any],
    out_dir: str | os.PathLike[str],
    n_models: int,
    seed: int,
    init_checkpoints: Sequence[str | os.PathLike[str]] | None,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the arguments of :func:`~cgal_plugin.training.train` for each member.

    Parameters and errors are those of :func:`train_ensemble`.
    """
    if n_models < 1:
        raise ConfigError(f"n_models is {n_models}; it must be at least 1")
    if init_checkpoints is not None and len(init_checkpoints) != n_models:
        raise ConfigError(
            f"{len(init_checkpoints)} init_checkpoints for {n_models} models; give one per model"
        )
    return [
        {
            "hparams": dict(hparams),
            "out_dir": Path(out_dir) / f"model_{n:03d}",
            "seed": derive_seed(seed, "model", n),
            "init_checkpoint": None if init_checkpoints is None else init_checkpoints[n],
            **options,
        }
        for n in range(n_models)
    ]


def train_members(
    members: Sequence[Mapping[str, Any]],
    progress: Progress | None = None,
    *,
    executor: LocalExecutor | ParslExecutor | None = None,
    folder: Path | None = None,
    names: Sequence[str] | None = None,
    frames: FrameTable | None = None,
) -> list[TrainingResult]:
    """Train the members of :func:`member_arguments`; finished epochs of an interrupted call are kept.

    Members run one after another in this process if there is no executor, if it has no workers, or if
    ``training_threads`` is a number above 1. Otherwise each member is a task of the executor, which trains on
    one core. A single member always runs in this process, on ``training_threads`` cores.

    Parameters
    ----------
    members
        Arguments of each member.
    progress
        Called with the epochs of all models together; for tasks, with the number of finished models.
    executor
        Executor section of the configuration.
    folder, names
        For the logs of tasks; see :func:`~cgal_plugin.execution.map_tasks.map_tasks`.
    frames
        As in :func:`~cgal_plugin.training.train`, for members in this process; a task reads its own.
    """
    if executor is not None and len(members) > 1 and _apart(executor, len(members)):
        return _as_tasks(members, progress, executor, folder, names)
    results = []
    cores = 1 if executor is None else executor.training_threads
    for n, member in enumerate(members):

        def tick(done: int, total: int, metrics: Mapping[str, Any], n: int = n) -> None:
            if progress is not None:
                progress(n * total + done, len(members) * total, metrics)

        results.append(train(**{"cores": cores, **member}, progress=tick, frames=frames))
    return results


def _apart(executor: LocalExecutor | ParslExecutor, n_members: int) -> bool:
    """Return whether each member is a task: there are workers, and members do not use several cores each."""
    if executor.training_threads == "auto" and executor.workers == "auto":
        return resolve_threads("auto", n_members) > 1
    return executor.workers != 0 and executor.training_threads in (1, "auto")


def _as_tasks(
    members: Sequence[Mapping[str, Any]],
    progress: Progress | None,
    executor: LocalExecutor | ParslExecutor,
    folder: Path | None,
    names: Sequence[str] | None,
) -> list[TrainingResult]:
    trained: dict[int, TrainingResult] = {}

    def keep(index: int, result: TrainingResult) -> None:
        trained[index] = result
        if progress is not None:
            progress(len(trained), len(members), result.metrics[-1])

    map_tasks(train_member, members, keep, workers=executor, limited=False, folder=folder, names=names)
    return [trained[n] for n in range(len(members))]


def train_member(member: Mapping[str, Any]) -> TrainingResult:
    """Train one member. Tasks need an importable function."""
    return train(**member)
