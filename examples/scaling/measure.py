"""Measure the cost of each part of a round on one core of this machine, for chains of several lengths.

    OMP_NUM_THREADS=1 python measure.py -o rates.json                  # some minutes, on an idle machine
    OMP_NUM_THREADS=1 python measure.py -o rates.json --residues 5 8 --short   # a quick test

Times are CPU time of the process. `plan.py` fits power laws to them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TEMPERATURE = 400.0


def clocked(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time (seconds) of a call, and its result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def chain(n_frames: int, n_beads: int, seed: int = 0) -> np.ndarray:
    """Return frames ``(n_frames, n_beads, 3)`` Å of a fluctuating chain, for timing only."""
    rng = np.random.default_rng(seed)
    turns, frames = np.zeros((n_beads - 1, 3)), np.zeros((n_frames, n_beads, 3))
    for k in range(n_frames):
        turns = 0.98 * turns + rng.normal(scale=0.12, size=turns.shape)
        bonds = np.array([1.0, 0.0, 0.0]) + np.cumsum(turns, axis=0)
        bonds *= 3.8 / np.linalg.norm(bonds, axis=1, keepdims=True)
        frames[k, 1:] = np.cumsum(bonds, axis=0)
    return frames


def oracle(sequence: str, short: bool) -> dict[str, float]:
    """Measure all-atom MD (seconds per ps, OBC2) and backmapping (seconds per frame)."""
    from cgal_plugin.oracle import AllAtomLibrary, OpenMMOracle, backmap

    made = OpenMMOracle(sequence, temperature=TEMPERATURE)
    made.run("auto", 0.04, seed=1, equilibrate_ps=0.04)  # warm-up: OpenMM compiles its kernels
    length = 0.4 if short else 4.0
    seconds, trajectory = clocked(lambda: made.run("auto", length, seed=2, save_ps=0.04, equilibrate_ps=0.04))
    library = AllAtomLibrary(made.model)
    library.add(trajectory.positions[::4])
    frames = made.mapping.map_positions(trajectory.positions)[1 :: 2 if short else 20][:4]
    mapping, results = clocked(
        lambda: backmap(frames, made.model, library=library, methods=("library",), seed=3)
    )
    assert any(r.ok for r in results), [r.reason for r in results]
    return {
        "atoms": made.model.n_solute,
        "md_seconds_per_ps": seconds / (length + 0.04),
        "backmap_seconds": mapping / len(frames),
    }


def network(sequence: str, features: int, layers: int, short: bool) -> dict[str, float]:
    """Measure training (s per frame and epoch) and CG dynamics (s per replica-step, 16 replicas)."""
    from cgal_plugin.data import DataStore, LabelledFrames
    from cgal_plugin.dynamics import simulate
    from cgal_plugin.export import export_torchscript
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.training import train

    topology = CGTopology.from_sequence(sequence)
    n = 100 if short else 1000
    frames = chain(n, topology.n_beads)
    forces = np.random.default_rng(1).normal(scale=5.0, size=frames.shape)
    index = np.arange(n)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = DataStore.create(root / "data", topology, temperature=TEMPERATURE, force_map_hash="none")
        labelled = LabelledFrames(frames, forces, index, 0 * index, np.zeros(n))
        store.append("s", labelled, source="seed")
        hparams = {
            "embedding_dimension": features,
            "num_layers": layers,
            "batch_size": 64,
            "num_epochs": 1,
            "prior_model": ["CGBonds"],
            "dataset_root": str(store.root),
        }
        train(hparams, root / "model", seed=1)  # warm-up: imports and the first epoch
        seconds, result = clocked(lambda: train({**hparams, "num_epochs": 3}, root / "model", seed=1))
        training = seconds / (2 * 0.9 * n)
        potential = root / "potential.pt"
        export_torchscript(result.checkpoint, topology, potential, n_replicas=16)
        steps = 20 if short else 500
        options = {"timestep_fs": 1.0, "temperature": 10.0, "friction": 1.0, "report_interval": steps}
        simulate(potential, topology, frames[:16], steps=steps, out_dir=root / "warm", **options)
        seconds, _ = clocked(
            lambda: simulate(
                potential, topology, frames[:16], steps=2 * steps, out_dir=root / "warm", **options
            )
        )
    return {
        "beads": topology.n_beads,
        "train_seconds_per_frame": training,
        "cg_seconds_per_step": seconds / (16 * steps),
    }


def selection(n_beads: int, short: bool) -> dict[str, float]:
    """Measure exact nearest RMSD (seconds per pair of candidate and reference frame)."""
    from cgal_plugin.selector import nearest_rmsd

    candidates, reference = chain(500, n_beads, 1), chain(1000 if short else 20000, n_beads, 2)
    nearest_rmsd(candidates[:10], reference[:100], n_threads=1)
    seconds, _ = clocked(lambda: nearest_rmsd(candidates, reference, n_threads=1))
    return {"pair_seconds": seconds / (len(candidates) * len(reference))}


def main() -> None:
    """Measure chains of all lengths and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--residues", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    import torch

    from cgal_plugin.provenance import versions

    torch.set_num_threads(1)
    rows = []
    for n in options.residues:
        sequence = ("YYDPETGTWY" * (1 + n // 10))[:n]
        row: dict[str, float] = {"residues": n}
        row |= oracle(sequence, options.short)
        row |= network(sequence, options.features, options.layers, options.short)
        row |= selection(int(row["beads"]), options.short)
        rows.append(row)
        print(json.dumps(row), flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    content = {"rows": rows, "features": options.features, "layers": options.layers}
    content |= {"machine": machine, "versions": versions()}
    options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
