"""Dependencies point one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cgal_plugin

ROOT = Path(cgal_plugin.__file__).parent
# a module may import from its own entry and from those before it
ORDER = [
    ["errors"],
    ["file_lock"],
    ["interrupts"],
    ["units"],
    ["provenance"],
    ["_native"],
    ["config"],
    ["execution"],
    ["mapping"],
    ["data"],
    ["priors"],
    ["models"],
    ["_register"],
    ["analysis"],
    ["runs"],
    ["training", "selector", "oracle"],
    ["export"],
    ["dynamics"],
    ["refinement"],
    ["components"],
    ["reporting"],
    ["driver"],
    ["testing"],
    ["benchmark"],
    ["cli"],
]
RANK = {name: i for i, names in enumerate(ORDER) for name in names}


def _modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{a.name}" for a in node.names]
            names = [n if n in MODULES else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n for n in names if n in MODULES}
    return found


def test_rooms_import_from_below_only() -> None:
    wrong = []
    for name, path in MODULES.items():
        room = name.split(".")[1:2]
        if not room:
            continue
        assert room[0] in RANK, f"{room[0]} is not in the module map"
        for target in (n.split(".")[1] for n in _imports(path) if "." in n):
            if target != room[0] and RANK[target] >= RANK[room[0]]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: _imports(path) - {name} for name, path in MODULES.items()}
    # files that import none of those left, or that none of those left imports, are on no circle
    while True:
        imported = set().union(*graph.values()) if graph else set()
        free = [n for n, targets in graph.items() if not targets & graph.keys() or n not in imported]
        if not free:
            break
        for name in free:
            del graph[name]
    assert not graph, "circles among: " + ", ".join(sorted(graph))


@pytest.mark.parametrize(("folder", "most"), [("driver", 700)])
def test_the_loop_is_thin(folder: str, most: int) -> None:
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / folder).glob("*.py"))
    assert lines <= most


def test_modules_are_small() -> None:
    lengths = {name: len(p.read_text(encoding="utf-8").splitlines()) for name, p in MODULES.items()}
    assert not {name: n for name, n in lengths.items() if n > 350}


def test_import_is_light_and_without_side_effect() -> None:
    code = """
import os, sys, threading, warnings
import numpy  # adds warning filters of its own
before = dict(os.environ), list(warnings.filters), threading.active_count()
import cgal_plugin
for name in ("config", "mapping", "priors", "selector", "oracle", "dynamics", "export", "analysis", "driver"):
    __import__("cgal_plugin." + name)
for name in ("execution", "runs", "components", "reporting", "benchmark", "testing"):
    __import__("cgal_plugin." + name)
heavy = {"torch", "openmm", "torchmdnet", "lightning", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
assert before == (dict(os.environ), list(warnings.filters), threading.active_count())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_api_is_what_we_promise() -> None:
    assert set(cgal_plugin.__all__) == {"__version__", "register"}
    from cgal_plugin import analysis, driver, dynamics, export, mapping, oracle, reporting, selector

    promised = {
        mapping: {"CGTopology", "CGMapping"},
        selector: {"RMSDSelector", "RandomSelector", "CommitteeSelector", "nearest_rmsd"},
        oracle: {"OpenMMOracle", "backmap"},
        export: {"export_torchscript", "load_metadata"},
        dynamics: {"add_potential", "build_system", "simulate"},
        driver: {"run", "RunResult"},
        analysis: {"w1", "w1_ucsc"},
        reporting: {"write_report"},
    }
    for module, names in promised.items():
        assert names <= set(module.__all__), module.__name__
        for name in module.__all__:
            assert getattr(module, name) is not None
