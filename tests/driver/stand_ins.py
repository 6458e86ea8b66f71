"""Components of a user's own that cost nothing, for tests of what happens around them."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.protocols import SampledFrames, TrainedModel, TrainRequest
from cgal_plugin.config import Config, parse_config
from cgal_plugin.data import DataStore, LabelledFrames, Quarantined
from cgal_plugin.mapping import CGTopology

TOPOLOGY = CGTopology.from_sequence("GYGAG")


def made_store(folder: Path) -> Path:
    """A data store of a chain that nobody simulated."""
    store = DataStore.create(folder, TOPOLOGY, temperature=400.0, force_map_hash="none")
    rng = np.random.default_rng(0)
    frames = np.arange(5)[:, None] * [3.0, 2.0, 1.0] + rng.normal(scale=0.3, size=(40, 5, 3))
    if not store.names():
        store.append("s", spring_label(frames), source="seed")
    return folder


def config(folder: Path, **changes: Any) -> Config:
    """A run on :func:`made_store`."""
    values: dict[str, Any] = {
        "system": {"sequence": "GYGAG", "temperature": 400.0},
        "seed_data": {"store": str(made_store(folder / "store"))},
        "selector": {"kind": "random", "n_select": 10, "max_rmsd": None},
        "stopping": {"rounds": 1},
        "training": {"mode": "finetune"},
        "refinement": None,
        "executor": {"workers": 0},
        **changes,
    }
    return parse_config(values)


def spring_label(frames: Any) -> LabelledFrames:
    """Forces of springs to the centre."""
    frames = np.asarray(frames)
    index = np.arange(len(frames))
    forces = -0.1 * (frames - frames.mean(axis=1, keepdims=True))
    return LabelledFrames(frames, forces, index, 0 * index, np.zeros(len(frames)))


def share(frame: Any) -> float:
    """A number from 0 to 1 that belongs to a frame."""
    digest = hashlib.sha256(np.ascontiguousarray(frame, dtype=np.float32).tobytes()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


class Fails:
    """Springs that fail for a share of the frames, in a way that depends on the frame."""

    def __init__(self, rate: float, ways: tuple[str, ...] = ("refuse", "raise")) -> None:
        self.rate = rate
        self.ways = ways

    def way(self, frame: Any) -> str:
        """What happens to a frame."""
        x = share(frame)
        return "label" if x >= self.rate else self.ways[int(x / self.rate * len(self.ways))]

    def label(self, frames: Any) -> LabelledFrames:
        """One frame."""
        way = self.way(frames[0])
        if way == "refuse":
            empty, none = np.zeros((0, *frames.shape[1:])), np.zeros(0, dtype=int)
            refused = [Quarantined(0, f"no sound structure ({share(frames[0]):.3f})", "library")]
            return LabelledFrames(empty, empty, none, none, np.zeros(0), refused)
        if way == "raise":
            raise ValueError(f"a bug that shows at {share(frames[0]):.3f}")
        if way == "hang":
            time.sleep(3600)
        if way == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return spring_label(frames)


class Slow:
    """Springs that take a while, and note that they were asked."""

    def __init__(self, seconds: float, folder: str) -> None:
        self.seconds = seconds
        self.folder = folder

    def label(self, frames: Any) -> LabelledFrames:
        """One frame."""
        path = Path(self.folder) / f"{share(frames[0]):.9f}-{os.getpid()}-{os.getppid()}-{time.time_ns()}"
        path.touch()
        time.sleep(self.seconds)
        return spring_label(frames)


class Noise:
    """A sampler: noise about the start."""

    n_replicas = 4

    def sample(
        self, potential: Path, topology: Any, start_positions: Any, *, seed: int, **_: Any
    ) -> SampledFrames:
        """Five frames a replica."""
        noise = np.random.default_rng(seed).normal(scale=0.3, size=(4, 5, topology.n_beads, 3))
        return SampledFrames(list((start_positions[:, None] + noise).astype(np.float32)))


class Untrained:
    """A trainer that trains nothing."""

    def prepare(self, store: DataStore, out_dir: Path) -> None:
        """Nothing."""

    def train(self, request: TrainRequest, progress: Any = None) -> TrainedModel:
        """A file."""
        path = request.out_dir / "model.ckpt"
        path.write_bytes(str(request.seed).encode())
        return TrainedModel(path)

    def export(self, model: TrainedModel, topology: Any, path: Path, n_replicas: int) -> None:
        """A copy."""
        path.write_bytes(model.checkpoint.read_bytes())


class Springs:
    """An oracle whose forces are those of springs to the centre."""

    def label(self, frames: Any) -> LabelledFrames:
        """One label per frame."""
        return spring_label(frames)


def cheap() -> dict[str, Any]:
    """Sampler and trainer of no cost."""
    return {"sampler": Noise(), "trainer": Untrained()}
