"""Simulate the stored models of a benchmark for longer than the benchmark, and compare with any reference.

    python recheck.py                                     # 10.2 million replica-steps per model
    python recheck.py --reference other.npz --interval 1  # another reference, one frame per ps
    python recheck.py --steps 50000 --arm rmsd            # shorter, one arm (and static)

The default reference is reference.npz. A reference has one array ``(n_frames, 10, 3)`` in Å per trajectory.
Half of the replicas start from the folded and half from the stretched state. The first fifth of each
trajectory is discarded, as in the benchmark. Simulations are kept in --out; run the same command again to
resume.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from cgal_plugin.analysis import TICAModel, evaluate
from cgal_plugin.analysis.markov_states import ReferenceStates, reweight
from cgal_plugin.components.starts import common_starts
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.dynamics import simulate
from cgal_plugin.oracle import OpenMMOracle

HERE = Path(__file__).parent
TEMPERATURE = 400.0  # K, of the models and references
LAG_PS, MSM_LAG_PS = 10.0, 50.0  # as in the benchmark
REPLICAS = 64

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--benchmark", type=Path, default=HERE / "benchmark", help="folder with models/")
parser.add_argument("--reference", type=Path, default=HERE / "reference.npz")
parser.add_argument("--interval", type=float, default=2.0, help="ps between frames of the reference")
parser.add_argument("--steps", type=int, default=160_000)
parser.add_argument("--seed", type=int, default=99, help="seed of the dynamics")
parser.add_argument("--arm", action="append", help="repeatable; default: all stored arms")
parser.add_argument("--out", type=Path, default=Path("runs/recheck"))
arguments = parser.parse_args()

oracle = OpenMMOracle("YYDPETGTWY", temperature=TEMPERATURE)
topology = oracle.topology
start = common_starts(oracle, REPLICAS)

reference = load_trajectories(arguments.reference, topology)
lag, msm_lag = (max(1, round(ps / arguments.interval)) for ps in (LAG_PS, MSM_LAG_PS))
tica = TICAModel.fit(reference, lag)
weighting = reweight(ReferenceStates.fit(tica.transform(reference), seed=0), lag_frames=msm_lag)
print(f"{arguments.reference}: {sum(map(len, reference))} frames; {weighting.note}")
print("arm seed | W1 (floor) | published recipe (floor) | W1 of the last 40 % | blow-ups")

values: dict[str, list[tuple[float, float]]] = {}
for folder in sorted((arguments.benchmark / "models").glob("*/seed_*")):
    arm, number = folder.parent.name, folder.name.removeprefix("seed_")
    if arguments.arm and arm not in {*arguments.arm, "static"}:
        continue
    result = simulate(
        folder / "potential.pt", topology, start, steps=arguments.steps, timestep_fs=4.0,
        temperature=TEMPERATURE, friction=1.0, seed=arguments.seed, out_dir=arguments.out / arm / folder.name,
        report_interval=max(1, arguments.steps // 200), backend="cpu", n_threads=1,
    )  # fmt: skip
    trajectories = result.load()

    def compare(discard, trajectories=trajectories, n_splits=0):
        used = [t[round(discard * len(t)) :] for t in trajectories]
        return evaluate(
            [t for t in used if len(t)], reference, topology, lag_frames=lag, temperature=TEMPERATURE, seed=0,
            tica=tica, reference_weights=weighting.weights, n_bootstrap=0, n_splits=n_splits,
        )  # fmt: skip

    whole, last = compare(0.2, n_splits=10), compare(0.6)
    values.setdefault(arm, []).append((whole.w1.value, whole.w1_ucsc.value))
    print(
        f"{arm} {number} | {whole.w1.value:.2f} ({whole.w1.floor:.2f}) | {whole.w1_ucsc.value:.2f} "
        f"({whole.w1_ucsc.floor:.2f}) | {last.w1.value:.2f} | {len(result.events)}",
        flush=True,
    )
    row = {
        "arm": arm,
        "seed": int(number),
        "reference": str(arguments.reference),
        "replica_steps": result.steps_done * REPLICAS,
        "blow_ups": len(result.events),
        "w1": whole.w1.to_dict(),
        "w1_ucsc": whole.w1_ucsc.to_dict(),
        "w1_last": last.w1.value,
    }
    with (arguments.out / "recheck.jsonl").open("a") as handle:
        handle.write(json.dumps(row) + "\n")

means = {arm: np.mean(v, axis=0) for arm, v in values.items()}
for arm, mean in means.items():
    text = f"{arm}: mean of {len(values[arm])} W1 {mean[0]:.2f}, published recipe {mean[1]:.2f}"
    if arm != "static" and len(values[arm]) == len(values.get("static", [])):
        less = 1 - mean / means["static"]
        text += f"; less than static by {less[0]:.0%} and {less[1]:.0%}"
    print(text)
