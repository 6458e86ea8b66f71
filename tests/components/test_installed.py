"""A package that registers entry points: its classes are used by name in the YAML."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgal_plugin.components import external
from cgal_plugin.components.external import load_external
from cgal_plugin.config.external import InstalledSelector
from cgal_plugin.errors import ConfigError
from tests.driver.stand_ins import TOPOLOGY, made_store

ROOT = Path(__file__).parents[2]

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "others-package"
version = "1.0"

[project.entry-points."cgal_plugin.selectors"]
last = "others_package:Last"
rmsd = "others_package:Missing"

[project.entry-points."cgal_plugin.oracles"]
springs = "others_package:Springs"

[project.entry-points."cgal_plugin.samplers"]
noise = "others_package:Noise"

[project.entry-points."cgal_plugin.trainers"]
counter = "others_package:Counter"

[tool.setuptools]
py-modules = ["others_package"]
"""

MODULE = """
import numpy as np
from cgal_plugin.components import SampledFrames, TrainedModel
from cgal_plugin.data import LabelledFrames
from cgal_plugin.selector import Selection


class Last:
    def __init__(self, n):
        self.n = n

    def fit(self, reference):
        return self

    def select(self, candidates):
        unknown = np.full(len(candidates), np.nan)
        return Selection(np.arange(len(candidates))[-self.n :], unknown[: self.n], unknown)


class Springs:
    def __init__(self, strength=0.1):
        self.strength = strength

    def label(self, frames):
        index = np.arange(len(frames))
        forces = -self.strength * (frames - frames.mean(axis=1, keepdims=True))
        return LabelledFrames(frames, forces, index, 0 * index, np.zeros(len(frames)))


class Noise:
    def __init__(self, n_replicas):
        self.n_replicas = n_replicas

    def sample(self, potential, topology, start_positions, *, temperature, seed, out_dir, progress=None):
        noise = np.random.default_rng(seed).normal(scale=0.3, size=(self.n_replicas, 5, topology.n_beads, 3))
        return SampledFrames(list(start_positions[:, None] + noise))


class Counter:
    def prepare(self, store, out_dir):
        pass

    def train(self, request, progress=None):
        path = request.out_dir / "count.txt"
        path.write_text(str(len(request.shards)))
        return TrainedModel(path)

    def export(self, model, topology, path, n_replicas):
        path.write_text(f"{model.checkpoint.read_text()} shards, {n_replicas} replicas")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that pip has installed the package into."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "source").mkdir()
    (folder / "source" / "pyproject.toml").write_text(PYPROJECT)
    (folder / "source" / "others_package.py").write_text(textwrap.dedent(MODULE))
    options = ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        folder / "site",
        folder / "source",
    ]
    subprocess.run(command, check=True, timeout=120)
    return folder / "site"


def cgal(*arguments: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in an environment that has the package."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "COLUMNS": "400"}
    return subprocess.run(
        [sys.executable, "-c", "from cgal_plugin.cli.main import main; main()", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def write(folder: Path, **changes: Any) -> None:
    """Write a run.yaml that uses the four classes by name."""
    config: dict[str, Any] = {
        "system": {"sequence": TOPOLOGY.sequence, "temperature": 400.0},
        "seed_data": {"store": str(made_store(folder / "store"))},
        "oracle": {"kind": "springs", "args": {"strength": 0.2}},
        "training": {"kind": "counter"},
        "simulation": {"kind": "noise", "args": {"n_replicas": 3}},
        "selector": {"kind": "last", "args": {"n": 2}},
        "stopping": {"rounds": 1},
        "executor": {"workers": 1},
        **changes,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.integration
def test_a_run_with_the_components_of_an_installed_package(installed: Path, tmp_path: Path) -> None:
    write(tmp_path)
    done = cgal("run", "run.yaml", "--out", "out", site=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert record["selector"] == {"kind": "last", "args": {"n": 2}}
    assert record["oracle"] == {"kind": "springs", "args": {"strength": 0.2}, "max_failure_rate": 0.5}
    assert record["simulation"] == {"kind": "noise", "args": {"n_replicas": 3}}
    assert record["training"] == {"kind": "counter", "args": {}}
    assert len(list((tmp_path / "out/data/shards").glob("r000_f*.npz"))) == 2
    assert (tmp_path / "out/model.ckpt").read_text() == "3"  # shards: one of the seed and two labels
    assert (tmp_path / "out/potential.pt").read_text() == "3 shards, 1 replicas"


@pytest.mark.integration
def test_a_name_that_no_package_registers(installed: Path, tmp_path: Path) -> None:
    write(tmp_path, selector={"kind": "lst", "args": {"n": 2}})
    failed = cgal("validate", "run.yaml", site=installed, cwd=tmp_path)
    assert failed.returncode == 2
    message = " ".join(failed.stderr.split())
    assert "kind 'lst' is unknown; did you mean 'last'?" in message
    assert "built-in kinds: 'rmsd', 'coverage', 'random', 'committee', 'custom'" in message
    assert "(entry points cgal_plugin.selectors): 'last', 'rmsd'" in message


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "cgal_plugin.selectors")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "registered by no package"),
        ([point("x", "a:B"), point("x", "c:D")], "exactly one is needed"),
        ([point("x", "nowhere_to_be_found:B")], r"nowhere_to_be_found:B\) cannot be imported"),
        ([point("x", "json:Nothing")], r"json:Nothing\) cannot be imported"),
        ([point("x", "fractions:Fraction")], "does not accept {'n': 2}"),
        ([point("x", "types:SimpleNamespace")], "has no method fit and no method select"),
    ],
)
def test_an_entry_point_that_cannot_be_used(
    points: list[EntryPoint], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "installed", lambda section: {"x": points} if points else {})
    selector = InstalledSelector.model_validate({"kind": "x", "args": {"n": 2}}, context={"look_up": False})
    with pytest.raises(ConfigError, match=message):
        load_external(selector, "selector")
