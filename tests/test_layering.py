"""Dependencies point one way, and importing the package is light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cgal_plugin

ROOT = Path(cgal_plugin.__file__).parent
# a module may import from its own entry and from those before it
ORDER = [
    ["errors"],
    ["plain_text"],
    ["file_lock"],
    ["interrupts"],
    ["units"],
    ["provenance"],
    ["damage"],
    ["_native"],
    ["_warp"],
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
    ["ase"],
    ["refinement"],
    ["components"],
    ["exchange"],
    ["reporting"],
    ["driver"],
    ["systems"],
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
for name in ("execution", "runs", "components", "exchange", "reporting", "systems", "benchmark", "testing"):
    __import__("cgal_plugin." + name)
heavy = {"torch", "openmm", "torchmdnet", "lightning", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
assert before == (dict(os.environ), list(warnings.filters), threading.active_count())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


#: every public name: one more or one less is a decision, and is made here
PUBLIC = {
    "": "__version__ register",
    "ase": "CGCalculator",
    "analysis": """
        Evaluation FreeEnergySurface Reduction TICAModel W1Result distance_features evaluate
        free_energy_surface jensen_shannon jensen_shannon_samples relative_reduction w1 w1_points w1_ucsc
        w1_ucsc_points""",
    "components": "Oracle SampledFrames Sampler SeedSource Selector TrainRequest TrainedModel Trainer",
    "config": "Config dump_yaml load_yaml parse_config",
    "data": "CGDataset DataStore FrameFiles LabelledFrames Quarantined StoredFrames block_splits",
    "driver": "RunResult run",
    "dynamics": """
        BACKENDS BlowUp Guard SimulationResult add_potential build_system load_simulation read_dcd
        resolve_backend simulate""",
    "exchange": "export_data import_data import_trajectories",
    "export": "FastPotential export_potential export_torchscript load_metadata",
    "mapping": """
        BeadSpec CGMapping CGTopology ForceMap MapSpec basic_force_map optimal_force_map resolve_spec
        slice_force_map""",
    "models": """
        BlockWeights CGSchNet CGSchNetWeights EnergyHead ImportedModel LinearWeights NeighborEmbeddingWeights
        build_model from_mlcg from_torchmdnet_gn import_model model_parameters save_checkpoint""",
    "oracle": """
        AllAtomLibrary AllAtomModel AllAtomTrajectory BackmapResult BackmapSettings Backmapper LabelSettings
        LabelledFrames OpenMMOracle Quarantined TrajectoryTask backmap run_trajectory""",
    "priors": """
        CGAngleSeries CGAngles CGBonds CGBridges CGDihedrals CGPairs CGRepulsion FitSettings MoleculeFrames
        PriorSet fit_priors fit_shared_priors make_prior mlcg_statistics priors_from_mlcg read_torchmd_priors
        write_mlcg_priors write_torchmd_priors""",
    "refinement": "Correction DynamicStates Populations correction populations",
    "reporting": "ReportInput RoundSummary SelectedFrames write_report",
    "selector": """
        BaseSelector CommitteeSelector CoverageSelector RMSDSelector RandomSelector Selection coverage
        k_centre make_selector max_coverage nearest_rmsd""",
    "systems": "SystemsResult run_systems",
    "testing": "check_model check_oracle check_prior check_sampler check_selector check_trainer",
    "training": "CG_DEFAULTS MODES TrainingResult load_model resolve train train_ensemble",
}


@pytest.mark.parametrize("room", PUBLIC)
def test_the_public_names_are_exactly_these(room: str) -> None:
    module = importlib.import_module(f"cgal_plugin.{room}".rstrip("."))
    assert sorted(module.__all__) == sorted(PUBLIC[room].split())
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_other_room_has_public_names() -> None:
    rooms = {p.parent.name for p in ROOT.glob("*/__init__.py")} - set(PUBLIC)
    exporting = {room for room in rooms if hasattr(importlib.import_module(f"cgal_plugin.{room}"), "__all__")}
    assert not exporting
