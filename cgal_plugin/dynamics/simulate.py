"""Langevin dynamics of many replicas: restartable to the bit, and not to be stopped by one that explodes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.dynamics.backends import choose_backend
from cgal_plugin.dynamics.engine import Settings
from cgal_plugin.dynamics.folder import Progress, SimulationFolder
from cgal_plugin.dynamics.guard import Guard, Limits
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.provenance import hash_array, hash_file
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.mapping import CGTopology

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation left on disk.

    Attributes
    ----------
    out_dir
        Its folder; ``simulation.json`` in it says what was run, with which inputs and versions.
    trajectories
        One DCD a replica, Å, readable by mdtraj with :attr:`topology_file`.
    n_frames
        Frames of each replica. Frames at and after a blow-up are not stored.
    events
        Blow-ups, in the order found.
    steps_done
        Fewer than asked for only if every replica blew up.
    timings
        ``seconds`` of wall time over all runs, ``steps_per_second``.
    backend
        How OpenMM called the potential.
    """

    out_dir: Path
    trajectories: tuple[Path, ...]
    topology_file: Path
    n_frames: tuple[int, ...]
    events: tuple[BlowUp, ...]
    steps_done: int
    timings: dict[str, float]
    backend: str

    @property
    def total_frames(self) -> int:
        """Frames of all replicas."""
        return sum(self.n_frames)

    def load(self) -> list[NDArray[np.float32]]:
        """Frames of each replica: ``(n_frames[r], beads, 3)`` Å."""
        return [read_dcd(path, n) for path, n in zip(self.trajectories, self.n_frames, strict=True)]


def simulate(
    potential: str | os.PathLike[str],
    topology: CGTopology,
    start_positions: ArrayLike,
    *,
    steps: int,
    timestep_fs: float,
    temperature: float,
    friction: float,
    out_dir: str | os.PathLike[str],
    n_replicas: int | None = None,
    seed: int = 0,
    report_interval: int = 100,
    checkpoint_interval: int | None = None,
    progress: ProgressCallback | None = None,
    guard: Guard | None = None,
    backend: str = "auto",
    platform: str = "Reference",
    minimize_steps: int = 0,
    center_frames: bool = True,
    n_threads: int | None = None,
) -> SimulationResult:
    """Langevin dynamics (LangevinMiddle) of replicas packed in one System.

    Called again with the same ``out_dir`` it goes on from the last checkpoint, and the files end up
    the same as without the interruption (Reference platform: byte for byte). ``steps`` may be raised
    to make a simulation longer; with nothing left to do the call returns at once.

    A replica that leaves the limits of ``guard`` is an event of the result, not an error: its frames
    up to the last check before are kept, then it is parked (put back to its start and frozen), or
    started again if ``guard.restart_blown``; the other replicas go on.

    Parameters
    ----------
    potential
        File of :func:`cgal_plugin.export.export_torchscript`, exported for ``n_replicas``.
    start_positions
        ``(n_replicas, beads, 3)`` Å, an ``mdtraj.Trajectory``, or one frame for all replicas.
    steps
        Total number of steps, those of earlier calls included.
    timestep_fs, temperature, friction
        fs, K and 1/ps.
    n_replicas
        Default: the number of start frames.
    seed
        Of velocities and noise. Each replica's velocities come from a stream of its own.
    report_interval
        Steps between stored frames, which is also when the guard looks.
    checkpoint_interval
        Steps between checkpoints, taken at the next report; default: every 5 s of wall time. It does
        not affect the trajectories.
    progress
        Called as ``progress(steps_done, steps)`` at every report.
    guard
        Default ``Guard()``; ``Guard.off()`` catches only non-finite values.
    backend
        ``"torchforce"``, ``"pythontorch"``, ``"python"`` or ``"fast"``; see :func:`resolve_backend`.
        ``"auto"`` is that of the simulation that is continued; for a new one on a CPU ``"fast"``, if
        numba is there and the engine can use the potential, else as :func:`resolve_backend`.
    platform
        OpenMM platform: ``"Reference"`` (the fastest one for CG systems on a CPU) or ``"CUDA"``.
    minimize_steps
        Minimiser iterations before the dynamics.
    center_frames
        Store frames with their centroid at the origin. Without a box replicas drift, and a DCD's
        float32 would lose the structure's digits.
    n_threads
        Threads torch may use meanwhile; default: as set.

    Raises
    ------
    DynamicsError
        An argument is out of range, the potential fits neither the molecule nor the replicas or fails
        without any replica to blame, or every replica is outside the limits at the start.
    StateError
        ``out_dir`` holds another simulation, a longer one, or one that is running.
    """
    start = _start_frames(start_positions, topology, n_replicas)
    _check_positive(timestep_fs=timestep_fs, temperature=temperature, friction=friction)
    _check_counts(steps=steps, report_interval=report_interval)
    if checkpoint_interval is not None:
        _check_counts(checkpoint_interval=checkpoint_interval)
    if minimize_steps:
        _check_counts(minimize_steps=minimize_steps)
    if not Path(potential).is_file():
        raise DynamicsError(f"potential {str(potential)!r} does not exist; make it with `cgal export`")
    guard = Guard() if guard is None else guard
    settings = Settings(
        potential=Path(potential),
        topology=topology,
        n_replicas=len(start),
        timestep_fs=float(timestep_fs),
        temperature=float(temperature),
        friction=float(friction),
        seed=seed,
        backend=choose_backend(backend, Path(potential), len(start), platform, Path(out_dir)),
        platform=platform,
    )
    limits = Limits.build(guard, topology.bond_index, topology.masses, settings.temperature, start)
    inputs = _inputs(settings, start, guard, report_interval, minimize_steps, center_frames)
    folder = SimulationFolder(Path(out_dir), len(start))
    with folder.lock(), _torch_threads(n_threads):
        saved = folder.load_checkpoint() if folder.open(inputs, topology, start) else None
        if saved is not None and saved[0].step > steps:
            raise StateError(
                f"{str(out_dir)!r} holds {saved[0].step} steps already, more than steps={steps}; "
                "use another out_dir"
            )
        if saved is not None and saved[0].finished(steps) and folder.is_complete(saved[0]):
            folder.check_trajectories(saved[0], topology.n_beads)
            return _result(folder, saved[0], settings.backend)
        from cgal_plugin.dynamics.runner import Runner

        runner = Runner(
            settings,
            limits,
            folder,
            start,
            report_interval=report_interval,
            checkpoint_interval=checkpoint_interval,
            minimize_steps=minimize_steps,
            center_frames=center_frames,
        )
        done = runner.run(steps, saved, progress)
        folder.finish(done, _timings(done))
        return _result(folder, done, settings.backend)


