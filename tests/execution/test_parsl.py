"""Tasks on Parsl: real local pilot jobs, and the Slurm template with stand-ins for Slurm's commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.config import load_yaml, parse_config
from cgal_plugin.config.executor import ParslExecutor
from cgal_plugin.errors import CGALError, ConfigError
from cgal_plugin.execution import window
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.parsl import count_workers, open_parsl, parsl_config
from cgal_plugin.execution.pool import Pool
from cgal_plugin.execution.window import Failure
from cgal_plugin.execution.worker import Call
from tests.execution import work

pytest.importorskip("parsl")
import psutil

SYSTEM = {"sequence": "AAA", "temperature": 400}


def local(**changes: Any) -> ParslExecutor:
    """Two workers of this machine, with a short heartbeat."""
    values = {"workers_per_node": 2, "heartbeat_threshold": 5, "retry_wait": 0.1, **changes}
    return ParslExecutor(kind="parsl", template="htex_local", **values)


def test_results_failures_and_timeouts_come_as_from_processes(tmp_path: Path) -> None:
    results: dict[int, Any] = {}
    failures: dict[int, Failure] = {}
    keep = {"on_failure": failures.__setitem__, "folder": tmp_path}
    settings = local(task_timeout="3 s")
    map_tasks(work.sleep_or_fail, [0, 1, 2, 3, 4], results.__setitem__, workers=settings, shared=10, **keep)
    assert results == {0: 10, 1: 11, 4: 14}
    assert {i: f.kind for i, f in failures.items()} == {2: "timeout", 3: "error"}
    assert "ValueError: three" in failures[3].reason
    assert "sleep_or_fail" in (tmp_path / "tasks" / "2.log").read_text()
    assert list((tmp_path / "parsl").glob("000/parsl.log"))


@pytest.mark.integration
@pytest.mark.parametrize("victim", ["worker", "manager"])
def test_a_killed_worker_or_manager_costs_no_result(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_STALL_SECONDS", 10.0)
    results: dict[int, int] = {}
    events: list[str] = []
    killed: list[int] = []
    children: list[psutil.Process] = []

    def keep(index: int, result: int) -> None:
        results[index] = result
        if not killed and len(results) == 4:  # both workers have had a task
            worker, manager = map(int, next(iter(tmp_path.glob("*-*-*"))).name.split("-")[1:])
            children.extend(psutil.Process(manager).children())
            killed.append(worker if victim == "worker" else manager)
            os.kill(killed[0], signal.SIGKILL)

    map_tasks(
        work.note_pids,
        [(i, 0.3, str(tmp_path)) for i in range(12)],
        keep,
        workers=local(),
        folder=tmp_path / "work",
        event=lambda kind, **facts: events.append(kind),
    )
    assert killed
    assert results == {i: i for i in range(12)}
    assert set(events) <= {"worker lost", "stall"}
    workers = {int(path.name.split("-")[1]) for path in tmp_path.glob("*-*-*")}
    for child in children:  # a multiprocessing.Manager, which Parsl does not end
        if child.pid not in workers and child.is_running():
            child.kill()
    deadline = time.monotonic() + 30
    while left := [pid for pid in workers if _lives(pid)]:
        assert time.monotonic() < deadline, f"workers {left} outlived their manager"
        time.sleep(0.2)


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.integration
def test_workers_killed_between_two_tasks_hold_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them holds the lock of Parsl's task queue, so that all others wait for ever."""
    monkeypatch.setattr(window, "_STALL_SECONDS", 10.0)
    results: dict[int, int] = {}
    events: list[str] = []

    def make(index: int) -> Call:
        return Call(work.note_pids, (index, 0.2, str(tmp_path)), str(tmp_path / f"{index}.log"))

    with ExitStack() as stack:

        def start() -> Pool:
            stack.close()
            return stack.enter_context(open_parsl(local(), tmp_path / "work"))

        def note(kind: str, /, **facts: Any) -> None:
            events.append(kind)

        pool = start()
        window.run_tasks(pool, 4, make, results.__setitem__, pytest.fail)
        for pid in {int(path.name.split("-")[1]) for path in tmp_path.glob("*-*-*")}:
            os.kill(pid, signal.SIGKILL)
        results.clear()
        window.run_tasks(pool, 6, make, results.__setitem__, pytest.fail, note, start)
    assert results == {i: i for i in range(6)}
    assert set(events) == {"stall"}


