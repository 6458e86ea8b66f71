"""``cgal run`` as a process, and what it has finished."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start(config: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start ``cgal run``; its output is appended to ``log``."""
    code = "from cgal_plugin.cli.main import main; main()"
    command = [sys.executable, "-c", code, "run", str(config), "--out", str(out)]
    with log.open("ab") as handle:
        return subprocess.Popen(command, stdout=handle, stderr=handle)


def finished_files(root: Path) -> dict[Path, int]:
    """Return what is finished (labels, seed trajectories, stages), with the time of each file."""
    found = [
        *root.glob("data/shards/*.npz"),
        *root.glob("seed/trajectory_*.npz"),
        *root.rglob("manifest.json"),
    ]
    return {p: p.stat().st_mtime_ns for p in found if not p.name.startswith(".") and _is_label(p)}


def check_kept(files: dict[Path, int]) -> None:
    """Check that no file was written again."""
    for path, stamp in files.items():
        assert path.stat().st_mtime_ns == stamp, f"{path} was computed again"


def _is_label(path: Path) -> bool:
    # arrays without their record are not a label yet
    return path.parent.name != "shards" or path.with_suffix(".json").exists()
