"""The folder of a simulation: manifest, checkpoint, trajectories and lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.data.dcd import append_dcd, checksum_dcd, create_dcd
from cgal_plugin.dynamics.clean_up import undone_on_failure
from cgal_plugin.dynamics.exchange_file import (
    EXCHANGES,
    FrameTable,
    append_records,
    read_records,
    record_dtype,
)
from cgal_plugin.dynamics.progress import Progress, damaged, parse_progress
from cgal_plugin.dynamics.tempering import ExchangeState
from cgal_plugin.errors import DamageError, DynamicsError, StateError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_path, atomic_write, read_sealed, versions, write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology

MANIFEST = "simulation.json"
CHECKPOINT = "checkpoint.npz"
TOPOLOGY = "topology.pdb"
_FORMAT = 1


class SimulationFolder:
    """Files of one simulation.

    Trajectories are written first, then the checkpoint, atomically. After a killed process trajectories may
    be ahead of the checkpoint; they are truncated on resume.
    """

    def __init__(self, root: Path, n_replicas: int, temperatures: Sequence[float] = ()) -> None:
        self.root = root
        self.n_replicas = n_replicas
        self.temperatures = tuple(temperatures)
        width = max(3, len(str(n_replicas - 1)))
        # another name, because the frames of a walker are at several temperatures
        name = "walker" if temperatures else "replica"
        self.trajectories = tuple(root / f"{name}_{r:0{width}d}.dcd" for r in range(n_replicas))
        self.topology_file = root / TOPOLOGY
        self._new = False  # the files of a new simulation were created here, in this call

    @classmethod
    def existing(cls, root: Path) -> tuple[SimulationFolder, dict[str, Any]]:
        """Return the folder and the inputs of an existing simulation.

        Raises
        ------
        StateError
            There is no simulation in ``root``.
        """
        if not ((root / MANIFEST).is_file() and (root / CHECKPOINT).is_file()):
            raise StateError(f"{str(root)!r} holds no simulation: {MANIFEST} or {CHECKPOINT} is missing")
        inputs = _read_inputs(root / MANIFEST)
        n = inputs.get("n_replicas")
        if not isinstance(n, int) or n < 1:
            raise damaged(root / MANIFEST, f"n_replicas is {n!r}")
        return cls(root, n, inputs.get("temperatures") or ()), inputs

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder; the lock is released when the process ends, for any reason.

        If the block fails before the first step of a new simulation, what was created is deleted, folders
        included, so that a corrected call finds nothing of the refused one.

        Raises
        ------
        StateError
            Another process runs in this folder.
        """
        with undone_on_failure(self.root, f"simulation folder {str(self.root)!r}", self._created):
            yield

    def _created(self) -> list[Path]:
        """Return the files of a new simulation that has no step yet."""
        if not self._new or ((self.root / CHECKPOINT).is_file() and self.load_checkpoint()[0].step > 0):
            return []
        names = (EXCHANGES, CHECKPOINT, TOPOLOGY, MANIFEST)
        return [*self.trajectories, *(self.root / name for name in names)]

    def open(
        self,
        inputs: dict[str, Any],
        topology: CGTopology,
        start: NDArray[np.float64],
        facts: dict[str, Any] | None = None,
    ) -> bool:
        """Create the first files of the folder, or check that they belong to the same simulation.

        ``facts`` are recorded in the manifest, and not compared.

        Returns
        -------
        bool
            Whether there is a simulation to resume.

        Raises
        ------
        StateError
            The folder holds another simulation (the message lists the differences), or unknown files.
        """
        manifest = self.root / MANIFEST
        if manifest.is_file() and (self.root / CHECKPOINT).is_file():
            self._compare(inputs)
            return True
        # a call that failed before its first step leaves a manifest without a checkpoint
        unknown = (
            []
            if manifest.is_file()
            else sorted(p.name for name in ("replica", "walker") for p in self.root.glob(f"{name}_*.dcd"))
        )
        if unknown and (self.root / CHECKPOINT).is_file():
            raise damaged(manifest, "it is missing")
        if unknown:
            raise StateError(
                f"{str(self.root)!r} has trajectories ({', '.join(unknown[:3])}) but no {MANIFEST}; "
                "use another out_dir or remove them"
            )
        import mdtraj

        self._new = True
        centred = (start[0] - start[0].mean(axis=0)) / 10.0
        frame = mdtraj.Trajectory(centred[None], topology.to_mdtraj())
        atomic_path(self.topology_file, lambda name: frame.save_pdb(name))
        content = {"format": _FORMAT, "inputs": inputs, "status": "running", "versions": versions()}
        write_sealed(manifest, content | (facts or {}))
        return False

    def _compare(self, inputs: dict[str, Any]) -> None:
        old, new = _read_inputs(self.root / MANIFEST), json.loads(json.dumps(inputs))
        changed = [
            f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if changed:
            raise StateError(
                f"{str(self.root)!r} holds a simulation with other inputs ({'; '.join(changed)}); "
                "use another out_dir, or the same inputs to resume it"
            )

    def create_trajectories(self, n_beads: int, interval: int, timestep_ps: float) -> None:
        """Create empty trajectories; files of a start without a checkpoint are replaced."""
        for path in self.trajectories:
            create_dcd(path, n_beads, interval=interval, timestep_ps=timestep_ps)

    def append(
        self,
        frames: Sequence[NDArray[np.floating]],
        before: Sequence[int],
        interval: int,
        timestep_ps: float,
        checksums: Sequence[int] = (),
    ) -> list[int]:
        """Append ``frames[r]`` ``(n, beads, 3)`` Å to replica r after its first ``before[r]`` frames.

        ``checksums`` are those of the frames to keep; return those of all frames.
        """
        known = list(checksums) or [0] * len(self.trajectories)
        return [
            append_dcd(path, new, n_before=kept, interval=interval, timestep_ps=timestep_ps, checksum=sum_)
            for path, new, kept, sum_ in zip(self.trajectories, frames, before, known, strict=True)
        ]

    def check_trajectories(self, progress: Progress) -> None:
        """Compare the stored frames with their checksums.

        Raises
        ------
        StateError
            A trajectory is missing or damaged.
        """
        for path, n, known in zip(self.trajectories, progress.frames, progress.checksums, strict=False):
            state = _state(path, n, known)
            if state != "intact":
                raise DamageError(
                    f"trajectory {str(path)!r} is {state}; delete {str(self.root)!r} to simulate again, "
                    "or use another out_dir"
                )

    def append_exchanges(self, records: Sequence[NDArray[np.void]], state: ExchangeState) -> None:
        """Append records of parallel tempering after those that ``state`` counts, and count them."""
        new = np.concatenate([np.empty(0, dtype=record_dtype(self.n_replicas)), *records])
        state.checksum = append_records(self.root / EXCHANGES, new, state.records, state.checksum)
        state.records += len(new)

    def frame_table(self, progress: Progress) -> FrameTable | None:
        """Return rung and energy of every frame; None without parallel tempering.

        Raises
        ------
        StateError
            The exchange file is missing or damaged.
        """
        state = progress.exchanges
        if state is None:
            return None
        path = self.root / EXCHANGES
        records = read_records(path, self.n_replicas, state.records, state.checksum)
        return FrameTable(self.temperatures, records)

    def save_checkpoint(self, progress: Progress, binary: bytes) -> None:
        """Write the OpenMM checkpoint and the progress to one file, atomically."""
        ours = np.array(json.dumps(asdict(progress)))
        with atomic_write(self.root / CHECKPOINT) as handle:
            np.savez(handle, openmm=np.frombuffer(binary, dtype=np.uint8), progress=ours)

    def load_checkpoint(self) -> tuple[Progress, bytes]:
        """Load a file of :meth:`save_checkpoint`.

        Raises
        ------
        StateError
            The file is damaged.
        """
        path = self.root / CHECKPOINT
        try:
            check_archive(path)
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as data:
                binary = data["openmm"].tobytes()
                content = json.loads(str(data["progress"]))
        except BAD_ARCHIVE as error:
            raise damaged(path, error) from error
        return parse_progress(content, path), binary

    def finish(self, progress: Progress, results: dict[str, Any] | None = None) -> None:
        """Record the completed simulation, and other ``results``, in the manifest."""
        manifest = _read(self.root / MANIFEST)
        done: dict[str, Any] = {
            "steps_done": progress.step,
            "n_frames": progress.frames,
            "timings": progress.timings(),
        }
        events = [asdict(event) for event in progress.events]
        done |= {"events": events, "status": "complete"}
        write_sealed(self.root / MANIFEST, manifest | done | (results or {}))

    def frame_timing(self) -> tuple[int, float]:
        """Return the number of steps between frames, and the time step in ps."""
        inputs = _read_inputs(self.root / MANIFEST)
        return inputs["report_interval"], inputs["timestep_fs"] / 1000.0

    def recorded(self, key: str) -> Any:
        """Return a value of the manifest; None if it has none."""
        return _read(self.root / MANIFEST).get(key)

    def is_complete(self, progress: Progress) -> bool:
        """Return whether the manifest records exactly this progress as complete."""
        manifest = _read(self.root / MANIFEST)
        return manifest.get("status") == "complete" and manifest.get("steps_done") == progress.step


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = read_sealed(path)
        if not isinstance(manifest.get("inputs", {}), dict):
            raise TypeError("inputs is not a section")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged(path, error) from error
    if manifest.get("format") != _FORMAT:
        raise StateError(f"{str(path)!r} is not a manifest of format {_FORMAT}; use another out_dir")
    return manifest


def _read_inputs(path: Path) -> dict[str, Any]:
    manifest = _read(path)
    if not isinstance(manifest.get("inputs"), dict):
        raise damaged(path, "it has no inputs")
    return cast("dict[str, Any]", manifest["inputs"])


def _state(path: Path, n_frames: int, checksum: int) -> str:
    if not path.is_file():
        return "missing"
    try:
        return "intact" if checksum_dcd(path, n_frames) == checksum else "damaged"
    except DynamicsError:
        return "damaged"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
