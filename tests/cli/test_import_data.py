"""cgal import-data passes all-atom trajectories on, and says which options belong to which data."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.config import dump_yaml
from cgal_plugin.data import DataStore
from cgal_plugin.errors import ConfigError
from tests.exchange.all_atom import config, simulated

pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the CG topology")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = simulated().write(tmp_path_factory.mktemp("all_atom"))
    (folder / "run.yaml").write_text(dump_yaml(config()))
    np.save(folder / "a_coords.npy", np.zeros((3, 3, 3)))
    return folder


def call(*arguments):
    return CliRunner().invoke(app, ["import-data", *map(str, arguments)])


def test_trajectories_become_a_store(files, tmp_path):
    found = call(files / "f.trr", "-t", files / "top.pdb", "--temperature", 300, "-o", tmp_path / "s")
    assert found.exit_code == 0, found.output
    store = DataStore(tmp_path / "s")
    assert store.topology.sequence == "AYA"
    assert "frames" in found.output
    system = ("--topology", files / "top.pdb", "--config", files / "run.yaml")
    computed = call(files / "n.trr", *system, "--out", tmp_path / "n", "--stride", 10)
    assert computed.exit_code == 0, computed.output
    other = DataStore(tmp_path / "n").load_all()
    np.testing.assert_array_equal(other.positions, store.load_all().positions[::10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["f.trr", "--units", "nm"], "--units is for CG data; the input is all-atom trajectories"),
        (["f.trr", "--priors", "p.yaml"], "--priors is for CG data"),
        (["f.trr", "a_coords.npy"], "one after the other"),
        (["a_coords.npy", "--stride", "2"], "--stride is for all-atom trajectories; the input is CG data"),
        (["a_coords.npy", "--config", "run.yaml"], "--config is for all-atom trajectories"),
        (["nowhere.xtc"], "nowhere.xtc' does not exist"),
        (["a_coords.npy"], "a has no forces|neither bead types"),
        (["f.trr", "-t", "top.pdb", "-t", "top.pdb"], "--topology is given twice"),
        (["f.trr", "-t", "top.pdb"], "temperature"),
        (["f.trr", "--format", "npy"], "f.trr"),
    ],
)
def test_wrong_input_is_an_error_of_usage(files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    found = call(*arguments, "--out", tmp_path / "s")
    assert isinstance(found.exception, ConfigError), "main() makes exit code 2 of it"
    with pytest.raises(ConfigError, match=message):
        raise found.exception
    assert not (tmp_path / "s").exists()
