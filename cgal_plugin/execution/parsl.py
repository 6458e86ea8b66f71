"""Workers through Parsl: pilot jobs of a template or of the user's own Parsl configuration."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cgal_plugin.config.executor import ParslExecutor
from cgal_plugin.errors import ConfigError
from cgal_plugin.execution.pool import Pool

#: tasks for each worker that are on their way, so that none waits for the driver
_AHEAD = 2
#: times the usual patience for a job to start its workers, on a slow disk
_STARTING = 3.0
_ONE_THREAD = "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OPENMM_CPU_THREADS=1"


@contextmanager
def open_parsl(settings: ParslExecutor, folder: Path) -> Iterator[Pool]:
    """Start Parsl; its logs and batch scripts go to ``folder/parsl``. What still runs at the end is ended.

    Raises
    ------
    ConfigError
        Parsl is not installed, or the configuration cannot be used.
    """
    config = parsl_config(settings, folder)
    from parsl.dataflow.dflow import DataFlowKernel
    from parsl.executors.errors import BadStateException, ScalingFailed
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

    workers = count_workers(config)
    log = logging.getLogger("parsl")
    before, level = list(log.handlers), log.level
    with _scripts_on_path():
        kernel = DataFlowKernel(config)  # not parsl.load: a user's script may have Parsl running
    opened = [handler for handler in log.handlers if handler not in before]
    log.setLevel(logging.INFO)  # at DEBUG Parsl prints every task's arguments, which is a quarter of its cost
    try:
        yield Pool(
            _Direct(kernel),
            _AHEAD * workers,
            workers,
            lost=(ManagerLost, WorkerLost),
            patience=functools.partial(_patience, kernel),
            useless=(BadStateException, ScalingFailed),
            retries=settings.retries,
            retry_wait=settings.retry_wait,
            straggler_factor=settings.straggler_factor,
        )
    finally:
        kernel.cleanup()
        log.setLevel(level)
        for handler in opened:  # Parsl takes them off its logger and leaves their file open
            handler.close()


class _Direct(Executor):
    """Tasks to Parsl's executors themselves, in turn.

    Parsl's kernel starts and ends their jobs as ever; its records, logs and threads for each task, which
    a task without dependencies does not need, would cost more than the task's way there and back.
    """

    def __init__(self, kernel: Any) -> None:
        named = kernel.executors.items()
        self._turns = itertools.cycle([e for label, e in named if not label.startswith("_parsl")])

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function(*args, **kwargs)`` on a worker."""
        return next(self._turns).submit(function, {}, *args, **kwargs)


def _patience(kernel: Any) -> float | None:
    """See :class:`Pool`. Nodes that are connected run tasks; jobs that run connect, in their time."""
    from parsl.jobs.states import JobState

    found = None
    for executor in kernel.executors.values():
        if not hasattr(executor, "connected_managers"):
            continue
        if any(m["active"] and m["worker_count"] > 0 for m in executor.connected_managers()):
            return 1.0
        if any(status.state == JobState.RUNNING for status in executor.status().values()):
            found = _STARTING
    return found


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Parsl starts its scripts by name; they are beside the interpreter, be its environment active or not."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + before
    try:
        yield
    finally:
        os.environ["PATH"] = before


