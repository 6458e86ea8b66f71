"""What this process may use: cores and a GPU. The value ``auto`` of a configuration is resolved here.

``auto`` uses each physical core that affinity, control groups and the batch system allow, and no more than
there is work for. The variable ``CGAL_CORES`` lowers the number further.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgal_plugin._warp import device_name, has_gpu
from cgal_plugin.errors import CGALWarning

Auto = Literal["auto"]

#: limits of the user and of this package's own workers
CORES = "CGAL_CORES"
#: CPUs of a job: the variable, and the one that shows that the process belongs to such a job
_BATCH = (
    ("SLURM_CPUS_PER_TASK", "SLURM_JOB_ID"),
    ("NCPUS", "PBS_JOBID"),
    ("NSLOTS", "JOB_ID"),
    ("LSB_DJOB_NUMPROC", "LSB_JOBID"),
)
#: CPUs of the job on this node, if the job does not say how many a task has
_SLURM_NODE = ("SLURM_CPUS_ON_NODE", "SLURM_JOB_ID")

# Rules for a GPU. They have not been measured on one: the numbers follow from the cost of a CUDA launch (some
# 50 µs per step of CG dynamics) and of the CPU engine (some 5 µs per bead and step).
#: beads of all replicas together from which CG dynamics is faster on a GPU
GPU_BEADS = 500
#: atoms from which all-atom MD is faster on one GPU than on the cores of a workstation
GPU_ATOMS = 1000
#: processes that share one GPU
GPU_WORKERS = 4


@dataclass(frozen=True)
class CoreLimits:
    """How many cores this process may use, and why.

    Attributes
    ----------
    limits
        Cores that each source allows, by its name.
    problems
        Sources that could not be read, with the reason; they do not limit.
    """

    limits: Mapping[str, int]
    problems: tuple[str, ...] = ()

    @property
    def cores(self) -> int:
        """The smallest limit, at least 1."""
        return max(1, min(self.limits.values(), default=1))

    @property
    def reason(self) -> str:
        """Name of the source that limits."""
        return min(self.limits, key=lambda name: self.limits[name], default="nothing is known")


def core_limits(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> CoreLimits:
    """Return the limits of this process.

    Parameters
    ----------
    root
        Folder that holds ``proc`` and ``sys``.
    environ
        Environment variables; default: those of this process.
    """
    environ = os.environ if environ is None else environ
    allowed = _allowed()
    limits, problems = {"affinity": len(allowed)}, list[str]()
    physical = _physical(allowed, root)
    if physical is not None:
        limits["physical cores"] = physical
    for name, read in (("control group", _cgroup(root)), ("environment", _variables(environ))):
        for source, value in read:
            if isinstance(value, int):
                limits[f"{name} ({source})"] = value
            else:
                problems.append(f"{source}: {value}")
    return CoreLimits(limits, tuple(problems))


def available_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    A source that cannot be read does not limit; it is a warning, once per process.
    """
    found = core_limits()
    for problem in found.problems:
        _warn_once(problem)
    return found.cores


def resolve_threads(value: int | Auto, work: int) -> int:
    """Return the number of threads or processes for ``value``.

    Parameters
    ----------
    value
        A number, which is returned, or ``"auto"``.
    work
        Number of independent tasks, the upper limit of ``"auto"``.
    """
    return max(1, min(available_cores(), work)) if value == "auto" else value


@functools.cache
def _warn_once(problem: str) -> None:
    warnings.warn(
        f"a limit on the number of cores cannot be read and is ignored: {problem}", CGALWarning, stacklevel=4
    )


def _allowed() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _physical(allowed: Iterable[int], root: Path) -> int | None:
    """Count the physical cores of these CPUs; hardware threads of one core count once. None: not known."""
    cores = set()
    for cpu in allowed:
        path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            siblings = path.read_text().strip()
        except OSError:
            return None
        if not siblings:
            return None  # some sandboxes have empty files
        cores.add(siblings)
    return len(cores)


# ---------------------------------------------------------------------- control groups


def _cgroup(root: Path) -> Iterator[tuple[str, int | str]]:
    """Yield the CPU quota of each control group of this process, or what is wrong with its file."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no control groups
    base = root / "sys/fs/cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            for folder in _upwards(base, path):
                yield from _quota(folder / "cpu.max", None)
        elif "cpu" in names.split(","):
            mounts = [m for m in (base / names, base / "cpu") if m.is_dir()]
            for folder in _upwards(mounts[0], path) if mounts else ():
                yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it; in a container the path may not exist below ``base``."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for end in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:end])


def _quota(path: Path, period_path: Path | None) -> Iterator[tuple[str, int | str]]:
    if not path.exists():
        return
    try:
        text = path.read_text().strip()
        quota, _, period = text.partition(" ")
        if period_path is not None:
            period = period_path.read_text().strip()
        if quota in ("max", "-1"):
            return
        yield str(path), max(1, int(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError) as error:
        yield str(path), str(error)


# ---------------------------------------------------------------------- batch systems


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, int | str]]:
    sources = [pair for pair in _BATCH if pair[0] in environ and pair[1] in environ]
    if not any(name == "SLURM_CPUS_PER_TASK" for name, _ in sources):
        sources += [_SLURM_NODE] if all(name in environ for name in _SLURM_NODE) else []
    for name in [*(name for name, _ in sources), *([CORES] if CORES in environ else [])]:
        text = environ[name].strip()
        if re.fullmatch(r"\d+", text) and int(text) > 0:
            yield name, int(text)
        else:
            yield name, f"{environ[name]!r} is not a number of CPUs"


# ---------------------------------------------------------------------- GPU


@functools.cache
def gpu_name() -> str | None:
    """Return the name of the GPU that CUDA programs of this process would use; None without one.

    Without a device file of the NVIDIA driver, Warp is not imported.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return None
    try:
        return device_name("cuda:0") if has_gpu() else None
    except (ImportError, RuntimeError):
        return None


def dynamics_on_gpu(n_beads: int, n_replicas: int) -> bool:
    """Return whether CG dynamics of this size is faster on a GPU, if there is one (not measured)."""
    return n_beads * n_replicas >= GPU_BEADS


def labels_on_gpu(n_particles: int) -> bool:
    """Return whether all-atom MD of this size is faster on a GPU, if there is one (not measured)."""
    return n_particles >= GPU_ATOMS
