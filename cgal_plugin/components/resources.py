"""What a run uses of the machine: cores, GPU and platforms; what ``auto`` means in a configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cgal_plugin.config import Config
from cgal_plugin.config.executor import LocalExecutor, ParslExecutor
from cgal_plugin.config.models import OpenMMOracleConfig, Simulation, Training
from cgal_plugin.errors import CGALError, ConfigError, DynamicsError, StateError
from cgal_plugin.execution.map_tasks import ExecutorSettings
from cgal_plugin.execution.resources import (
    GPU_WORKERS,
    CoreLimits,
    available_cores,
    core_limits,
    dynamics_on_gpu,
    gpu_name,
    labels_on_gpu,
    resolve_threads,
)

#: keys of the configuration whose ``auto`` is decided once in a run; ``training`` has no key
ORACLE, PLATFORM, BACKEND, TRAINING = (
    "oracle.platform",
    "simulation.platform",
    "simulation.backend",
    "training",
)


@dataclass(frozen=True)
class Resources:
    """What a run uses.

    Attributes
    ----------
    limits
        Cores that this process may use.
    gpu
        Name of the GPU; None without one.
    workers, training_threads
        Processes for labels, and cores for training and CG dynamics.
    platforms
        What each platform key of the configuration means in this run; ``training`` is ``cpu`` or ``cuda``.
        The platforms are recorded at the start of a run and kept, because they give different results.
    notes
        What was asked for and cannot be had, one line each.
    """

    limits: CoreLimits
    gpu: str | None
    workers: int
    training_threads: int
    platforms: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for the user."""
        cores = self.limits.cores
        parts = [
            f"{self.workers} worker{'s' * (self.workers != 1)}" if self.workers else "no workers",
            f"{self.training_threads} for training and CG dynamics",
            *(f"{key} {value}" for key, value in self.platforms.items()),
        ]
        gpu = f" and {self.gpu}" if self.gpu else ""
        return f"uses {cores} core{'s' * (cores != 1)} ({self.limits.reason}){gpu}: {', '.join(parts)}"

    def facts(self) -> dict[str, Any]:
        """Return JSON-ready facts for the log and the manifests."""
        return {
            "text": self.text,
            "cores": self.limits.cores,
            "limits": dict(self.limits.limits),
            "gpu": self.gpu,
            "executor.workers": self.workers,
            "executor.training_threads": self.training_threads,
            "platforms": dict(self.platforms),
            "notes": [*self.notes, *self.limits.problems],
        }


def settle(
    config: Config,
    n_beads: int,
    labels_on: str | None,
    recorded: Mapping[str, str],
    given: Collection[str] = (),
) -> Resources:
    """Return what a run with this configuration uses here.

    Parameters
    ----------
    n_beads
        Beads of the molecule.
    labels_on
        Result of :func:`oracle_platform`; None if the run has no all-atom MD of its own.
    recorded
        Platforms that the run has used so far, which are kept where the configuration says ``auto``.
    given
        Roles whose component is given by the caller.

    Raises
    ------
    ConfigError
        A platform that the configuration names is missing here.
    StateError
        A platform that the run has used so far is missing here.
    """
    platforms = {} if labels_on is None else {ORACLE: labels_on}
    platforms |= {} if "sampler" in given else _simulation(config, n_beads, recorded)
    platforms |= {} if "trainer" in given else training_device(config, recorded)
    return _resources(config, platforms)


def _resources(config: Config, platforms: Mapping[str, str]) -> Resources:
    limits, notes = core_limits(), list[str]()
    cores, executor = limits.cores, with_workers(config.executor, platforms.get(ORACLE))
    asked = {"training_threads": executor.training_threads}
    if isinstance(executor, LocalExecutor):
        asked["workers"] = executor.workers
    for key, value in sorted(asked.items()):
        if value != "auto" and value > cores:
            notes.append(
                f"executor.{key} is {value}, but this process may use {cores} core{'s' * (cores != 1)} "
                f"({limits.reason}): they share them"
            )
    threads = cores if executor.training_threads == "auto" else executor.training_threads
    assert executor.workers != "auto"
    return Resources(limits, gpu_name(), executor.workers, threads, platforms, tuple(notes))


def with_workers(executor: ExecutorSettings, labels_on: str | None) -> ExecutorSettings:
    """Return the executor with a number of workers for labels on this platform; few share a GPU."""
    if isinstance(executor, ParslExecutor) or executor.workers != "auto":
        return executor
    cores = available_cores()
    workers = min(cores, GPU_WORKERS) if labels_on in ("CUDA", "OpenCL") else cores
    return executor.model_copy(update={"workers": workers})


# ---------------------------------------------------------------------- platforms


