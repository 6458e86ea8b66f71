"""Damage every file of a real run in turn, in all four ways, and count what becomes of it.

    python -m tests.benchmarks.bench_damage [--out FOLDER]

The finished run, and the run paused at the end of each of its stages. Exit code 1 if a case is neither
repaired with the same content nor refused with a remedy that works.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from pathlib import Path

from cgal_plugin.config import parse_config
from cgal_plugin.driver import run
from tests.driver.cheap import without_figures
from tests.driver.sweep import files, pause, stages, sweep
from tests.driver.test_damage import REAL, content


def main() -> None:
    """Run the sweep and print one line per state of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder (default: a temporary one)")
    parser.add_argument("--only", default="", help="states whose name contains this text")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp())
    warnings.simplefilter("ignore")
    config = parse_config(REAL)
    finished, failed = out / "finished", 0

    def call(root: Path, accept: bool) -> None:
        run(config, root, accept_changes=accept)

    with without_figures():
        run(config, finished)
        expected = content(finished)
        for stage in [None, *stages(finished)]:
            if arguments.only not in (stage or "finished"):
                continue
            base = out / "base"
            shutil.rmtree(base, ignore_errors=True)
            shutil.copytree(finished, base)
            if stage is not None:
                pause(base, stage)
            started, names = time.monotonic(), files(base, stage)
            counts, wrong = sweep(base, names, out, call, content, expected)
            failed += len(wrong)
            print(
                f"{stage or 'finished'}: {len(names)} files, {dict(counts)}, {len(wrong)} wrong, "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            print("".join(f"  {line}\n" for line in wrong), end="", flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
