"""Parallel tempering against plain dynamics, on chignolin at 400 K with a stored model.

    python tests/benchmarks/bench_tempering.py --out runs/tempering        # tens of minutes on one core
    python tests/benchmarks/bench_tempering.py --out runs/tempering --steps 20000 --plain 30000   # short

Half of the walkers (or ladders) start folded, half stretched. In the limit of long runs the frames at 400 K
have one distribution, whatever the start and the method. The distance of two sets of frames is the 1-D
Wasserstein distance of each CA-CA distance, averaged over the 45 pairs, in Å. Printed over the total number
of replica-steps (all temperatures together, which is what costs time):

- *starts*: between the frames that began folded and those that began stretched;
- *to plain*: to the second half of the plain run, the longest run at 400 K.

The first fifth of each part is not used. The parts are resumed when the command is repeated.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from cgal_plugin.dynamics import SimulationResult, simulate
from cgal_plugin.dynamics.tempering_report import report_lines
from cgal_plugin.mapping import CGTopology

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"
T = (400.0, 520.0, 670.0, 860.0)
REPORT, EXCHANGE = 200, 50
USED = 0.8
PARTS = 5


def starts(n: int) -> np.ndarray:
    """Return ``(n, 10, 3)`` Å: the first half folded, the second half stretched."""
    with np.load(EXAMPLE / "reference.npz") as data:
        frames = np.concatenate([data[name] for name in data.files]).astype(float)
    ends = np.linalg.norm(frames[:, 0] - frames[:, -1], axis=1)
    half = n // 2
    return np.concatenate(
        [np.repeat(frames[:1], half, 0), np.repeat(frames[ends.argmax()][None], n - half, 0)]
    )


def distances(frames: list[np.ndarray]) -> np.ndarray:
    """Return ``(45, n)``: every CA-CA distance of the frames, Å."""
    x = np.concatenate(frames)
    i, j = np.triu_indices(x.shape[1], 1)
    found: np.ndarray = np.linalg.norm(x[:, i] - x[:, j], axis=-1).T
    return found


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Return the mean 1-D Wasserstein distance, Å."""
    return float(
        np.mean([wasserstein_distance(x, y) for x, y in zip(distances(a), distances(b), strict=True)])
    )


def part(frames: list[np.ndarray], share: float) -> list[np.ndarray]:
    """Return the first ``share`` of each trajectory, without its first fifth."""
    n = round(share * min(len(f) for f in frames))
    return [f[round((1 - USED) * n) : n] for f in frames]


def run(args: argparse.Namespace, n: int, steps: int, name: str, **options: Any) -> SimulationResult:
    """Run or resume one simulation."""
    potential = EXAMPLE / "benchmark_1" / "models" / args.model / "potential.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not record the embedding")
        return simulate(
            potential,
            CGTopology.from_sequence("YYDPETGTWY"),
            starts(n),
            steps=steps,
            timestep_fs=4.0,
            temperature=T[0],
            friction=1.0,
            seed=args.seed,
            report_interval=REPORT,
            backend="fast",
            out_dir=args.out / name,
            **options,
        )


def table(name: str, result: SimulationResult, frames: list[np.ndarray], truth: list[np.ndarray]) -> None:
    """Print the distances over the length of a simulation."""
    half = len(frames) // 2
    walkers = len(result.trajectories)
    for k in range(1, PARTS + 1):
        now = part(frames, k / PARTS)
        print(
            f"{name:10} {walkers * result.steps_done * k // PARTS / 1e6:12.2f} "
            f"{apart(now[:half], now[half:]):10.3f} {apart(now, truth):10.3f}"
        )


def main() -> None:
    """Run both, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="rmsd/seed_3")
    parser.add_argument("--ladders", type=int, default=6)
    parser.add_argument("--steps", type=int, default=420_000, help="of each walker of the ladders")
    parser.add_argument("--walkers", type=int, default=16, help="of the plain run")
    parser.add_argument("--plain", type=int, default=2_000_000, help="steps of each walker of the plain run")
    parser.add_argument("--only", choices=("tempered", "plain"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    n = args.ladders * len(T)
    if args.only != "plain":
        tempered = run(args, n, args.steps, "tempered", temperatures=T, exchange_interval=EXCHANGE)
        print(
            f"{n * tempered.steps_done / 1e6:.2f} million replica-steps at {len(T)} temperatures: "
            f"{len(tempered.events)} blow-ups, {tempered.timings['seconds']:.0f} s"
        )
        print("\n".join(report_lines(tempered.tempering)))
    if args.only != "tempered":
        plain = run(args, args.walkers, args.plain, "plain")
        print(f"plain: {len(plain.events)} blow-ups, {plain.timings['seconds']:.0f} s")
    if args.only is None:
        frames = plain.load()
        truth = [f[len(f) // 2 :] for f in frames]
        half = len(truth) // 2
        print(f"plain run, second half: starts {apart(truth[:half], truth[half:]):.3f} Å apart")
        print("method     10^6 replica-steps   starts / Å   to plain / Å")
        table("tempered", tempered, tempered.load_temperature(), truth)
        table("plain", plain, frames, truth)


if __name__ == "__main__":
    main()
