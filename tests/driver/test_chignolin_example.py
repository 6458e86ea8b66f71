"""The example of chignolin: its first run is what its texts say, and its files are those that are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cgal_plugin.config import load_yaml
from cgal_plugin.config.models import OpenMMOracleConfig
from cgal_plugin.runs.cost import estimate

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"


def test_the_first_run_is_narrow_short_and_tested_against_the_long_reference() -> None:
    config = load_yaml(EXAMPLE / "quick.yaml")
    text = (EXAMPLE / "README.md").read_text("utf-8")
    seed, oracle = config.seed_data, config.oracle
    assert isinstance(oracle, OpenMMOracleConfig)
    assert f"two trajectories of {seed.picoseconds:g} ps from the folded state" in text.replace("\n", " ")
    assert (seed.n_trajectories, seed.start) == (2, "folded")
    labels = config.stopping.rounds * config.selector.n_select
    assert f"{labels} labels of {oracle.relax_ps + oracle.production_ps:g} ps" in text
    assert estimate(config).oracle_ns == pytest.approx(0.864)
    assert [Path(p).name for p in config.evaluation.reference] == ["reference.npz"]
    assert config.evaluation.reweight
    assert config.tested is not None
    assert config.tested.n_replicas * config.tested.steps == 64 * 50_000
    assert config.refinement is None


def test_the_table_of_files_is_complete() -> None:
    text = (EXAMPLE / "README.md").read_text("utf-8")
    table = text[text.index("| file |") : text.index("\n\n", text.index("| file |"))]
    named = {
        name.rstrip("/")
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    # pictures of the main README
    found = {p.name for p in EXAMPLE.iterdir()} - {"README.md", "loop.svg", "report.png", "runs"}
    assert named == found
