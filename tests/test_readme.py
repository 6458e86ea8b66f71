"""The README's own components are code that works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from cgal_plugin.testing import check_oracle, check_sampler, check_selector
from tests.driver.stand_ins import TOPOLOGY, made_store

README = Path(__file__).parent.parent / "README.md"
FRAMES = np.random.default_rng(0).normal(size=(40, TOPOLOGY.n_beads, 3))


def own_components() -> str:
    """Return the code block after the mark."""
    found = re.findall(r"<!-- own components -->\n```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def own() -> ModuleType:
    module = ModuleType("own_components")
    exec(compile(own_components(), str(README), "exec"), module.__dict__)
    return module


def test_the_selector_keeps_the_contract(own: ModuleType) -> None:
    check_selector(own.EveryTenth, FRAMES, FRAMES[:3], n_select=None)


def test_the_oracle_keeps_the_contract(own: ModuleType) -> None:
    check_oracle(own.Springs(), FRAMES)


def test_the_sampler_keeps_the_contract(own: ModuleType, tmp_path: Path) -> None:
    check_sampler(own.Noise(), tmp_path / "potential.pt", TOPOLOGY, FRAMES[:4], tmp_path)


@pytest.mark.integration
def test_they_run(tmp_path: Path) -> None:
    config = {
        "system": {"sequence": TOPOLOGY.sequence, "temperature": 400.0},
        "seed_data": {"store": str(made_store(tmp_path / "store"))},
        "training": {
            "epochs": 1,
            "finetune_epochs": 1,
            "model": {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4},
            "priors": {"terms": []},
        },
        "stopping": {"rounds": 1},
        "executor": {"workers": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "own_components.py").write_text(own_components())
    subprocess.run([sys.executable, "own_components.py"], cwd=tmp_path, check=True, timeout=250)
    labels = list((tmp_path / "runs/mine/data/shards").glob("r000_f*.npz"))
    assert len(labels) == 20  # every tenth of 4 x 50
    assert (tmp_path / "runs/mine/report.html").exists()
