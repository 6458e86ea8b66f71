"""Dependencies point one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cgal_plugin

ROOT = Path(cgal_plugin.__file__).parent
# a module may import from its own entry and from those before it
ORDER = [
    ["errors"],
    ["interrupts"],
    ["units"],
    ["provenance"],
    ["_native"],
    ["config"],
    ["mapping"],
    ["data"],
    ["priors"],
    ["models"],
    ["_register"],
    ["training"],
    ["export"],
    ["dynamics", "selector", "oracle", "analysis"],
    ["refinement"],
    ["driver"],
    ["testing"],
    ["cli"],
]
RANK = {name: i for i, names in enumerate(ORDER) for name in names}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("cgal_plugin.")}
    return found


def test_every_module_has_a_place_and_imports_point_down() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",):
            continue
        assert parts[0] in RANK, f"{parts[0]} is not in the module map"
        for target in _imports(path):
            same = target == parts[0]
            if not same and RANK[target] >= RANK[parts[0]]:
                wrong.append(f"{'/'.join(parts)} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_import_is_light_and_without_side_effect() -> None:
    code = """
import os, sys, threading, warnings
import numpy  # adds warning filters of its own
before = dict(os.environ), list(warnings.filters), threading.active_count()
import cgal_plugin
for name in ("config", "mapping", "priors", "selector", "oracle", "dynamics", "export", "analysis", "driver"):
    __import__("cgal_plugin." + name)
heavy = {"torch", "openmm", "torchmdnet", "lightning", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
assert before == (dict(os.environ), list(warnings.filters), threading.active_count())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_public_api_is_what_we_promise() -> None:
    assert set(cgal_plugin.__all__) == {"__version__", "register"}
    from cgal_plugin import analysis, driver, dynamics, export, mapping, oracle, selector

    promised = {
        mapping: {"CGTopology", "CGMapping"},
        selector: {"RMSDSelector", "RandomSelector", "CommitteeSelector", "nearest_rmsd"},
        oracle: {"OpenMMOracle", "backmap"},
        export: {"export_torchscript", "load_metadata"},
        dynamics: {"add_potential", "build_system", "simulate"},
        driver: {"run", "RunResult"},
        analysis: {"w1", "w1_ucsc", "write_report"},
    }
    for module, names in promised.items():
        assert names <= set(module.__all__), module.__name__
        for name in module.__all__:
            assert getattr(module, name) is not None
