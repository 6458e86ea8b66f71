"""Workers started by Parsl: pilot jobs of a template or of a Parsl configuration file."""

from __future__ import annotations

import functools
import logging
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cgal_plugin import interrupts
from cgal_plugin.config.executor import ParslExecutor
from cgal_plugin.errors import ConfigError
from cgal_plugin.execution.pool import Pool

if TYPE_CHECKING:
    from parsl import Config
    from parsl.dataflow.dflow import DataFlowKernel
    from parsl.providers.base import ExecutionProvider

#: submitted tasks per worker, so that no worker waits for the driver
_AHEAD = 2
#: factor on the stall time while a job starts its workers, which is slow on a network file system
_STARTING = 3.0
_ONE_THREAD = "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OPENMM_CPU_THREADS=1"


@contextmanager
def open_parsl(settings: ParslExecutor, folder: Path) -> Iterator[Pool]:
    """Start Parsl, with logs and batch scripts in ``folder/parsl``; running tasks are ended after the block.

    Tasks are submitted by :class:`parsl.concurrent.ParslPoolExecutor` to a separate kernel, so that a script
    may have loaded another Parsl configuration.

    Raises
    ------
    ConfigError
        Parsl is not installed, or its configuration cannot be used.
    """
    config = parsl_config(settings, folder)
    from parsl.concurrent import ParslPoolExecutor
    from parsl.dataflow.dflow import DataFlowKernel
    from parsl.executors.errors import BadStateException, ScalingFailed
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

    workers = count_workers(config)
    log = logging.getLogger("parsl")
    before, level = list(log.handlers), log.level
    with _scripts_on_path():
        kernel = DataFlowKernel(config)  # not parsl.load, which allows only one
    opened = [handler for handler in log.handlers if handler not in before]
    log.setLevel(logging.INFO)  # DEBUG would print the arguments of every task
    try:
        yield Pool(
            ParslPoolExecutor(dfk=kernel),
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
        with interrupts.deferred():  # a signal must not leave processes behind
            _end(kernel)
        log.setLevel(level)
        for handler in opened:  # Parsl removes them but leaves their files open
            handler.close()


def _end(kernel: DataFlowKernel) -> None:
    """End Parsl and its local processes; batch jobs are cancelled.

    A manager that is asked to end waits for the tasks of its workers: it is killed. Nothing is lost, because
    results are written by the driver.
    """
    groups = set()
    for executor in kernel.executors.values():
        provider = getattr(executor, "provider", None)
        if provider is not None and type(provider).__name__ == "LocalProvider":
            groups |= {_group(job["remote_pid"]) for job in provider.resources.values()}
        interchange = getattr(executor, "interchange_proc", None)
        if isinstance(interchange, subprocess.Popen):
            setattr(interchange, "terminate", interchange.kill)  # noqa: B010  it ignores SIGTERM, see _with_driver
    _kill(groups)
    kernel.cleanup()
    _kill(groups)  # blocks that were being started


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _kill(groups: set[int | None]) -> None:
    for group in groups - {None, os.getpgid(0)}:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)  # type: ignore[arg-type]  # None is removed


def _patience(kernel: DataFlowKernel) -> float | None:
    """See :class:`Pool`: 1 with connected nodes, more while a job starts, None while all jobs are queued."""
    from parsl import HighThroughputExecutor
    from parsl.jobs.states import JobState

    found = None
    for executor in kernel.executors.values():
        if not isinstance(executor, HighThroughputExecutor):
            continue
        if any(m["active"] and m["worker_count"] > 0 for m in executor.connected_managers()):
            return 1.0
        if any(status.state == JobState.RUNNING for status in executor.status().values()):
            found = _STARTING
    return found


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Put the folder of the interpreter on PATH, because Parsl starts its scripts by name."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + before
    try:
        yield
    finally:
        os.environ["PATH"] = before


