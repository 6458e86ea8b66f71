"""Main scripts that worker processes cannot import: standard input, -c, a prompt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKS = """
import math
from cgal_plugin.execution.map_tasks import map_tasks
found = {}
map_tasks(math.sqrt, [1.0, 4.0, 9.0], found.__setitem__, workers=2)
assert found == {0: 1.0, 1: 2.0, 2: 3.0}
import __main__
print("main:", getattr(__main__, "__file__", None))
"""
OWN = """
from cgal_plugin.errors import OracleError
from cgal_plugin.execution.map_tasks import map_tasks
class Oracle:
    pass
def own(*items):
    return items
for function, shared, items in ((own, None, [1]), (print, Oracle(), [1]), (print, None, [Oracle()])):
    try:
        map_tasks(function, items, print, workers=1, shared=shared)
    except OracleError as error:
        print(error)
found = []
map_tasks(own, [7], lambda i, result: found.append(result), workers=0)
assert found == [(7,)]
"""


def run(code: str, how: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if how == "file":
        (folder / "script.py").write_text(code)
        arguments, text = [str(folder / "script.py")], ""
    elif how == "-c":
        arguments, text = ["-c", code], ""
    else:
        arguments, text = ["-"], code
    return subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("how", ["stdin", "-c"])
def test_a_script_without_a_file_has_workers(how: str, tmp_path: Path) -> None:
    done = run(WORKS, how, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("<stdin>" in done.stdout) == (how == "stdin")  # the name is back afterwards


def test_what_is_defined_in_it_is_refused_by_name(tmp_path: Path) -> None:
    done = run(OWN, "stdin", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["own", "Oracle", "Oracle"]
    assert all("standard input" in line and "executor.workers: 0" in line for line in lines)
