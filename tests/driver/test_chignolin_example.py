"""The example of chignolin: its first run is what its texts say, and its files are those that are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.config import load_yaml, parse_config
from cgal_plugin.config.models import OpenMMOracleConfig
from cgal_plugin.runs.cost import estimate

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"


def test_the_first_run_is_narrow_short_and_tested_against_the_long_reference() -> None:
    config = load_yaml(EXAMPLE / "quick.yaml")
    text = (EXAMPLE / "README.md").read_text("utf-8")
    seed, oracle = config.seed_data, config.oracle
    assert isinstance(oracle, OpenMMOracleConfig)
    assert f"two trajectories of {seed.picoseconds:g} ps from the folded state" in text.replace("\n", " ")
    assert (seed.n_trajectories, seed.start) == (2, "auto")  # folded for this sequence
    labels = config.stopping.rounds * config.selector.n_select
    assert f"{labels} labels of {oracle.relax_ps + oracle.production_ps:g} ps" in text
    assert estimate(config).oracle_ns == pytest.approx(0.672)
    assert [Path(p).name for p in config.evaluation.reference] == ["reference.npz"]
    assert config.evaluation.reweight
    assert config.tested is not None
    assert config.tested.n_walkers * config.tested.steps == 32 * 16_000
    assert config.refinement is None


def test_the_first_run_is_the_default_recipe_in_smaller_sizes() -> None:
    """Each key that differs is a size, the reference, or the refinement, and its line says why."""
    text = (EXAMPLE / "quick.yaml").read_text("utf-8")
    ours = load_yaml(EXAMPLE / "quick.yaml").resolved()
    system = {"sequence": "YYDPETGTWY", "mapping": "CA", "temperature": 400.0}
    default = parse_config({"system": system}).resolved()
    differing = {key for key, _ in flat(ours).items() ^ flat(default).items()}
    sizes = {"seed_data.picoseconds", "seed_data.equilibration_ps", "seed_data.save_ps",
             "oracle.production_ps", "oracle.release_ps", "simulation.steps", "selector.n_select",
             "stopping.rounds", "test.n_replicas", "test.steps"}  # fmt: skip
    others = {key for key in differing if key.split(".")[0] in ("name", "seed", "evaluation", "refinement")}
    assert differing - others == sizes
    for key in sizes:
        assert re.search(rf"^  {key.split('.')[1]}: [^#]+# default: ", text, re.MULTILINE), key
    assert re.search(r"^refinement: null +# default: on", text, re.MULTILINE)


def flat(values: Any, path: str = "") -> dict[str, str]:
    """Return dotted key → value as text."""
    if not isinstance(values, dict) or not values:
        return {path: repr(values)}
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}.{key}".lstrip("."))
    return found


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
