"""A run with the bead numbers of another program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import DataError
from cgal_plugin.export import load_metadata
from tests.driver.tiny import SMOKE


@pytest.mark.integration
def test_a_run_numbers_its_beads_as_asked(tmp_path: Path) -> None:
    config = {**SMOKE, "system": {**SMOKE["system"], "embedding": "mlcg-tk"}}
    finished = run(parse_config(config), tmp_path / "run")
    types = [6, 20, 6, 1, 6]
    store = DataStore(tmp_path / "run" / "data")
    assert store.topology.embedding == "mlcg-tk"
    assert store.topology.types.tolist() == types
    made = load_metadata(finished.potential)
    assert (made["embedding"], made["types"]) == ("mlcg-tk", types)
    checkpoint = torch.load(finished.checkpoint, weights_only=True)
    assert checkpoint["cgal_plugin"]["embedding"] == "mlcg-tk"
    assert "mlcg-tk" in finished.report.read_text()
    again = {**SMOKE, "seed_data": {**SMOKE["seed_data"], "store": str(tmp_path / "run" / "data")}}
    with pytest.raises(DataError, match=r"'mlcg-tk', the system by 'cgal'"):
        run(parse_config(again), tmp_path / "again")
