"""Run quick.yaml with several seeds, and print W1 of each model's test, and the time of each run.

    python examples/chignolin/quick_seeds.py --seeds 5 --out runs/quick_seeds

The same command resumes. Time: sum of the stages, so interruptions do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cgal_plugin.config import Config, load_yaml, parse_config
from cgal_plugin.driver import run
from cgal_plugin.provenance import read_sealed
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import test_stages
from cgal_plugin.runs.stage import MANIFEST

HERE = Path(__file__).parent


def minutes(root: Path) -> float:
    """Return the time of all complete stages of a run."""
    return sum(float(read_sealed(path)["seconds"]) for path in root.rglob(MANIFEST)) / 60


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=HERE / "quick.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/quick_seeds"))
    arguments = parser.parse_args()
    config: Config = load_yaml(arguments.config)
    first, last = [], []
    for seed in range(1, arguments.seeds + 1):
        out = arguments.out / f"seed_{seed}"
        run(parse_config(config.resolved() | {"seed": seed}), out)
        tests = test_stages(RunDirectory(out))
        results = [(label, stage.results()) for label, stage in tests]
        values = " -> ".join(
            f"{r['w1']['value']:.2f}{' (drifts)' if r['drifts'] else ''}" for _, r in results
        )
        floor = results[-1][1]["w1"]["floor"]
        print(f"seed {seed}: W1 {values}, floor {floor:.2f}, {minutes(out):.1f} min", flush=True)
        first.append(results[0][1]["w1"]["value"])
        last.append(results[-1][1]["w1"]["value"])
    ratio = np.mean(last) / np.mean(first)
    lower = sum(b < a for a, b in zip(first, last, strict=True))
    print(
        f"mean W1 {np.mean(first):.2f} -> {np.mean(last):.2f}, ratio {ratio:.2f}; "
        f"lower in {lower} of {len(first)} seeds"
    )


if __name__ == "__main__":  # worker processes import this file
    main()
