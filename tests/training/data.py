"""A small data store with known forces."""

from __future__ import annotations

import numpy as np

from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.mapping import CGTopology


def make_store(root, *, n=120, rounds=2, noise=0.5, seed=0, embedding="cgal"):
    """Write frames of YYDPE with harmonic bonds, in ``rounds`` shards of correlated blocks of ten."""
    topology = CGTopology.from_sequence("YYDPE").with_embedding(embedding)
    rng = np.random.default_rng(seed)
    store = DataStore.create(root, topology, temperature=400.0, force_map_hash="test")
    base = np.stack([3.3 * np.arange(5), 1.6 * (np.arange(5) % 2), 0.4 * np.arange(5) ** 2], axis=-1)
    for number in range(rounds):
        pos = base + rng.normal(size=(n // rounds, 5, 3)) * 0.3
        bond = pos[:, 1:] - pos[:, :-1]
        length = np.linalg.norm(bond, axis=-1, keepdims=True)
        pull = -20 * (length - 3.8) * bond / length
        forces = rng.normal(size=pos.shape) * noise
        forces[:, 1:] += pull
        forces[:, :-1] -= pull
        frames = LabelledFrames(
            positions=pos,
            forces=forces,
            frame_index=np.arange(len(pos)) // 10,
            start_index=np.zeros(len(pos), dtype=np.int64),
            force_error=np.full(len(pos), np.nan),
            metadata={"temperature": 400.0, "force_map_hash": "test"},
        )
        source = "seed" if number == 0 else f"round_{number:03d}"
        store.append(f"label_{number:03d}", frames, source=source, round=number)
    return store
