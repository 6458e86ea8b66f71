"""Cores and GPU that this process may use: affinity, control groups, batch systems, physical cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cgal_plugin.errors import CGALWarning, ConfigError
from cgal_plugin.execution import resources
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.resources import available_cores, core_limits, gpu_name, resolve_threads
from cgal_plugin.execution.threads import thread_map


def machine(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    *,
    siblings: int = 1,
    groups: str = "",
    **files: str,
) -> Path:
    """A tree of ``proc`` and ``sys`` of a machine with this number of hardware threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    for cpu in range(cpus):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        first = cpu - cpu % siblings
        (folder / "thread_siblings_list").write_text(
            ",".join(map(str, range(first, first + siblings))) + "\n"
        )
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cores(root: Path, **environ: str) -> int:
    return core_limits(root, environ).cores


def test_hardware_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, monkeypatch, 64, siblings=2)
    found = core_limits(root, {})
    assert found.cores == 32
    assert found.limits == {"affinity": 64, "physical cores": 32}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 8}, raising=False)
    assert cores(root) == 2  # 0 and 1 share a core
    for path in root.rglob("thread_siblings_list"):
        path.write_text("\n")  # as in some sandboxes
    assert core_limits(root, {}).limits == {"affinity": 3}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu_dot_max": "max 100000"}, 16),
        ("0::/job\n", {"job__cpu_dot_max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a__cpu_dot_max": "300000 100000", "a__b__cpu_dot_max": "max 100000"}, 3),
        ("0::/a/b\n", {"a__cpu_dot_max": "900000 100000", "a__b__cpu_dot_max": "250000 100000"}, 2),
        ("0::/docker/x\n", {"cpu_dot_max": "50000 100000"}, 1),  # half a core, in a container
        ("0::/../../x\n", {"x__cpu_dot_max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/j\n", {"cpu,cpuacct__j__cpu.cfs_quota_us": "500000",
                                "cpu,cpuacct__j__cpu.cfs_period_us": "100000"}, 5),
        ("1:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "100000"}, 16),
        ("3:cpuset:/\n2:cpuacct:/\n", {}, 16),
        ("garbage\n\n", {}, 16),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: Mapping[str, str],
    expected: int,
) -> None:
    assert cores(machine(tmp_path, monkeypatch, 16, groups=groups, **files)) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "6"}, 6),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "12"}, 12),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "12", "SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_CPUS_PER_TASK": "3"}, 16),  # left over, outside a job
        ({"PBS_JOBID": "1", "NCPUS": "5"}, 5),
        ({"NCPUS": "5"}, 16),
        ({"JOB_ID": "1", "NSLOTS": "2"}, 2),
        ({"LSB_JOBID": "1", "LSB_DJOB_NUMPROC": "9"}, 9),
        ({"CGAL_CORES": "4"}, 4),
        ({"CGAL_CORES": "400"}, 16),
    ],
)
def test_batch_systems_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: int
) -> None:
    assert core_limits(machine(tmp_path, monkeypatch, 16), environ).cores == expected


@pytest.mark.parametrize("value", ["two", "", "0", "-3", "2.5", "4(x2)", "1e9x"])
def test_a_variable_that_is_no_number_is_said_and_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    environ = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": value}
    found = core_limits(machine(tmp_path, monkeypatch, 8), environ)
    assert found.cores == 8
    assert found.problems == (f"SLURM_CPUS_PER_TASK: {value!r} is not a number of CPUs",)


@pytest.mark.parametrize("text", ["", "much 100000", "100000", "100000 0", "1 2 3"])
def test_a_quota_that_cannot_be_read_is_said_and_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    root = machine(tmp_path, monkeypatch, 8, groups="0::/\n", cpu_dot_max=text)
    found = core_limits(root, {})
    assert found.cores == 8
    assert len(found.problems) == 1
    assert "cpu.max" in found.problems[0]


def test_nothing_known_is_one_core_or_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert cores(tmp_path / "nothing") == 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores(tmp_path / "nothing") == os.cpu_count()


def test_a_problem_is_a_warning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "a few of them")
    with pytest.warns(CGALWarning, match="'a few of them' is not a number of CPUs"):
        first = available_cores()
    assert available_cores() == first


def test_auto_is_never_more_than_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cores", lambda: 8)
    assert [resolve_threads("auto", work) for work in (0, 1, 3, 100)] == [1, 1, 3, 8]
    assert resolve_threads(5, 1) == 5  # a number is what the user asked for


def cores_of_task(item: int) -> int:
    return available_cores()


def test_a_worker_has_one_core_or_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CGAL_CORES", raising=False)
    found: dict[int, int] = {}
    map_tasks(cores_of_task, [0, 1, 2], found.__setitem__, workers=1, folder=tmp_path)
    assert set(found.values()) == {1}
    map_tasks(cores_of_task, [0], found.__setitem__, workers=1, cores=2, folder=tmp_path)
    assert found[0] == min(2, available_cores())


def test_threads_keep_the_order_and_the_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cores", lambda: 3)
    assert thread_map(lambda x: x * x, list(range(50))) == [x * x for x in range(50)]
    assert thread_map(lambda x: x, []) == []

    def fails(x: int) -> int:
        if x >= 3:
            raise ConfigError(f"item {x}")
        return x

    with pytest.raises(ConfigError, match="item 3"):
        thread_map(fails, list(range(50)))


def test_without_a_device_file_torch_is_not_imported() -> None:
    code = """
import sys
from cgal_plugin.execution.resources import gpu_name
import glob
glob.glob = lambda pattern: []
import os.path
exists = os.path.exists
os.path.exists = lambda path: path != "/dev/dxg" and exists(path)
assert gpu_name() is None
assert not {"torch", "warp"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_hidden_gpus_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1", " "):
        gpu_name.cache_clear()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpu_name() is None
    gpu_name.cache_clear()


def test_small_work_stays_on_the_cpu() -> None:
    assert not resources.dynamics_on_gpu(10, 16)
    assert resources.dynamics_on_gpu(10, 1000)
    assert resources.dynamics_on_gpu(269, 128)
    assert not resources.labels_on_gpu(166)
    assert resources.labels_on_gpu(20_000)