def parsl_config(settings: ParslExecutor, folder: Path) -> Config:
    """Build the ``parsl.Config`` of a template, or load it from the file ``executor.config``.

    Raises
    ------
    ConfigError
        Parsl is not installed, or the file fails or sets no ``config``.
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
        # Parsl's default gives up after the first failed job; here it gives up if nearly all jobs fail
        block_error_handler=functools.partial(windowed_error_handler, threshold=3 + settings.blocks),
    )
    if settings.address is None and settings.template != "htex_local":
        # as address=None (nodes try one address after the other), but without a web service
        executor.address, executor.all_addresses = None, _own_addresses()
    return parsl.Config(
        executors=[executor],
        run_dir=str(folder / "parsl"),
        usage_tracking=0,
        retries=0,  # the task window retries, and only after the loss of a worker
        strategy_period=1 if settings.template == "htex_local" else 5,
    )


def _with_driver(command: list[str]) -> list[str]:
    """End Parsl's interchange when the driver is killed, and leave signals to the driver.

    A terminal sends Ctrl-C to all processes of a command, and a batch system SIGTERM: the interchange would
    print a traceback, and the driver wait for its answers. Nodes end by themselves without an interchange.
    """
    if not (shutil.which("setpriv") and shutil.which("bash")):
        return command
    # ignored signals stay ignored in the program that replaces the shell
    return ["bash", "-c", "trap '' INT TERM USR1; exec setpriv --pdeathsig KILL \"$@\"", "bash", *command]


#: shell code that kills the process group of a block when the driver, of this process id and start time, ends
_WATCH = """
( while kill -0 $$ && read -r line < /proc/{pid}/stat; do
    fields=(${{line##*) }})
    [[ ${{fields[0]}} == [ZX] || ${{fields[19]}} != {start} ]] && break
    sleep 0.5
  done
  kill -KILL -- -$(ps -o pgid= $$ | tr -d ' ') ) >/dev/null 2>&1 </dev/null &
"""


def _watch_driver() -> str:
    try:
        stat = Path(f"/proc/{os.getpid()}/stat").read_text()
    except OSError:
        return ""
    return _WATCH.format(pid=os.getpid(), start=stat.rpartition(")")[2].split()[19])


def _own_addresses() -> set[str]:
    import socket

    import psutil

    found = (a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET)
    return {a for a in found if not a.startswith("127.")} or {"127.0.0.1"}


def _local(settings: ParslExecutor) -> ExecutionProvider:
    from parsl.providers import LocalProvider

    # blocks are started from threads, after the driver's PATH is restored
    path = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH"
    # workers import from the same folders as this process, as with executor.kind local
    modules = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    path += f"\nexport PYTHONPATH={shlex.quote(modules)}"
    provider: Callable[..., ExecutionProvider] = LocalProvider  # its constructor has no types
    return provider(
        init_blocks=settings.blocks,
        min_blocks=0,
        max_blocks=settings.blocks,
        worker_init="\n".join([_ONE_THREAD, path, settings.worker_init, _watch_driver()]),
    )


def _slurm(settings: ParslExecutor) -> ExecutionProvider:
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


def _users_config(path: Path, kind: type[Config]) -> Config:
    """Run the configuration file. Only this key, and names of classes, run code."""
    try:
        found = runpy.run_path(str(path)).get("config")
    except Exception as error:  # the file may raise any exception
        raise ConfigError(f"executor.config {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise ConfigError(f"executor.config {path} must set `config = parsl.Config(...)`; found {found!r}")
    return found


def count_workers(config: Config) -> int:
    """Count the workers of a ``parsl.Config`` when all its jobs run."""
    total = 0
    for executor in config.executors:
        provider = getattr(executor, "provider", None)
        blocks = getattr(provider, "max_blocks", 1) * getattr(provider, "nodes_per_block", 1)
        each = getattr(executor, "workers_per_node", None) or getattr(executor, "max_threads", None) or 1
        total += int(each) * blocks
    return max(1, total)
