"""The result of a simulation, and the function that loads it from its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.data.temperature import recorded_temperature
from cgal_plugin.dynamics.folder import Progress, SimulationFolder
from cgal_plugin.errors import StateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SimulationResult:
    """The files and events of a simulation.

    Attributes
    ----------
    out_dir
        Folder of the simulation; its ``simulation.json`` records inputs and versions.
    trajectories
        One DCD per replica, Å, readable by mdtraj with :attr:`topology_file`.
    n_frames
        Frames of each replica. Frames at and after a blow-up are not stored.
    events
        Blow-ups, in order of detection.
    steps_done
        Less than requested only if every replica blew up.
    timings
        ``seconds`` of wall time over all runs, ``steps_per_second``.
    backend
        How OpenMM evaluates the potential.
    temperature
        K.
    """

    out_dir: Path
    trajectories: tuple[Path, ...]
    topology_file: Path
    n_frames: tuple[int, ...]
    events: tuple[BlowUp, ...]
    steps_done: int
    timings: dict[str, float]
    backend: str
    temperature: float | None = None

    @property
    def total_frames(self) -> int:
        """Number of frames of all replicas."""
        return sum(self.n_frames)

    def load(self) -> list[NDArray[np.float32]]:
        """Return the frames of each replica: ``(n_frames[r], beads, 3)`` Å."""
        return [read_dcd(path, n) for path, n in zip(self.trajectories, self.n_frames, strict=True)]

    @classmethod
    def of(
        cls, folder: SimulationFolder, done: Progress, backend: str, temperature: float | None = None
    ) -> SimulationResult:
        """Return the result of a finished simulation."""
        return cls(
            out_dir=folder.root,
            trajectories=folder.trajectories,
            topology_file=folder.topology_file,
            n_frames=tuple(done.frames),
            events=tuple(done.events),
            steps_done=done.step,
            timings=done.timings(),
            backend=backend,
            temperature=temperature,
        )


def load_simulation(out_dir: str | os.PathLike[str]) -> SimulationResult:
    """Load a complete simulation of :func:`cgal_plugin.dynamics.simulate` without running anything.

    Raises
    ------
    StateError
        The folder holds no simulation or an incomplete one, or a file in it is damaged.
    """
    folder, backend = SimulationFolder.existing(Path(out_dir))
    progress, _ = folder.load_checkpoint()
    if not folder.is_complete(progress):
        raise StateError(
            f"the simulation in {str(folder.root)!r} is incomplete ({progress.step} steps done); "
            "call simulate() with the same arguments to resume it"
        )
    folder.check_trajectories(progress)
    return SimulationResult.of(folder, progress, backend, recorded_temperature(folder.root))