# ---------------------------------------------------------------------- configurations

_SBATCH = """#!/bin/bash
cp "$1" {record}/script.sh
export SLURM_JOB_NAME=$(sed -n 's/^#SBATCH --job-name=//p' "$1") SLURM_CPUS_ON_NODE=2 SLURM_JOB_NUM_NODES=1
setsid bash "$1" > {record}/job.log 2>&1 &
echo $! > {record}/pid
echo "Submitted batch job 4711"
"""
_COMMANDS = {
    "sbatch": _SBATCH,
    "srun": '#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n',
    "squeue": "#!/bin/bash\n[[ -d /proc/$(cat {record}/pid) ]] && echo '4711 R' || echo '4711 CD'\n",
    "sacct": "#!/bin/bash\nexit 1\n",
    "scancel": "#!/bin/bash\necho $1 > {record}/cancelled\nkill -- -$(cat {record}/pid)\n",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands, which run jobs on this machine; returns the folder of their records."""
    record = tmp_path / "slurm"
    record.mkdir()
    for name, text in _COMMANDS.items():
        script = record / name
        script.write_text(text.replace("{record}", str(record)))
        script.chmod(0o755)
    path = os.pathsep.join([str(record), os.path.dirname(sys.executable), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    return record


@pytest.mark.integration
def test_the_slurm_template_becomes_a_batch_script_and_its_job_does_the_work(
    slurm: Path, tmp_path: Path
) -> None:
    settings = parse_config(
        {
            "system": SYSTEM,
            "executor": {
                "kind": "parsl",
                "template": "slurm_cpu",
                "workers_per_node": 2,
                "walltime": "12:30:00",
                "partition": "long",
                "account": "chem-42",
                "qos": "normal",
                "constraint": "milan",
                "worker_init": "export FROM_WORKER_INIT=yes",
            },
        }
    ).executor
    results: dict[int, Any] = {}
    map_tasks(work.square, [2, 3], results.__setitem__, workers=settings, folder=tmp_path / "work")
    assert results == {0: (4, "1"), 1: (9, "1")}
    assert (slurm / "cancelled").read_text().strip() == "4711"
    script = (slurm / "script.sh").read_text()
    print(script)  # pytest -s shows it
    for line in (
        "#SBATCH --nodes=1",
        "#SBATCH --time=750",
        "#SBATCH --exclusive",
        "#SBATCH --partition=long",
        "#SBATCH --account=chem-42",
        "#SBATCH --qos=normal",
        "#SBATCH --constraint=milan",
        "#SBATCH --cpus-per-task=2",
        "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OPENMM_CPU_THREADS=1",
        "export FROM_WORKER_INIT=yes",
    ):
        assert f"\n{line}\n" in script
    assert "process_worker_pool.py" in script
    assert "--max_workers_per_node=2" in script
    assert "srun --ntasks 1" in script


def test_the_gpu_template_pins_a_gpu_to_each_worker(slurm: Path, tmp_path: Path) -> None:
    executor = {
        "kind": "parsl",
        "template": "slurm_gpu",
        "workers_per_node": 2,
        "gpus_per_node": 4,
        "nodes": 3,
    }
    config = parse_config({"system": SYSTEM, "executor": executor, "oracle": {"platform": "CUDA"}})
    made = parsl_config(config.executor, tmp_path)
    assert made.executors[0].available_accelerators == ["0", "1", "2", "3"]
    assert "#SBATCH --gpus-per-node=4" in made.executors[0].provider.scheduler_options
    assert made.executors[0].all_addresses
    assert count_workers(made) == config.executor.workers == 6
    with pytest.raises(ConfigError, match=r"set oracle\.platform to CUDA or auto"):
        parse_config({"system": SYSTEM, "executor": executor, "oracle": {"platform": "CPU"}})


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ({}, "exactly one of 'template'"),
        ({"template": "slurm"}, "'htex_local', 'slurm_cpu' or 'slurm_gpu'"),
        ({"template": "slurm_cpu", "config": "mine.py"}, "exactly one of 'template'"),
        ({"config": "mine.py", "partition": "long"}, "partition: for templates only"),
        ({"config": "nowhere.py"}, "no such file"),
        ({"template": "slurm_cpu", "partition": "long\n#SBATCH --uid=0"}, "executor.partition"),
        ({"template": "slurm_cpu", "account": "$(id)"}, "executor.account"),
        ({"template": "slurm_cpu", "walltime": "1 day"}, "executor.walltime"),
        ({"template": "slurm_cpu", "workers": 3}, "unknown key"),
        ({"template": "slurm_gpu", "workers_per_node": 2}, "exceeds gpus_per_node"),
        ({"kind": "dask"}, "executor.kind = 'dask'"),
    ],
)
def test_invalid_executors_are_refused(executor: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("config = 3\n")
    with pytest.raises(ConfigError) as error:
        parse_config({"system": SYSTEM, "executor": {"kind": "parsl", **executor}}, base=tmp_path)
    assert message in str(error.value)


def _users_file(tmp_path: Path, text: str) -> ParslExecutor:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "run.yaml").write_text("system: {sequence: AAA}\nexecutor: {kind: parsl, config: mine.py}\n")
    executor = load_yaml(tmp_path / "run.yaml").executor
    assert isinstance(executor, ParslExecutor)
    return executor


def test_the_users_own_parsl_configuration(tmp_path: Path) -> None:
    text = (
        "import parsl\n"
        "threads = parsl.ThreadPoolExecutor(max_threads=3)\n"
        f"config = parsl.Config(executors=[threads], run_dir={str(tmp_path / 'runinfo')!r})\n"
    )
    with open_parsl(_users_file(tmp_path, text), tmp_path) as pool:
        assert pool.workers == 3
        assert pool.executor.submit(work.add, 1, 2).result() == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("1/0", "ZeroDivisionError"), ("config = 3", "must set `config"), ("def x(", "SyntaxError")],
)
def test_a_parsl_file_that_fails_is_named(text: str, message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=message) as error,
        open_parsl(_users_file(tmp_path, text), tmp_path),
    ):
        pass
    assert "mine.py" in str(error.value)


def test_without_parsl_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "parsl", None)
    with pytest.raises(CGALError, match=r"cgal_plugin\[parsl\]"):
        parsl_config(local(), tmp_path)


_DRIVER = """
import sys
from pathlib import Path
from cgal_plugin import interrupts
from cgal_plugin.config.executor import ParslExecutor
from cgal_plugin.execution.map_tasks import map_tasks
from tests.execution import work
folder = Path(sys.argv[1])
settings = ParslExecutor(kind="parsl", template="htex_local", workers_per_node=2)
tasks = [(i, 300, str(folder)) for i in range(4)]
try:
    with interrupts.handled(keyboard=False):
        map_tasks(work.note_pids, tasks, lambda i, r: None, workers=settings, folder=folder / "work")
except interrupts.Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""


def _marked(mark: str) -> list[str]:
    """Command lines of the processes with this mark in their environment or command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            here = mark in command or process.environ().get("CGAL_MARK") == mark
            if here and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(command)
    return found


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["ctrl-c", "sigterm", "sigkill"],
)
def test_a_driver_leaves_no_process_behind(number: signal.Signals, group: bool, tmp_path: Path) -> None:
    """Ctrl-C in a terminal, SIGTERM of a batch system to all processes, and a kill of the driver."""
    log = tmp_path / "log"
    with log.open("wb") as handle:
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(tmp_path)],
            stdout=handle,
            stderr=handle,
            start_new_session=True,
            env={
                **os.environ,
                "CGAL_MARK": str(tmp_path),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*-*-*"))) < 2:  # both workers have a task
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    assert len(_marked(str(tmp_path))) > 4
    sent = time.monotonic()
    (os.killpg if group else os.kill)(driver.pid, number)
    assert driver.wait(timeout=30) == (128 + number if group else -number), log.read_text()
    while left := _marked(str(tmp_path)):
        assert time.monotonic() - sent < 20, left
        time.sleep(0.05)
    assert time.monotonic() - sent < 3
    assert "Traceback" not in log.read_text()


@pytest.mark.integration
def test_parsl_ends_within_seconds(tmp_path: Path) -> None:
    def stop(index: int, result: int) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    tasks = [(0, 0.1, str(tmp_path)), (1, 300, str(tmp_path))]
    with pytest.raises(KeyboardInterrupt):
        map_tasks(work.note_pids, tasks, stop, workers=local(), folder=tmp_path / "work")
    assert time.monotonic() - started < 40  # nearly all of it is the start
