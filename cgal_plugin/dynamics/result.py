"""The result of a simulation, and the function that loads it from its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.config.ladder import rung_of
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.dynamics.demultiplex import by_ladder, save_by_temperature
from cgal_plugin.dynamics.exchange_file import ENERGIES, FrameTable
from cgal_plugin.dynamics.folder import SimulationFolder
from cgal_plugin.dynamics.progress import Progress
from cgal_plugin.errors import DynamicsError, StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        K; with parallel tempering, that of :meth:`load_temperature`.
    temperatures
        Those of parallel tempering, K, ascending; empty without it. ``trajectories`` are then of walkers,
        whose temperature changes.
    tempering
        Acceptance, round trips, mean energies and warnings of parallel tempering.
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
    temperatures: tuple[float, ...] = ()
    tempering: dict[str, Any] = field(default_factory=dict)
    _table: FrameTable | None = field(default=None, repr=False, compare=False)
    _timing: tuple[int, float] = field(default=(1, 1.0), repr=False, compare=False)

    @property
    def total_frames(self) -> int:
        """Number of frames of all replicas."""
        return sum(self.n_frames)

    def load(self) -> list[NDArray[np.float32]]:
        """Return the frames of each replica: ``(n_frames[r], beads, 3)`` Å."""
        return [read_dcd(path, n) for path, n in zip(self.trajectories, self.n_frames, strict=True)]

    @property
    def energies_file(self) -> Path:
        """npz with the energies of all frames at all temperatures (``u_kn``, ``N_k``), as MBAR needs them.

        See :meth:`cgal_plugin.dynamics.exchange_file.FrameTable.save_energies`.
        """
        self._tempered()
        return self.out_dir / ENERGIES

    def load_temperature(self, temperature: float | None = None) -> list[NDArray[np.float32]]:
        """Return the frames at a temperature (K): ``(n, beads, 3)`` Å for each ladder, in time order.

        Default: :attr:`temperature`. Without parallel tempering, the frames of each replica.

        Raises
        ------
        DynamicsError
            It is none of the temperatures of the simulation.
        """
        wanted = self.temperature if temperature is None else temperature
        if self._table is None and wanted == self.temperature:
            return self.load()
        return by_ladder(self._tempered(), self.load(), self._rung(wanted))

    def walker_temperatures(self, walker: int) -> NDArray[np.float64]:
        """Return the temperature at each frame of a walker, ``(n_frames[walker],)`` K."""
        table = self._tempered()
        found: NDArray[np.float64] = np.array(table.temperatures)[table.rungs(walker)]
        return found

    def save_temperatures(self, temperatures: Sequence[float] | None = None) -> list[tuple[Path, ...]]:
        """Write the frames at temperatures (K; default: all) as DCD files; return those of each ladder.

        They are in the folder ``temperatures/T`` of :attr:`out_dir`, which records their temperature; frame
        i of each is one report after frame i - 1, unless a walker blew up.

        Raises
        ------
        DynamicsError
            A temperature is none of those of the simulation.
        """
        table = self._tempered()
        wanted = self.temperatures if temperatures is None else tuple(temperatures)
        rungs = [self._rung(t) for t in wanted]
        return save_by_temperature(table, self.load(), self.out_dir, rungs, self._timing)

    def _tempered(self) -> FrameTable:
        if self._table is None:
            raise DynamicsError(f"{str(self.out_dir)!r} has one temperature, {self.temperature} K")
        return self._table

    def _rung(self, temperature: float | None) -> int:
        try:
            return rung_of(self.temperatures, float("nan") if temperature is None else temperature)
        except ValueError as error:
            raise DynamicsError(f"{str(self.out_dir)!r}: {error}") from None

    @classmethod
    def of(
        cls, folder: SimulationFolder, done: Progress, backend: str, temperature: float | None = None
    ) -> SimulationResult:
        """Return the result of a finished simulation.

        Raises
        ------
        StateError
            The exchange file is damaged.
        """
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
            temperatures=folder.temperatures,
            tempering=folder.recorded("tempering") or {},
            _table=folder.frame_table(done),
            _timing=folder.frame_timing(),
        )


def load_simulation(out_dir: str | os.PathLike[str]) -> SimulationResult:
    """Load a complete simulation of :func:`cgal_plugin.dynamics.simulate` without running anything.

    Raises
    ------
    StateError
        The folder holds no simulation or an incomplete one, or a file in it is damaged.
    """
    folder, inputs = SimulationFolder.existing(Path(out_dir))
    progress, _ = folder.load_checkpoint()
    if not folder.is_complete(progress):
        raise StateError(
            f"the simulation in {str(folder.root)!r} is incomplete ({progress.step} steps done); "
            "call simulate() with the same arguments to resume it"
        )
    folder.check_trajectories(progress)
    return SimulationResult.of(folder, progress, inputs["backend"], inputs.get("temperature"))
