"""Steps of CG dynamics without OpenMM (backend ``cpu``) and with it (``fast``), on one thread and on several.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_dynamics.py              # a stored model of chignolin
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_dynamics.py --repeat 1 --steps 50    # short

The same replicas, plain or as ladders of four temperatures, in turn with each engine; the ratio is the median
over the turns of the time of ``fast`` on one thread over that of the engine.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

from cgal_plugin.dynamics.engines import CGEngine, open_engine
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.execution.resources import available_cores
from cgal_plugin.mapping import CGTopology

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"
LADDER = (400.0, 516.0, 667.0, 860.0)
CASES = ((1, False), (16, False), (100, False), (32, True), (64, True))


def engines(
    potential: Path, topology: CGTopology, n: int, tempered: bool, threads: int
) -> dict[str, CGEngine]:
    """Return the engines to compare, at the same start."""
    with np.load(EXAMPLE / "reference.npz") as data:
        frames = np.concatenate([data[name] for name in data.files])[:: 20000 // n].astype(float)
    found = {}
    for backend, n_threads in (("fast", 1), ("cpu", 1), ("fast", threads), ("cpu", threads)):
        settings = Settings(
            potential=potential,
            topology=topology,
            n_replicas=n,
            timestep_fs=4.0,
            temperature=LADDER[0],
            friction=1.0,
            seed=1,
            backend=backend,
            platform="Reference",
            temperatures=LADDER * (n // 4) if tempered else (),
            n_threads=n_threads,
        )
        engine = open_engine(settings)
        engine.set_start(np.resize(frames, (n, *frames.shape[1:])))
        engine.step(10)
        found[f"{backend}, {n_threads} thread{'s' if n_threads > 1 else ''}"] = engine
    return found


def main() -> None:
    """Print a line for each case and engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*embedding.*")
    topology = CGTopology.from_sequence("YYDPETGTWY")
    potential = EXAMPLE / "benchmark_1" / "models" / "static" / "seed_1" / "potential.pt"
    for n, tempered in CASES:
        compared = engines(potential, topology, n, tempered, available_cores())
        seconds: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(args.repeat):
            for name, engine in compared.items():
                started = time.perf_counter()
                for _ in range(max(1, args.steps // 50)):
                    engine.step(50)  # as between exchanges of temperatures in the test of a model
                seconds[name].append(time.perf_counter() - started)
        first = np.array(next(iter(seconds.values())))
        for name, values in seconds.items():
            rate = n * args.steps / np.median(values)
            kind = f"{n // 4} ladders of 4" if tempered else f"{n} replicas"
            ratio = np.median(first / values)
            print(f"{kind:16s} {name:16s} {rate:10.0f} replica-steps/s   ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
