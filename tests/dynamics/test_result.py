"""Loading a simulation from its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cgal_plugin.dynamics import Guard, load_simulation, simulate
from cgal_plugin.errors import StateError
from tests.dynamics.potentials import CROSSED, WELL, HarmonicChain, coil_start, save_potential
from tests.dynamics.test_restart import Interrupted, stop_at

ARGUMENTS = {
    "timestep_fs": 4.0,
    "temperature": 300.0,
    "friction": 1.0,
    "report_interval": 20,
    "guard": Guard(max_temperature_ratio=None),
}


@pytest.fixture(scope="module")
def start(chignolin, tmp_path_factory):
    """Return a function that simulates two replicas, one of which crosses the limit of the potential."""
    module = HarmonicChain(2, 10, fault=1, limit=CROSSED, well=WELL)
    potential = save_potential(module, tmp_path_factory.mktemp("potential") / "p.pt")

    def call(out_dir, steps=100, **changes):
        arguments = {**ARGUMENTS, "steps": steps, "out_dir": out_dir} | changes
        return simulate(potential, chignolin, coil_start(2, 10), **arguments)

    return call


def test_the_loaded_result_is_the_returned_one(start, tmp_path):
    result = start(tmp_path / "sim", steps=800)
    assert [event.replica for event in result.events] == [1]
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sim").iterdir()}
    loaded = load_simulation(tmp_path / "sim")
    assert loaded == result
    for found, expected in zip(loaded.load(), result.load(), strict=True):
        assert np.array_equal(found, expected)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sim").iterdir()} == files
    assert start(tmp_path / "sim", steps=800) == result


def test_an_incomplete_simulation_is_refused(start, tmp_path):
    with pytest.raises(Interrupted):
        start(tmp_path / "sim", progress=stop_at(60), checkpoint_interval=20)
    with pytest.raises(StateError, match=r"incomplete \(60 steps done\); call simulate"):
        load_simulation(tmp_path / "sim")
    start(tmp_path / "sim")
    assert load_simulation(tmp_path / "sim").n_frames == (5, 5)
    # a complete simulation that is being extended
    with pytest.raises(Interrupted):
        start(tmp_path / "sim", steps=200, progress=stop_at(160), checkpoint_interval=20)
    with pytest.raises(StateError, match=r"incomplete \(160 steps done\)"):
        load_simulation(tmp_path / "sim")


@pytest.mark.parametrize("name", ["simulation.json", "checkpoint.npz"])
def test_a_folder_without_a_simulation_is_refused(start, tmp_path, name):
    with pytest.raises(StateError, match="holds no simulation"):
        load_simulation(tmp_path / "nothing")
    start(tmp_path / "sim")
    (tmp_path / "sim" / name).unlink()
    with pytest.raises(StateError, match="holds no simulation"):
        load_simulation(tmp_path / "sim")


#: bytes of a header are checked as far as they locate the frames: title and number of beads
@pytest.mark.parametrize("position", [120, 188, 196, 400, -1])
def test_a_damaged_trajectory_is_refused(start, tmp_path, position):
    start(tmp_path / "sim")
    path = tmp_path / "sim" / "replica_001.dcd"
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(StateError, match=r"replica_001\.dcd' is damaged; delete"):
        load_simulation(tmp_path / "sim")


def test_missing_files_and_foreign_manifests_are_refused(start, tmp_path):
    start(tmp_path / "sim")
    (tmp_path / "sim" / "replica_000.dcd").unlink()
    with pytest.raises(StateError, match=r"replica_000\.dcd' is missing"):
        load_simulation(tmp_path / "sim")
    for content in ("no JSON", "[]", json.dumps({"format": 99})):
        (tmp_path / "sim" / "simulation.json").write_text(content)
        with pytest.raises(StateError, match=r"not a manifest of format 1|is damaged"):
            load_simulation(tmp_path / "sim")