def oracle_platform(config: Config, n_atoms: int, recorded: Mapping[str, str] | None = None) -> str:
    """Return OpenMM's platform for labels and seed trajectories.

    Parameters
    ----------
    n_atoms
        Atoms of the solute, or of the system that the user gives.
    recorded
        Platforms that the run has used so far.

    Raises
    ------
    ConfigError
        The platform that the configuration names is missing here (local workers).
    StateError
        The platform that the run has used so far is missing here.
    """
    settings = config.oracle if isinstance(config.oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    local = isinstance(config.executor, LocalExecutor)
    if not local and settings.platform == "auto" and not (recorded or {}).get(ORACLE):
        # this machine does not run labels
        assert isinstance(config.executor, ParslExecutor)
        return "CUDA" if config.executor.template == "slurm_gpu" else "CPU"
    large = settings.solvent == "tip3pfb" or labels_on_gpu(n_atoms)
    chosen = "CUDA" if large and gpu_name() is not None and _has_platform("CUDA") else "CPU"
    found = _settled(ORACLE, settings.platform, chosen, recorded)
    if local:
        _check_platform(ORACLE, found, settings.platform == "auto")
    return found


def _simulation(config: Config, n_beads: int, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return OpenMM's platform and the backend of CG dynamics.

    A backend ``auto`` is one for the CPU, which the potential decides
    (:func:`cgal_plugin.dynamics.backends.choose_backend`).
    """
    simulation = config.simulation
    if not isinstance(simulation, Simulation):
        return {}
    platform = _settled(PLATFORM, simulation.platform, "Reference", recorded)
    chosen = "auto"
    here = simulation.blocks == 1  # blocks run on workers, which may have other hardware
    if here and simulation.platform == "auto" and gpu_name() is not None and _has_backend("gpu"):
        chosen = "gpu" if dynamics_on_gpu(n_beads, simulation.n_replicas) else "auto"
    backend = _settled(BACKEND, simulation.backend, chosen, recorded)
    if here:
        _check_platform(PLATFORM, platform, simulation.platform == "auto")
        if backend == "gpu" and gpu_name() is None:
            raise _missing(BACKEND, "gpu", simulation.backend == "auto", "fast")
        from cgal_plugin.dynamics.force import resolve_backend

        with _named(BACKEND):
            resolve_backend(backend)
    return {PLATFORM: platform, BACKEND: backend}


def training_device(config: Config, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the device of training: that of the run so far, else a GPU if torch can use one."""
    if not isinstance(config.training, Training):
        return {}
    device = "cpu"
    if gpu_name() is not None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if recorded.get(TRAINING, device) == "cuda" and device == "cpu":
        raise StateError(
            "this run was trained on a GPU so far, and torch finds none here: continue on a machine with "
            "a GPU, or start a new run in another folder (--out)"
        )
    return {TRAINING: recorded.get(TRAINING, device)}


def _settled(key: str, value: str, chosen: str, recorded: Mapping[str, str] | None) -> str:
    """Return a given value; for ``auto`` what the run has used so far, else ``chosen``."""
    return value if value != "auto" else (recorded or {}).get(key, chosen)


def _has_platform(name: str) -> bool:
    from cgal_plugin.dynamics.system import find_platform

    try:
        find_platform(name)
    except CGALError:
        return False
    return True


def _has_backend(name: str) -> bool:
    from cgal_plugin.dynamics.force import BACKENDS

    return name in BACKENDS


def _check_platform(key: str, name: str, auto: bool) -> None:
    from cgal_plugin.dynamics.system import find_platform

    if auto and not _has_platform(name):
        raise _missing(key, name, auto, "CPU" if key == ORACLE else "Reference")
    with _named(key):
        find_platform(name)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Make an error of the dynamics one of the configuration, which names the key."""
    try:
        yield
    except DynamicsError as error:
        raise ConfigError(f"{key}: {error}") from error


def _missing(key: str, name: str, auto: bool, instead: str) -> CGALError:
    if auto:
        return StateError(
            f"this run has used {key} {name} so far, which this machine does not have. Platforms give "
            "different results and are kept in a run: continue on a machine with a GPU and its driver, or "
            f"set {key}: {instead} and use --accept-changes"
        )
    return ConfigError(
        f"{key} is {name}, but no NVIDIA GPU with its driver is found (or CUDA_VISIBLE_DEVICES hides it): "
        f"use {key}: auto or {instead}"
    )


def start_training_helper(config: Config) -> None:
    """Start a process of a training that will use several cores, while the run is being prepared.

    Its imports take seconds, in which the first training would use one core. Most trainings need one; others
    start with the training.
    """
    several = resolve_threads(config.executor.training_threads, 2) > 1
    if isinstance(config.training, Training) and several and gpu_name() is None:
        from cgal_plugin.training.helpers import start_early

        start_early(1)
