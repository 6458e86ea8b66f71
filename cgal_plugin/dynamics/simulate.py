"""Langevin dynamics of many replicas, with exact restarts and detection of blow-ups."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.bond_lengths import check_unit
from cgal_plugin.dynamics.backends import choose_backend
from cgal_plugin.dynamics.devices import describe_device, device_platform, find_device
from cgal_plugin.dynamics.exchange_file import ENERGIES
from cgal_plugin.dynamics.folder import SimulationFolder
from cgal_plugin.dynamics.guard import Guard, Limits, stereocentres
from cgal_plugin.dynamics.potential_metadata import read_metadata
from cgal_plugin.dynamics.progress import Progress
from cgal_plugin.dynamics.result import SimulationResult
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.dynamics.tempering import ExchangeState, Ladder, make_ladder
from cgal_plugin.dynamics.tempering_report import tempering_report
from cgal_plugin.errors import CGALWarning, DynamicsError, StateError
from cgal_plugin.execution.resources import available_cores
from cgal_plugin.provenance import hash_array, hash_file
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.mapping import CGTopology

ProgressCallback = Callable[[int, int], None]
#: units of the files that a simulation writes
_UNITS = {"positions": "angstrom", "timestep": "fs", "temperature": "K", "friction": "1/ps"}


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
    temperatures: Sequence[float] = (),
    exchange_interval: int | None = None,
) -> SimulationResult:
    """Run Langevin dynamics (LangevinMiddle) of replicas packed in one System.

    A call with the same ``out_dir`` resumes from the last checkpoint; the files are then the same as without
    the interruption (on the Reference platform byte for byte). Increase ``steps`` to extend a simulation. A
    complete simulation is not rerun.

    With ``temperatures``, parallel tempering: replicas on neighbouring temperatures exchange them with
    :func:`~cgal_plugin.dynamics.tempering.acceptance`. Frames are stored once, by replica (walker); the
    result gives them by temperature too. Replica ``r`` starts at ``temperatures[r % len(temperatures)]``.
    Replicas that blow up and are parked take part in no exchange.

    If a replica leaves the limits of ``guard``, this is an event in the result, not an error. Its frames
    before the event are kept; then the replica is parked (reset to its start frame and frozen), or restarted
    if ``guard.restart_blown``. The other replicas continue.

    Parameters
    ----------
    potential
        File of :func:`cgal_plugin.export.export_potential`; a TorchScript file must be for ``n_replicas``.
    start_positions
        ``(n_replicas, beads, 3)`` Å, an ``mdtraj.Trajectory``, or one frame for all replicas.
    steps
        Total number of steps, including those of earlier calls.
    timestep_fs, temperature, friction
        Time step, fs; temperature, K (another one than that of the potential is a warning); friction
        coefficient, 1/ps.
    n_replicas
        Default: the number of start frames. With ``temperatures``, of all temperatures together: a multiple
        of their number, for one or more independent ladders in the same System.
    seed
        Seed of velocities and noise. Each replica has its own random stream for velocities.
    report_interval
        Steps between stored frames and between checks of the guard.
    checkpoint_interval
        Steps between checkpoints, which are written at the next report; default: every 5 s of wall time.
        It does not affect the trajectories.
    progress
        Called as ``progress(steps_done, steps)`` at every report.
    guard
        Default ``Guard()``; ``Guard.off()`` detects only non-finite values.
    backend
        ``"torchforce"``, ``"pythontorch"``, ``"python"``, ``"fast"``, ``"cpu"`` or ``"gpu"``; see
        :func:`resolve_backend`. ``"cpu"`` and ``"gpu"`` are without OpenMM: forces and integrator are
        compiled code on the threads of the CPU, or stay on the GPU.
        ``"auto"`` keeps the backend of a resumed simulation. A new one on a CPU uses ``"cpu"`` if numba is
        installed and the engine supports the potential; otherwise see :func:`resolve_backend`.
    platform
        OpenMM platform: ``"Reference"`` (the fastest for CG systems on a CPU) or ``"CUDA"``. With backend
        ``"gpu"``: the first NVIDIA GPU, or for ``"CPU"`` its kernels on the CPU, for tests.
    minimize_steps
        Minimiser iterations before the dynamics.
    center_frames
        Store frames with their centroid at the origin. Without a box, replicas drift, and the float32
        numbers of DCD files would lose precision.
    n_threads
        Threads of the backends ``cpu`` and ``fast``, and of torch during the call. Default: the cores that
        this process may use for ``cpu``, whose results do not depend on it; else 1, and unchanged for torch.
    temperatures
        Two or more, K, ascending, with ``temperature`` among them; empty: no exchanges.
    exchange_interval
        Steps between attempts to exchange; default: ``report_interval``.

    Warns
    -----
    CGALWarning
        Neighbouring temperatures hardly exchange (measured; the message suggests other temperatures).

    Raises
    ------
    DynamicsError
        An argument is out of range; the potential does not fit the molecule or the number of replicas; the
        potential fails although all replicas are within the limits; or all are outside them at the start.
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
    if n_threads is not None:
        _check_counts(n_threads=n_threads)
    if not Path(potential).is_file():
        raise DynamicsError(f"potential {str(potential)!r} does not exist; make it with `cgal export`")
    made_for = potential_temperature(potential, float(temperature))
    guard = Guard() if guard is None else guard
    backend = choose_backend(backend, Path(potential), len(start), platform, Path(out_dir))
    facts: dict[str, Any] = {"potential_temperature": made_for, "units": dict(_UNITS)}
    if backend == "cpu" and platform not in ("Reference", "CPU"):
        raise DynamicsError(f"backend 'cpu' computes on the CPU, but platform is {platform!r}")
    if backend == "gpu":
        device = find_device(platform)
        platform = device_platform(device)
        facts["device"] = describe_device(device)
    ladder = None
    if len(temperatures):
        ladder = make_ladder(
            temperatures, temperature, len(start), steps, exchange_interval, report_interval, seed
        )
    elif exchange_interval is not None:
        raise DynamicsError("exchange_interval is for parallel tempering: give temperatures too")
    settings = Settings(
        potential=Path(potential),
        topology=topology,
        n_replicas=len(start),
        timestep_fs=float(timestep_fs),
        temperature=float(temperature),
        friction=float(friction),
        seed=seed,
        backend=backend,
        platform=platform,
        temperatures=()
        if ladder is None
        else tuple(ladder.baths(ExchangeState.start(ladder).rungs).tolist()),
        n_threads=n_threads or (available_cores() if backend == "cpu" else 1),
    )
    centres = stereocentres(topology)
    limits = Limits.build(guard, topology.bond_index, topology.masses, settings.temperature, start, centres)
    inputs = _inputs(settings, start, guard, report_interval, minimize_steps, center_frames)
    if ladder is not None:
        inputs |= {"temperatures": list(ladder.temperatures), "exchange_interval": ladder.interval}
    folder = SimulationFolder(Path(out_dir), len(start), () if ladder is None else ladder.temperatures)
    with folder.lock(), _torch_threads(n_threads):
        saved = folder.load_checkpoint() if folder.open(inputs, topology, start, facts) else None
        if saved is not None and saved[0].step > steps:
            raise StateError(
                f"{str(out_dir)!r} already holds {saved[0].step} steps, more than steps={steps}; "
                "use another out_dir"
            )
        if saved is not None and saved[0].finished(steps) and folder.is_complete(saved[0]):
            folder.check_trajectories(saved[0])
            if ladder is not None:
                _finish_exchanges(folder, saved[0], ladder)
            return SimulationResult.of(folder, saved[0], settings.backend, settings.temperature)
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
            ladder=ladder,
        )
        done = runner.run(steps, saved, progress)
        results = runner.engine.describe()
        folder.finish(done, results if ladder is None else results | _finish_exchanges(folder, done, ladder))
        return SimulationResult.of(folder, done, settings.backend, settings.temperature)


