"""Exact nearest RMSD against brute force with ``mdtraj.rmsd``, one thread, in one process.

    python tests/benchmarks/bench_selector.py                     # 100,000 x 100,000 frames
    python tests/benchmarks/bench_selector.py --frames 20000      # a shorter one
    python tests/benchmarks/bench_selector.py --load a.npy b.npy  # your own (n, beads, 3), Å

The frames come from overdamped Langevin dynamics of a ten-bead hairpin (Gō contacts, folding and
unfolding at this temperature), many replicas side by side. Brute force is timed on a sample of the
candidates between two halves of ours, and extrapolated. CPU time is printed beside the wall time:
on a busy machine only that one can be compared.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import mdtraj
import numpy as np

from cgal_plugin.selector import nearest_rmsd


def hairpin() -> np.ndarray:
    """Ten beads (10, 3), Å: two strands 5 Å apart and a turn."""
    strand = np.arange(4)[:, None] * np.array([3.4, 0.0, 0.0])
    zigzag = np.array([0.0, 0.0, 0.8]) * (-1.0) ** np.arange(4)[:, None]
    first, last = strand + zigzag, strand[::-1] + zigzag + np.array([0.0, 5.0, 0.0])
    turn = np.array([[13.0, 0.6, 0.8], [13.0, 4.4, -0.8]])
    return np.concatenate([first, turn, last])


def simulate(n_replicas: int, n_frames: int, seed: int, steps: int = 15, kT: float = 0.795) -> np.ndarray:
    """Frames ``(n_replicas * n_frames, 10, 3)`` float32, Å, replica after replica."""
    native = hairpin()
    n = len(native)
    span = np.linalg.norm(native[:, None] - native[None], axis=-1)
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None])
    contact = (apart >= 3) & (span < 7.5)
    # springs along the chain (1-2 stiff, 1-3 soft), wells for contacts, repulsion for the rest
    stiffness = np.where(apart == 1, 40.0, np.where(apart == 2, 1.2, 0.0))
    depth = np.where(contact, 2.0, 0.0)
    repulsion = np.where((apart >= 3) & ~contact, 1.0, 0.0)
    rng = np.random.default_rng(seed)
    x = native + rng.normal(scale=0.1, size=(n_replicas, n, 3))
    out = np.empty((n_replicas, n_frames, n, 3), dtype=np.float32)
    mobility = 2e-3
    for frame in range(-100, n_frames):
        for _ in range(steps):
            d = x[:, :, None] - x[:, None]
            r = np.sqrt(np.einsum("rijk,rijk->rij", d, d)) + np.eye(n)
            stretch = np.clip(r - span, -2.0, 2.0)
            well = depth * np.exp(-0.5 * np.square((r - span) / 1.5)) * (r - span) / 1.5**2
            push = repulsion * 12.0 * (4.0 / np.maximum(r, 3.0)) ** 12 / np.maximum(r, 3.0)
            pull = -2.0 * stiffness * stretch - well + push
            x = x + mobility * np.einsum("rij,rijk->rik", pull / r, d)
            x += np.sqrt(2.0 * kT * mobility) * rng.normal(size=x.shape)
        if frame >= 0:
            out[:, frame] = x
    return out.reshape(-1, n, 3)


def as_trajectory(frames: np.ndarray) -> mdtraj.Trajectory:
    """Centred mdtraj trajectory of frames in Å."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(frames.shape[1]):
        top.add_atom("CA", mdtraj.element.carbon, top.add_residue("ALA", chain))
    trajectory = mdtraj.Trajectory(frames / 10.0, top)
    trajectory.center_coordinates()
    return trajectory


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall seconds and CPU seconds of ``work()``."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str] | None = None) -> None:
    """Run, compare, print a table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--frames", type=int, default=100_000, help="frames of either set")
    parser.add_argument("--sample", type=int, default=100, help="candidates for brute force")
    parser.add_argument("--load", nargs=2, metavar="NPY", help="candidates and reference")
    args = parser.parse_args(argv)
    if args.load:
        candidates, reference = (np.load(p, mmap_mode="r")[: args.frames] for p in args.load)
    else:
        candidates, reference = (simulate(50, args.frames // 50, seed) for seed in (1, 2))
    n, m = len(candidates), len(reference)
    target = as_trajectory(np.asarray(reference))
    rows = np.linspace(0, n - 1, args.sample).astype(int)
    sample = as_trajectory(np.asarray(candidates[rows]))

    def brute(k: int) -> float:
        return 10.0 * float(mdtraj.rmsd(target, sample, k, parallel=False, precentered=True).min())

    halves = [slice(0, n // 2), slice(n // 2, n)]
    ours, theirs = [], []
    for half, part in zip(halves, np.array_split(np.arange(len(rows)), 2), strict=True):
        ours.append(timed(lambda half=half: nearest_rmsd(candidates[half], reference, n_threads=1)))
        theirs.append(timed(lambda part=part: [brute(k) for k in part]))
    distance = np.concatenate([result[0] for result, _, _ in ours])
    difference = np.abs(distance[rows] - np.concatenate([result for result, _, _ in theirs])).max()
    print(f"{n} candidates x {m} reference frames of {candidates.shape[1]} beads, one thread")
    print("nearest RMSD, Å (5/50/95 %):", *np.quantile(distance, [0.05, 0.5, 0.95]).round(3))
    print(f"{'':22s}{'wall s':>10s}{'CPU s':>10s}{'M RMSD/s CPU':>14s}")
    scale = n / len(rows)
    totals = {}
    for name, runs, factor in (("cgal_plugin", ours, 1.0), ("mdtraj brute force", theirs, scale)):
        wall, cpu = (factor * sum(run[k] for run in runs) for k in (1, 2))
        totals[name] = wall, cpu
        note = f"  (extrapolated from {len(rows)} candidates)" if factor != 1.0 else ""
        print(f"{name:22s}{wall:10.1f}{cpu:10.1f}{n * m / cpu / 1e6:14.1f}{note}")
    wall, cpu = (totals["mdtraj brute force"][k] / totals["cgal_plugin"][k] for k in (0, 1))
    print(f"ratio: {wall:.1f} by wall time, {cpu:.1f} by CPU time")
    print(f"largest difference from mdtraj (single precision): {difference:.1e} Å")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
