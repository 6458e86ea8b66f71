"""Wall time and peak memory of the data path on a store of a million frames of ten beads.

    python tests/benchmarks/bench_million.py                                # 10^6 frames, some minutes
    python tests/benchmarks/bench_million.py --frames 20000 --json out.json # a short run
    python tests/benchmarks/bench_million.py --store DIR                    # keep the store for a second run

Three steps, each in a fresh process: open the data set, draw 1,000 training batches of 128 frames as the
trainer does, and compute the coverage of 64 x 100 candidates and select 16 of them as a round of the loop
does. Imports are not timed; the peak is the resident memory of the whole process, printed beside the
resident memory after the imports. The digest of each step's results allows two versions to be compared.
The script runs on older versions as well (``PYTHONPATH=/path/to/old``): it uses ``DataStore.positions``
and ``select_with`` only where they exist.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHARD = 2500
BLOCK = 50
BATCH = 128
N_BATCHES = 1000
SEQUENCE = "YYDPETGTWY"
STEPS = {
    "open": "open the data set",
    "batches": f"{N_BATCHES} batches of {BATCH}",
    "select": "coverage and selection, 64 x 100 candidates",
}


def build(root: Path, n_frames: int) -> None:
    """Write a store of ``n_frames`` frames in shards of 2,500, with blocks of 50 frames, once."""
    from bench_selector import simulate

    from cgal_plugin.data import DataStore, LabelledFrames
    from cgal_plugin.mapping import CGTopology

    if (root / "complete").exists():
        return
    store = DataStore.create(
        root / "store", CGTopology.from_sequence(SEQUENCE), temperature=400.0, force_map_hash="benchmark"
    )
    np.save(root / "candidates.npy", simulate(64, 100, seed=1, steps=5))
    pool = simulate(200, 100, seed=2, steps=5)
    rng = np.random.default_rng(3)
    for number, first in enumerate(range(0, n_frames, SHARD)):
        n = min(SHARD, n_frames - first)
        rows = (rng.integers(len(pool)) + np.arange(n)) % len(pool)
        shape = (n, *pool.shape[1:])
        frames = LabelledFrames(
            positions=pool[rows] + rng.normal(scale=0.3, size=shape).astype(np.float32),
            forces=rng.normal(scale=5.0, size=shape).astype(np.float32),
            frame_index=np.arange(n) // (4 * BLOCK),
            start_index=np.arange(n) // BLOCK % 4,
            force_error=np.ones(n, dtype=np.float32),
            metadata={"temperature": 400.0, "force_map_hash": "benchmark"},
        )
        store.append(f"s{number:05d}", frames, source="seed" if number < 20 else f"round_{number % 5:03d}")
    (root / "complete").touch()


def digest(*arrays: Any) -> str:
    """First eight hex digits of the SHA-256 of the arrays' bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:8]


def open_step(root: Path) -> Callable[[], Any]:
    """Open the data set."""
    from cgal_plugin.data import CGDataset

    def work() -> str:
        dataset = CGDataset(root / "store")
        return digest(dataset.frames, dataset.forces, dataset.items, dataset.block)

    return work


def batches_step(root: Path) -> Callable[[], Any]:
    """Draw batches from the trainer's own loader; opening and splitting the data set are not timed."""
    from cgal_plugin.data import CGDataset, block_splits
    from cgal_plugin.training.lightning import SeededDataModule

    dataset = CGDataset(root / "store")
    folder = tempfile.mkdtemp(dir=root)
    hparams = {
        "splits": str(block_splits(dataset, Path(folder) / "split.npz")), "log_dir": folder,
        "train_size": None, "val_size": None, "test_size": None, "seed": 1, "standardize": False,
        "batch_size": BATCH, "inference_batch_size": BATCH, "num_workers": 0,
    }  # fmt: skip
    data = SeededDataModule(hparams, dataset, 1)

    def work() -> str:
        data.setup("fit")
        found, drawn = hashlib.sha256(), 0
        while drawn < N_BATCHES:
            for batch in data.train_dataloader():
                found.update(batch.pos[0].numpy().tobytes())
                drawn += 1
                if drawn == N_BATCHES:
                    break
        return found.hexdigest()[:8]

    return work


def select_step(root: Path) -> Callable[[], Any]:
    """Compute the coverage of the candidates and select among them."""
    from cgal_plugin.data import DataStore
    from cgal_plugin.selector import RMSDSelector, nearest_rmsd

    store, candidates = DataStore(root / "store"), np.load(root / "candidates.npy")
    selector = RMSDSelector(16, min_rmsd=0.3)

    def work() -> str:
        if hasattr(selector, "select_with"):
            reference = store.positions(store.names())
            distance = nearest_rmsd(candidates, reference)[0]
            chosen = selector.fit(reference).select_with(candidates, distance)
        else:  # each stage read the store and searched it
            distance = nearest_rmsd(candidates, store.load_all(store.names()).positions)[0]
            chosen = selector.fit(store.load_all(store.names()).positions).select(candidates)
        return digest(distance, chosen.indices, chosen.distances)

    return work


def measure(step: str, root: Path) -> dict[str, Any]:
    """Run one step in this process."""
    work = {"open": open_step, "batches": batches_step, "select": select_step}[step](root)
    before = _resident()
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return {
        "step": STEPS[step],
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before_MB": round(before),
        "digest": found,
    }


def _resident() -> float:
    """Resident memory of this process, MB; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if path.is_file() else 0.0


def main(argv: list[str] | None = None) -> None:
    """Build the store, run the steps, print a table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames in the store")
    parser.add_argument("--store", type=Path, help="folder for the store; kept (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the table as JSON")
    parser.add_argument("--step", choices=STEPS, help="run this step only, in this process; prints JSON")
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(measure(args.step, args.store)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = args.store or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        build(root, args.frames)
        rows = []
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--store", str(root)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':45s}{'wall s':>9s}{'CPU s':>9s}{'peak MB':>9s}{'before':>8s}  digest")
    for row in rows:
        print(
            f"{row['step']:45s}{row['wall_s']:9.2f}{row['cpu_s']:9.2f}"
            f"{row['peak_MB']:9.0f}{row['before_MB']:8.0f}  {row['digest']}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