def _finish_exchanges(folder: SimulationFolder, done: Progress, ladder: Ladder) -> dict[str, Any]:
    """Write the energies of all frames; return the report of the exchanges, and warn of what it warns of."""
    table = folder.frame_table(done)
    assert table is not None
    assert done.exchanges is not None
    if not folder.is_complete(done) or not (folder.root / ENERGIES).is_file():
        table.save_energies(folder.root / ENERGIES)
    report = tempering_report(ladder, done.exchanges, done.parked, table.mean_energies)
    for text in report["warnings"]:
        warnings.warn(text, CGALWarning, stacklevel=3)
    return {"tempering": report}


def potential_temperature(potential: str | os.PathLike[str], temperature: float | None) -> float | None:
    """Return the temperature (K) that a potential was made for; None if the file does not record it.

    A CG potential is a free energy at one temperature, and an approximation at others: another
    ``temperature`` is a warning.

    Raises
    ------
    DynamicsError
        The file is missing or is not a potential.
    """
    made_for = read_metadata(potential).get("temperature")
    if made_for is None or temperature is None or abs(made_for - temperature) <= 1e-6:
        return None if made_for is None else float(made_for)
    warnings.warn(
        f"{os.fspath(potential)} was made for {made_for:g} K, not for {temperature:g} K: a CG potential is a "
        "free energy at one temperature",
        stacklevel=3,
    )
    return float(made_for)


def _start_frames(start_positions: Any, topology: CGTopology, n_replicas: int | None) -> NDArray[np.float64]:
    if not hasattr(start_positions, "xyz") and np.ndim(start_positions) == 2:
        start_positions = np.asarray(start_positions)[None]
    start = as_angstrom(start_positions).astype(np.float64)
    if start.shape[1] != topology.n_beads:
        raise DynamicsError(f"start frames have {start.shape[1]} beads; the topology has {topology.n_beads}")
    wanted = len(start) if n_replicas is None else n_replicas
    if wanted < 1 or len(start) not in (1, wanted):
        raise DynamicsError(
            f"{len(start)} start frame(s) for {wanted} replica(s): give one frame per replica, or one for all"
        )
    if len(start) != wanted:
        start = np.repeat(start, wanted, axis=0)
    bad = np.flatnonzero(~np.isfinite(start).all(axis=(1, 2)))
    if bad.size:
        raise DynamicsError(f"start frame(s) {bad.tolist()} are not finite")
    check_unit(start, topology, "the start frames", remedy="simulate takes Å, or an mdtraj.Trajectory")
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
