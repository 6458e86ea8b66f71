"""The rates that `cgal run --dry-run` reckons with: chignolin on one core of this machine.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rates.py RUN_DIR

RUN_DIR is a finished run of examples/chignolin/quick.yaml. Wall time: run it on an idle machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main(run_dir: Path) -> None:
    """Measure and print each rate."""
    import torch

    torch.set_num_threads(1)
    from cgal_plugin.data import DataStore
    from cgal_plugin.dynamics import simulate
    from cgal_plugin.export import export_torchscript
    from cgal_plugin.mapping.forces import ForceMap
    from cgal_plugin.oracle import AllAtomLibrary, OpenMMOracle, backmap
    from cgal_plugin.runs.directory import RunDirectory

    config = RunDirectory(run_dir).config()
    store = DataStore(run_dir / "data")
    oracle = OpenMMOracle(config.system.sequence, temperature=config.system.temperature)
    oracle = oracle.with_force_map(ForceMap.load(run_dir / "seed" / "force_map.npz"))
    oracle.run("folded", 0.4, seed=1, equilibrate_ps=0.2)
    started = time.perf_counter()
    oracle.run("folded", 40.0, seed=2, save_ps=0.1, equilibrate_ps=0.2)
    print(
        f"oracle_ns_per_day          {0.04 / (time.perf_counter() - started) * 86400:8.0f}  obc2, one thread"
    )

    library = AllAtomLibrary.load(run_dir / "seed" / "library.npz", oracle.model)
    with np.load(run_dir / "rounds" / "round_000" / "select" / "selected.npz") as selected:
        frames = selected["positions"]
    started = time.perf_counter()
    results = backmap(frames, oracle.model, library=library)
    seconds = (time.perf_counter() - started) / len(frames)
    print(f"backmap_seconds            {seconds:8.2f}  {sum(r.ok for r in results)} of {len(frames)} sound")

    train = run_dir / "rounds" / "round_000" / "train"
    rows = (train / "model_000" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("seconds")
    epoch = float(np.median([float(row.split(",")[column]) for row in rows[1:]]))
    n_frames = sum(store.record(n)["n_frames"] for n in store.names() if n.startswith("seed_"))
    print(f"training_frames_per_second {n_frames / epoch:8.0f}  as recorded by the run, validation included")

    with tempfile.TemporaryDirectory() as folder:
        potential = Path(folder) / "potential.pt"
        export_torchscript(run_dir / "model.ckpt", store.topology, potential, n_replicas=16)
        start = store.load(store.names()[0]).positions[:16]
        options = {"timestep_fs": 4.0, "temperature": config.system.temperature, "friction": 1.0}
        simulate(potential, store.topology, start, steps=100, out_dir=Path(folder) / "a", **options)
        started = time.perf_counter()
        simulate(potential, store.topology, start, steps=2000, out_dir=Path(folder) / "b", **options)
        rate = 16 * 2000 / (time.perf_counter() - started)
    print(f"replica_steps_per_second   {rate:8.0f}  16 replicas")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