def _timings(done: Progress) -> dict[str, float]:
    return {"seconds": done.seconds, "steps_per_second": done.step / max(done.seconds, 1e-9)}


def _result(folder: SimulationFolder, done: Progress, backend: str) -> SimulationResult:
    return SimulationResult(
        out_dir=folder.root,
        trajectories=folder.trajectories,
        topology_file=folder.topology_file,
        n_frames=tuple(done.frames),
        events=tuple(done.events),
        steps_done=done.step,
        timings=_timings(done),
        backend=backend,
    )


def _start_frames(start_positions: Any, topology: CGTopology, n_replicas: int | None) -> NDArray[np.float64]:
    if not hasattr(start_positions, "xyz") and np.ndim(start_positions) == 2:
        start_positions = np.asarray(start_positions)[None]
    start = as_angstrom(start_positions).astype(np.float64)
    if start.shape[1] != topology.n_beads:
        raise DynamicsError(f"start frames have {start.shape[1]} beads; the topology has {topology.n_beads}")
    wanted = len(start) if n_replicas is None else n_replicas
    if wanted < 1 or len(start) not in (1, wanted):
        raise DynamicsError(
            f"{len(start)} start frame(s) for {wanted} replica(s): give one frame a replica, or one for all"
        )
    if len(start) != wanted:
        start = np.repeat(start, wanted, axis=0)
    bad = np.flatnonzero(~np.isfinite(start).all(axis=(1, 2)))
    if bad.size:
        raise DynamicsError(f"start frame(s) {bad.tolist()} are not finite")
    return start


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise DynamicsError(f"{name} is {value}; it must be positive")


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise DynamicsError(f"{name} is {value!r}; it must be an integer of at least 1")


def _inputs(
    settings: Settings,
    start: NDArray[np.float64],
    guard: Guard,
    report_interval: int,
    minimize_steps: int,
    center_frames: bool,
) -> dict[str, Any]:
    return {
        "potential_sha256": hash_file(settings.potential),
        "topology_sha256": settings.topology.hash,
        "start_sha256": hash_array(start),
        "n_replicas": settings.n_replicas,
        "timestep_fs": settings.timestep_fs,
        "temperature": settings.temperature,
        "friction": settings.friction,
        "seed": settings.seed,
        "report_interval": int(report_interval),
        "minimize_steps": int(minimize_steps),
        "center_frames": center_frames,
        "backend": settings.backend,
        "platform": settings.platform,
        "guard": guard.to_dict(),
    }


@contextmanager
def _torch_threads(n_threads: int | None) -> Iterator[None]:
    if n_threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_simulation(out_dir: str | os.PathLike[str]) -> SimulationResult:
    """TEMPORARY: replaced at the merge."""
    from cgal_plugin.dynamics.folder import MANIFEST
    from cgal_plugin.provenance import read_json

    manifest = read_json(Path(out_dir) / MANIFEST)
    folder = SimulationFolder(Path(out_dir), manifest["inputs"]["n_replicas"])
    done = folder.load_checkpoint()[0]
    return _result(folder, done, manifest["inputs"]["backend"])
