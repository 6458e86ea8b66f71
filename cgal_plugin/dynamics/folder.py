"""The folder of a simulation: manifest, checkpoint, trajectories, and the lock that guards them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.dcd import append_dcd, checksum_dcd, create_dcd
from cgal_plugin.errors import StateError
from cgal_plugin.file_lock import locked
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_path, atomic_write, read_json, versions, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology

MANIFEST = "simulation.json"
CHECKPOINT = "checkpoint.npz"
TOPOLOGY = "topology.pdb"
_FORMAT = 1


@dataclass
class Progress:
    """Where a simulation stands: what a checkpoint holds, beside OpenMM's own.

    Attributes
    ----------
    step
        Steps done.
    frames
        Frames stored of each replica.
    parked
        Replicas that blew up and are no longer propagated.
    restarts
        Times that each replica was started again.
    seconds
        Wall time of all runs so far.
    checksums
        CRC-32 of each replica's stored frames; empty before there are any.
    """

    step: int
    frames: list[int]
    parked: list[bool]
    restarts: list[int]
    events: list[BlowUp] = field(default_factory=list)
    seconds: float = 0.0
    checksums: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, n_replicas: int) -> Progress:
        """Nothing done yet."""
        return cls(0, [0] * n_replicas, [False] * n_replicas, [0] * n_replicas)

    def finished(self, steps: int) -> bool:
        """Whether nothing is left to do: all steps done, or no replica left."""
        return self.step >= steps or all(self.parked)


class SimulationFolder:
    """Files of one simulation.

    Order of writing: trajectories first, then the checkpoint, which appears whole or not at all.
    A killed process leaves trajectories that may run ahead of the checkpoint; they are cut back.
    """

    def __init__(self, root: Path, n_replicas: int) -> None:
        self.root = root
        self.n_replicas = n_replicas
        width = max(3, len(str(n_replicas - 1)))
        self.trajectories = tuple(root / f"replica_{r:0{width}d}.dcd" for r in range(n_replicas))
        self.topology_file = root / TOPOLOGY

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process, however it ends.

        Raises
        ------
        StateError
            Another process runs in this folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / ".lock", f"simulation folder {str(self.root)!r}"):
            yield

    def open(self, inputs: dict[str, Any], topology: CGTopology, start: NDArray[np.float64]) -> bool:
        """Make the folder's first files, or check that they belong to the same simulation.

        Returns
        -------
        bool
            Whether there is a simulation to continue.

        Raises
        ------
        StateError
            The folder holds another simulation (the differences are named), or files of unknown origin.
        """
        manifest = self.root / MANIFEST
        if manifest.is_file() and (self.root / CHECKPOINT).is_file():
            self._compare(read_json(manifest), inputs)
            return True
        # a manifest without a checkpoint is of a call that failed before its first step
        strangers = [] if manifest.is_file() else sorted(p.name for p in self.root.glob("replica_*.dcd"))
        if strangers:
            raise StateError(
                f"{str(self.root)!r} has trajectories ({', '.join(strangers[:3])}) but no {MANIFEST}; "
                "use another out_dir or remove them"
            )
        import mdtraj

        centred = (start[0] - start[0].mean(axis=0)) / 10.0
        frame = mdtraj.Trajectory(centred[None], topology.to_mdtraj())
        atomic_path(self.topology_file, lambda name: frame.save_pdb(name))
        content = {"format": _FORMAT, "inputs": inputs, "status": "running", "versions": versions()}
        write_json(manifest, content)
        return False

    def _compare(self, manifest: Any, inputs: dict[str, Any]) -> None:
        name = str(self.root / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise StateError(f"{name!r} is not a manifest of format {_FORMAT}; use another out_dir")
        old, new = manifest["inputs"], json.loads(json.dumps(inputs))
        changed = [
            f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if changed:
            raise StateError(
                f"{str(self.root)!r} holds a simulation with other inputs ({'; '.join(changed)}); "
                "use another out_dir, or the same inputs to continue it"
            )

    def create_trajectories(self, n_beads: int, interval: int, timestep_ps: float) -> None:
        """Empty trajectories, over whatever an earlier start without a checkpoint left."""
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

        ``checksums`` are those of what is kept; returns those of all.
        """
        known = list(checksums) or [0] * len(self.trajectories)
        return [
            append_dcd(path, new, n_before=kept, interval=interval, timestep_ps=timestep_ps, checksum=sum_)
            for path, new, kept, sum_ in zip(self.trajectories, frames, before, known, strict=True)
        ]

    def check_trajectories(self, progress: Progress, n_beads: int) -> None:
        """Check that the stored frames are those that were written.

        Raises
        ------
        StateError
            A trajectory is missing or damaged.
        """
        for path, n, known in zip(self.trajectories, progress.frames, progress.checksums, strict=False):
            if not path.is_file() or checksum_dcd(path, n, n_beads) != known:
                state = "damaged" if path.is_file() else "gone"
                raise StateError(
                    f"trajectory {str(path)!r} is {state}; delete {str(self.root)!r} to simulate again, "
                    "or use another out_dir"
                )

    def save_checkpoint(self, progress: Progress, binary: bytes) -> None:
        """Write OpenMM's checkpoint and ours as one file, atomically."""
        ours = np.array(json.dumps(asdict(progress)))
        with atomic_write(self.root / CHECKPOINT) as handle:
            np.savez(handle, openmm=np.frombuffer(binary, dtype=np.uint8), progress=ours)

    def load_checkpoint(self) -> tuple[Progress, bytes]:
        """Inverse of :meth:`save_checkpoint`.

        Raises
        ------
        StateError
            The file is damaged.
        """
        path = self.root / CHECKPOINT
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as data:
                binary = data["openmm"].tobytes()
                content = json.loads(str(data["progress"]))
        except BAD_ARCHIVE as error:
            raise StateError(
                f"checkpoint {str(path)!r} is damaged ({error}); delete {str(self.root)!r} "
                "to simulate again, or use another out_dir"
            ) from error
        content["events"] = [BlowUp(**event) for event in content["events"]]
        return Progress(**content), binary

    def finish(self, progress: Progress, timings: dict[str, float]) -> None:
        """Note in the manifest what was done."""
        manifest = read_json(self.root / MANIFEST)
        done = {"steps_done": progress.step, "n_frames": progress.frames, "timings": timings}
        events = [asdict(event) for event in progress.events]
        write_json(self.root / MANIFEST, manifest | done | {"events": events, "status": "complete"})

    def is_complete(self, progress: Progress) -> bool:
        """Whether the manifest says that just this has been done."""
        manifest = read_json(self.root / MANIFEST)
        return manifest["status"] == "complete" and manifest["steps_done"] == progress.step


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