def parsl_config(settings: ParslExecutor, folder: Path) -> Any:
    """The ``parsl.Config`` of a template, or the one that the user's file makes.

    Raises
    ------
    ConfigError
        Parsl is not installed, the file fails or sets no ``config``, or a value is refused by Parsl.
    """
    try:
        import parsl
    except ImportError as error:
        raise ConfigError(
            "executor.kind parsl needs Parsl: pip install 'cgal_plugin[parsl]', or use executor.kind local"
        ) from error
    if settings.config is not None:
        return _users_config(settings.config, parsl.Config)
    from parsl.jobs.error_handlers import windowed_error_handler

    provider = _local(settings) if settings.template == "htex_local" else _slurm(settings)
    executor = parsl.HighThroughputExecutor(
        label="cgal",
        provider=provider,
        interchange_launch_cmd=_with_driver(["interchange.py"]),
        address=settings.address or "127.0.0.1",
        max_workers_per_node=settings.workers_per_node,
        cores_per_worker=1e-6 if settings.template == "htex_local" else float(settings.cores_per_worker),
        mem_per_worker=settings.memory_per_worker_gb,
        available_accelerators=settings.gpus_per_node if settings.template == "slurm_gpu" else (),
        heartbeat_threshold=settings.heartbeat_threshold,
        heartbeat_period=max(1, settings.heartbeat_threshold // 4),
        # Parsl's default gives up at the first job that fails; one that dies is replaced, unless all do
        block_error_handler=functools.partial(windowed_error_handler, threshold=3 + settings.blocks),
    )
    if settings.address is None and settings.template != "htex_local":
        # as with address=None (nodes try one after the other), but without the web service that Parsl asks
        executor.address, executor.all_addresses = None, _own_addresses()
    return parsl.Config(
        executors=[executor],
        run_dir=str(folder / "parsl"),
        usage_tracking=0,
        retries=0,  # ours, which know which failures to repeat
        strategy_period=1 if settings.template == "htex_local" else 5,
    )


def _with_driver(command: list[str]) -> list[str]:
    """Let Parsl's interchange end with a driver that is killed; its nodes give up when they miss it."""
    return ["setpriv", "--pdeathsig", "KILL", *command] if shutil.which("setpriv") else command


def _own_addresses() -> set[str]:
    import socket

    import psutil

    found = (a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET)
    return {a for a in found if not a.startswith("127.")} or {"127.0.0.1"}


def _local(settings: ParslExecutor) -> Any:
    from parsl.providers import LocalProvider

    # blocks are started from threads, when the driver's PATH is what it was
    path = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH"
    # what this process can import, the workers can: as with executor.kind local
    modules = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    path += f"\nexport PYTHONPATH={shlex.quote(modules)}"
    return LocalProvider(
        init_blocks=settings.blocks,
        min_blocks=0,
        max_blocks=settings.blocks,
        worker_init="\n".join([_ONE_THREAD, path, settings.worker_init]),
    )


def _slurm(settings: ParslExecutor) -> Any:
    from parsl.launchers import SrunLauncher
    from parsl.providers import SlurmProvider

    return SlurmProvider(
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        constraint=settings.constraint,
        nodes_per_block=settings.nodes,
        cores_per_node=settings.cores_per_worker * settings.workers_per_node,
        gpus_per_node=settings.gpus_per_node if settings.template == "slurm_gpu" else None,
        init_blocks=settings.blocks,
        min_blocks=0,
        max_blocks=settings.blocks,
        walltime=settings.walltime,
        exclusive=settings.exclusive,
        worker_init="\n".join([_ONE_THREAD, settings.worker_init]),
        launcher=SrunLauncher(),
        cmd_timeout=60,
    )


def _users_config(path: Path, kind: type) -> Any:
    """Run the user's file; that is what the key is for, and the only code that a configuration runs
    besides the classes that it names."""
    try:
        found = runpy.run_path(str(path)).get("config")
    except Exception as error:  # whatever the file does
        raise ConfigError(f"executor.config {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise ConfigError(f"executor.config {path} must set `config = parsl.Config(...)`; found {found!r}")
    return found


def count_workers(config: Any) -> int:
    """Workers of a ``parsl.Config`` when all its blocks run."""
    total = 0
    for executor in config.executors:
        provider = getattr(executor, "provider", None)
        blocks = getattr(provider, "max_blocks", 1) * getattr(provider, "nodes_per_block", 1)
        each = getattr(executor, "workers_per_node", None) or getattr(executor, "max_threads", 1)
        total += int(each) * blocks
    return max(1, total)
