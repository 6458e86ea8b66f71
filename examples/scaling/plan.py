"""Estimate the cost of a round for a number of proteins, frames and workers, and name the bottleneck.

    python plan.py rates.json --proteins 1000 --residues 60 --frames 100000 --workers 1000

--frames is the number of training frames per protein (10^3 proteins x 10^5 frames are 10^8 frames). The costs
on one core come from measure.py, by power laws in the number of residues. The model:

    labels     proteins x n_select x n_starts x (relax_ps + production_ps) x s/ps(residues)
    backmaps   proteins x n_select x n_starts x s/backmap(residues)
    dynamics   proteins x n_replicas x steps x s/step(residues)
    training   proteins x committee x epochs x frames x s/frame(residues)
    selection  proteins x candidates x frames x s/pair(residues),  candidates = replicas x steps / interval

Labels and backmaps are tasks of the executor, one per label. Dynamics are tasks with simulation.blocks, and
training with training.committee. Each protein is a separate run, so all parts can be divided over proteins.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: bytes per bead and frame: positions and forces, float32
_BYTES = 24


@dataclass(frozen=True)
class Part:
    """One part of a round: core seconds, number of tasks it can be divided into, and remedy."""

    name: str
    seconds: float
    tasks: float
    remedy: str

    def wall(self, workers: int) -> float:
        """Return the wall time (seconds) with a number of workers."""
        return self.seconds / min(workers, self.tasks)


def power_law(rows: list[dict[str, float]], key: str) -> tuple[float, float]:
    """Fit ``key`` as a power law in the number of residues; return coefficient and exponent."""
    x = np.log([r["residues"] for r in rows])
    y = np.log([r[key] for r in rows])
    exponent, offset = np.polyfit(x, y, 1) if len(rows) > 1 else (0.0, y[0])
    return float(np.exp(offset)), float(exponent)


def round_parts(rates: dict[str, Any], o: argparse.Namespace) -> list[Part]:
    """Return the parts of a round."""

    def rate(key: str) -> float:
        coefficient, exponent = power_law(rates["rows"], key)
        return coefficient * o.residues**exponent

    labels = o.proteins * o.n_select * o.n_starts
    candidates = o.n_replicas * o.steps / o.report_interval
    return [
        Part(
            "labels",
            labels * (o.relax_ps + o.production_ps) * rate("md_seconds_per_ps"),
            labels / o.n_starts,
            "executor: more workers (parsl); oracle.platform CUDA for large proteins; shorter production_ps",
        ),
        Part(
            "backmaps",
            labels * rate("backmap_seconds"),
            labels / o.n_starts,
            "executor: more workers; oracle.backmap: [library] only",
        ),
        Part(
            "dynamics",
            o.proteins * o.n_replicas * o.steps * rate("cg_seconds_per_step"),
            o.proteins * o.blocks,
            "simulation.blocks; backend fast (CPU) or a GPU; fewer steps",
        ),
        Part(
            "training",
            o.proteins * o.committee * o.epochs * o.frames * rate("train_seconds_per_frame"),
            o.proteins * o.committee,
            "mode finetune or replay with few finetune_epochs; model.filter_grid; a GPU; larger save_ps",
        ),
        Part(
            "selection",
            o.proteins * candidates * o.frames * rate("pair_seconds"),
            o.proteins,
            "larger report_interval; larger seed_data.save_ps and oracle.save_ps (fewer reference frames)",
        ),
    ]


def duration(seconds: float) -> str:
    """Return a time as text."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def report(rates: dict[str, Any], o: argparse.Namespace) -> str:
    """Return the table as text."""
    parts = round_parts(rates, o)
    total = sum(p.seconds for p in parts)
    lines = [
        f"{o.proteins} proteins of {o.residues} residues, {o.frames:.0f} frames each, {o.workers} workers",
        f"{'part':<10} {'core hours':>12} {'share':>6} {'tasks':>10} {'wall':>10}",
    ]
    for p in sorted(parts, key=lambda p: -p.wall(o.workers)):
        lines.append(
            f"{p.name:<10} {p.seconds / 3600:>12.2f} {p.seconds / total:>6.0%} {p.tasks:>10.0f} "
            f"{duration(p.wall(o.workers)):>10}"
        )
    wall = sum(p.wall(o.workers) for p in parts)
    slowest = max(parts, key=lambda p: p.wall(o.workers))
    memory = o.frames * o.residues * _BYTES
    lines += [
        f"{'round':<10} {total / 3600:>12.2f} {'':>6} {'':>10} {duration(wall):>10}",
        f"bottleneck: {slowest.name}. {slowest.remedy}",
        f"memory of a run's training set: {memory / 1e9:.2g} GB; on disk, all proteins: "
        f"{o.proteins * memory / 1e9:.2g} GB",
    ]
    return "\n".join(lines)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Settings have the names and the defaults of the configuration keys."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rates", type=Path)
    for name, kind, default in (
        ("proteins", int, 1),
        ("residues", int, 10),
        ("frames", float, 1e5),
        ("workers", int, 2),
        ("n-select", int, 16),
        ("n-starts", int, 1),
        ("relax-ps", float, 1.0),
        ("production-ps", float, 5.0),
        ("n-replicas", int, 16),
        ("steps", int, 10_000),
        ("report-interval", int, 100),
        ("blocks", int, 1),
        ("epochs", int, 15),
        ("committee", int, 1),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = options()
    print(report(json.loads(chosen.rates.read_text()), chosen))
