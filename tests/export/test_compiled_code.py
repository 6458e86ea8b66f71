"""Compiled code of the fast backend where nothing can be stored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cgal_plugin.export

CODE = """
from cgal_plugin.export.engine.jit import entry, kernel

@kernel
def square(x):
    return x * x

@entry
def double_square(x):
    return 2.0 * square(x)
"""


@pytest.mark.integration
def test_without_a_folder_for_compiled_code_it_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "compiled_here.py").write_text(CODE)
    (tmp_path / "__pycache__").write_text("a file: no folder can be made here")
    environment = {
        **os.environ,
        "HOME": "/proc/1/no-home",
        "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{tmp_path}",
    }
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    code = "import compiled_here; assert compiled_here.double_square(3.0) == 18.0"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiled code of the fast backend cannot be stored") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_a_change_of_any_file_of_the_engine_makes_stored_code_invalid(tmp_path: Path) -> None:
    """numba itself checks only the file of a function, not those of what it calls."""
    engine = Path(cgal_plugin.export.__file__).parent / "engine"
    copied = tmp_path / "engine_copy"
    copied.mkdir()
    jit = (engine / "jit.py").read_text(encoding="utf-8")
    (copied / "__init__.py").write_text("")
    (copied / "jit.py").write_text(jit)
    (copied / "constants.py").write_text("FACTOR = 2.0\n")
    (copied / "kernels.py").write_text(
        "from engine_copy.constants import FACTOR\n"
        "from engine_copy.jit import entry\n\n"
        "@entry\ndef scaled(x):\n    return FACTOR * x\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{tmp_path}"}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    code = "from engine_copy.kernels import scaled; print(scaled(3.0), sum(scaled.stats.cache_hits.values()))"

    def run() -> list[str]:
        call = [sys.executable, "-c", code]
        return subprocess.run(
            call, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    assert run() == ["6.0", "0"]
    assert run() == ["6.0", "1"]  # stored code is used
    (copied / "constants.py").write_text("FACTOR = 5.0\n")
    assert run()[0] == "15.0"
