"""The gain of all cores over one: whole runs that alternate, with equal labels and weights.

    python tests/benchmarks/bench_cores.py                       # quick.yaml
    python tests/benchmarks/bench_cores.py --benchmark           # an arm of benchmark_narrow.yaml instead
    python tests/benchmarks/bench_cores.py --repeat 3 --config my.yaml

Each run is ``cgal run`` in a process of its own: with all cores that this process may use, and with one of
them (``taskset -c``). A first run is not counted: it fills the caches (numba, bytecode). The table has the
time of each stage on one core and the ratio; the serial share follows from the ratio of the whole by Amdahl's
law, s = (R·n − 1)/(n − 1) for n cores. The labels (content of the shards) and the final weights must be
equal, or the script ends with 1.

Run it on an idle machine: it prints the load before each run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import yaml

from cgal_plugin.data import DataStore
from cgal_plugin.execution.resources import available_cores
from cgal_plugin.provenance import hash_array
from cgal_plugin.runs.log import LOG, read_log

EXAMPLES = Path(__file__).parents[2] / "examples" / "chignolin"


def command(arguments: list[str], cpus: set[int]) -> float:
    """Run a ``cgal`` command on these CPUs; return its seconds."""
    code = "import sys; from cgal_plugin.cli.main import main; sys.exit(main())"
    call = ["taskset", "-c", ",".join(map(str, sorted(cpus))), sys.executable, "-c", code, *arguments]
    started = time.monotonic()
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def stages(run: Path) -> dict[str, float]:
    """Seconds of each kind of stage, all rounds together."""
    found: dict[str, float] = defaultdict(float)
    for event in read_log(run / LOG):
        if event["event"] == "stage finished":
            found[event["stage"].rpartition(": ")[2]] += event["seconds"]
    return found


def content(run: Path) -> dict[str, str]:
    """Hashes of all labels and of the final weights."""
    store = DataStore(run / "data")
    found = {}
    for name in store.names():
        frames = store.load(name)
        found[name] = hash_array(frames.positions, frames.forces)
    state = torch.load(run / "model.ckpt", weights_only=True)["state_dict"]
    found["weights"] = hash_array(*(value.numpy() for value in state.values()))
    return found


def compare(name: str, arguments: list[str], runs: list[str], folder: Path, repeat: int) -> bool:
    """Run on one core and on all, in turn; print the table; return whether labels and weights are equal."""
    allowed = os.sched_getaffinity(0)
    sets = {"all": set(allowed), "one": {min(allowed)}}
    n = available_cores()
    seconds: dict[str, list[float]] = {"all": [], "one": []}
    parts: dict[str, dict[str, list[float]]] = {k: defaultdict(list) for k in sets}
    found = []
    for turn in range(repeat):
        for kind, cpus in sets.items():
            print(f"# {name}, {kind}, load {os.getloadavg()[0]:.1f}", flush=True)
            out = folder / f"{kind}_{turn}"
            seconds[kind].append(command([*arguments, "--out", str(out)], cpus))
            for run in runs:
                for stage, value in stages(out / run).items():
                    parts[kind][stage].append(value)
            found.append([content(out / run) for run in runs])
    equal = all(other == found[0] for other in found)
    one, ratio = np.median(seconds["one"]), np.median(np.divide(seconds["all"], seconds["one"]))
    serial = (ratio * n - 1) / (n - 1) if n > 1 else 1.0
    same = "equal" if equal else "DIFFERENT"
    print(
        f"{name}: {one:.0f} s on one core; all {n} cores / one core {ratio:.3f}, serial share {serial:.2f}; "
        f"labels and weights {same}"
    )
    total = 0.0
    for stage, values in parts["one"].items():
        share = sum(values) / repeat / one
        total += share
        gain = sum(parts["all"][stage]) / sum(values)
        print(f"  {stage:16s} share of one core {share:5.2f}   ratio {gain:.2f}")
    print(f"  {'start and end':16s} share of one core {1 - total:5.2f}")
    return equal


def one_arm(path: Path) -> Path:
    """Write the arms static and rmsd of benchmark_narrow.yaml in their full size, with one seed each."""
    content = yaml.safe_load((EXAMPLES / "benchmark_narrow.yaml").read_text())
    for key in ("small", "compare"):
        del content[key]
    content["arms"] = {name: {**content["arms"][name], "seeds": 1} for name in ("static", "rmsd")}
    content["base"]["evaluation"]["reference"] = [str(EXAMPLES / "reference.npz")]
    content["reference_forces"] = str(EXAMPLES / "reference_forces.npz")
    path.write_text(yaml.safe_dump(content))
    return path


def main(argv: list[str] | None = None) -> None:
    """Compare the runs and print the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--config", type=Path, default=EXAMPLES / "quick.yaml")
    parser.add_argument("--benchmark", action="store_true", help="an arm of benchmark_narrow.yaml instead")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = ["benchmark", str(EXAMPLES / "benchmark_narrow.yaml"), "--small", "--arm", "static"]
        command([*warm, "--out", str(folder / "warm")], os.sched_getaffinity(0))
        if args.benchmark:
            arguments = ["benchmark", str(one_arm(folder / "benchmark.yaml"))]
            runs = ["runs/static/seed_1", "runs/rmsd/seed_1"]
            equal = compare("benchmark arm", arguments, runs, folder, args.repeat)
        else:
            equal = compare(args.config.name, ["run", str(args.config)], ["."], folder, args.repeat)
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
