"""All benchmarks: force calls, Langevin steps, training steps, selection, all-atom labels.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_all.py --plot scaling.png   # the values in the README
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_all.py --quick              # one or two minutes

One process, one thread, alternating runs, medians of CPU time; results are checked before timing. The parts
are separate scripts: ``bench_forces.py``, ``bench_engine.py`` (with threads and wall times as well),
``bench_training.py``, ``bench_selector.py``, ``bench_oracle.py``.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def cpu() -> str:
    """Return the model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def main() -> None:
    """Print the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--quick", action="store_true", help="few sizes, short runs")
    parser.add_argument("--frames", type=int, default=100_000, help="frames per set for the selection")
    parser.add_argument("--plot", help="write a figure of the scaling with replicas and beads")
    args = parser.parse_args()
    import bench_engine
    import bench_forces
    import bench_oracle
    import bench_selector
    import bench_training

    print(f"{cpu()}; {platform.platform()}; Python {platform.python_version()}")
    quick = ["--quick", "--seconds", "0.1"] if args.quick else ["--seconds", "2"]
    frames = min(args.frames, 1000) if args.quick else args.frames
    parts = {
        "force calls and Langevin steps": lambda: bench_forces.main(
            quick + (["--plot", args.plot] if args.plot else [])
        ),
        "threads, large molecules and energy conservation of the engines": lambda: bench_engine.main(quick),
        "training steps": lambda: bench_training.main(
            ["--no-epochs", *(["--sizes", "32x1", "--frames", "256", "--rounds", "1"] if args.quick else [])]
        ),
        "selection": lambda: bench_selector.main(["--frames", str(frames)]),
        "labels": lambda: bench_oracle.main(
            ["--picoseconds", "0.4", "--rounds", "1", "--labels", "1"] if args.quick else []
        ),
    }
    for name, work in parts.items():
        print(f"\n== {name}", flush=True)
        begin = time.perf_counter()
        work()
        print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
