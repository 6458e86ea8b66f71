"""Times of frames: files decide, contradictions are errors, and what is assumed is said."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.analysis.evaluate_files import evaluate_files
from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.config import parse_config
from cgal_plugin.data.dcd import append_dcd, create_dcd
from cgal_plugin.data.times import resolve_interval
from cgal_plugin.data.trajectories import read_trajectories
from cgal_plugin.errors import CGALWarning, DataError
from cgal_plugin.mapping import CGTopology
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")
N = 60


def slow(seed: int = 0) -> np.ndarray:
    """Frames that move slowly, for TICA."""
    rng = np.random.default_rng(seed)
    steps = np.add(np.cumsum(rng.normal(scale=0.1, size=(N, 10, 3)), axis=0), [3.0, 2.0, 1.0])
    return np.cumsum(steps / np.linalg.norm(steps, axis=-1, keepdims=True) * 3.8, axis=1)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    mdtraj.Trajectory(walks(1) / 10, TOPOLOGY.to_mdtraj()).save_pdb(str(tmp_path / "top.pdb"))
    return tmp_path / "top.pdb"


def save(path: Path, interval: float, start: float = 0.0, seed: int = 0) -> Path:
    times = start + interval * np.arange(N)
    mdtraj.Trajectory(slow(seed) / 10, TOPOLOGY.to_mdtraj(), time=times).save(str(path))
    return path


def evaluator(top: Path, *reference: Path, **evaluation: object) -> ReferenceEvaluator:
    values = {"reference": [str(p) for p in reference], "reference_topology": str(top), **evaluation}
    return ReferenceEvaluator(
        parse_config({"system": {"sequence": "YYDPETGTWY"}, "evaluation": values}), TOPOLOGY
    )


@pytest.mark.filterwarnings("ignore:Warning. The 'netCDF4'")
@pytest.mark.parametrize(
    ("suffix", "start"), [("xtc", 0.0), ("xtc", 1e6), ("trr", 0.0), ("trr", 1e6), ("h5", 1e6), ("nc", 0.0)]
)
def test_the_lag_follows_the_times_of_the_file(tmp_path: Path, top: Path, suffix: str, start: float) -> None:
    path = save(tmp_path / f"t.{suffix}", 100.0, start)
    found = evaluator(top, path, lag_ps="1 ns")
    assert found.lag_frames == 10
    assert found.interval.ps == pytest.approx(100.0)
    assert any("100 ps between frames, from the times in" in note for note in found.notes)
    assert found.lag_frames == evaluator(top, path, lag_ps="1 ns", reference_interval_ps=100).lag_frames
    message = (
        r"t\.\w+ has a frame every 100 ps, but evaluation\.reference_interval_ps is 1 ps; remove the key"
    )
    with pytest.raises(DataError, match=message):
        evaluator(top, path, reference_interval_ps=1).check()


def test_dcd_files_have_times_in_their_header(tmp_path: Path, top: Path) -> None:
    create_dcd(tmp_path / "t.dcd", 10, interval=500, timestep_ps=0.004)
    append_dcd(tmp_path / "t.dcd", slow(), n_before=0, interval=500, timestep_ps=0.004)
    assert evaluator(top, tmp_path / "t.dcd", lag_ps=20).lag_frames == 10
    with pytest.raises(DataError, match=r"every 2 ps, but .* 5 ps"):
        evaluator(top, tmp_path / "t.dcd", reference_interval_ps=5).check()


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "npy"])
def test_files_without_times_are_assumed_or_told(tmp_path: Path, top: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    if suffix == "npy":
        np.save(path, slow())
    else:  # mdtraj writes frame numbers as times, or none
        mdtraj.Trajectory(slow() / 10, TOPOLOGY.to_mdtraj()).save(str(path))
    assert evaluator(top, path, reference_interval_ps=5, lag_ps=20).lag_frames == 4
    with pytest.warns(CGALWarning, match=r"no times: 1 ps between frames is assumed; give evaluation\.ref"):
        assert evaluator(top, path, lag_ps=20).lag_frames == 20


def test_references_that_contradict_each_other(tmp_path: Path, top: Path) -> None:
    one, two = save(tmp_path / "a.xtc", 100.0), save(tmp_path / "b.xtc", 20.0)
    with pytest.raises(DataError, match=r"a\.xtc has a frame every 100 ps, but .*b\.xtc every 20 ps"):
        evaluator(top, one, two).check()


def test_uneven_times_are_refused(tmp_path: Path, top: Path) -> None:
    times = 100.0 * np.arange(N)
    times[30:] += 5000.0
    mdtraj.Trajectory(slow() / 10, TOPOLOGY.to_mdtraj(), time=times).save_xtc(str(tmp_path / "t.xtc"))
    with pytest.raises(
        DataError, match=r"not evenly spaced in time: 2900 ps and 8000 ps for frames 29 and 30"
    ):
        evaluator(top, tmp_path / "t.xtc").check()
    with pytest.raises(DataError, match="not evenly spaced"):
        resolve_interval([("t", np.arange(9.0)[::-1] * 2)], None, "key")


def test_the_record_beside_a_reference_gives_its_interval(tmp_path: Path, top: Path) -> None:
    np.savez(tmp_path / "reference.npz", trajectory_0=slow(), trajectory_1=slow(1))
    facts = {"interval_ps": 2.0, "sha256": {"reference.npz": "..."}}
    (tmp_path / "reference.json").write_text(json.dumps(facts))
    assert evaluator(top, tmp_path / "reference.npz", lag_ps=20).lag_frames == 10
    with pytest.raises(DataError, match=r"every 2 ps, but .* 1 ps"):
        evaluator(top, tmp_path / "reference.npz", reference_interval_ps=1).check()
    (tmp_path / "reference.json").write_text(json.dumps({**facts, "sha256": {"other.npz": "..."}}))
    assert read_trajectories(tmp_path / "reference.npz", TOPOLOGY)[0].times is None


def test_reference_units(tmp_path: Path, top: Path) -> None:
    np.save(tmp_path / "nm.npy", slow() / 10)
    with pytest.raises(DataError, match=r"evaluation\.reference_units"):
        evaluator(top, tmp_path / "nm.npy", reference_interval_ps=1).check()
    found = evaluator(top, tmp_path / "nm.npy", reference_units="nm", reference_interval_ps=1)
    np.testing.assert_allclose(found.reference[0], slow(), rtol=1e-5)


def test_evaluate_on_files_takes_lags_in_ps(tmp_path: Path, top: Path) -> None:
    path = save(tmp_path / "t.xtc", 100.0)
    options = {"top": top, "temperature": 300.0, "seed": 0, "n_bootstrap": 0, "n_splits": 0}
    result = evaluate_files([path], [path], TOPOLOGY, lag_ps=500.0, **options)
    assert result.tica.lag_frames == 5
    assert result.provenance["interval_source"] == "files"
    with pytest.raises(DataError, match="--interval-ps is 1 ps"):
        evaluate_files([path], [path], TOPOLOGY, interval_ps=1.0, **options)
    np.save(tmp_path / "t.npy", slow())
    with pytest.warns(CGALWarning, match="1 ps between frames is assumed"):
        evaluate_files([path], [tmp_path / "t.npy"], TOPOLOGY, lag_ps=5.0, **options)


def test_a_lag_shorter_than_the_interval_is_said(tmp_path: Path, top: Path) -> None:
    path = save(tmp_path / "t.xtc", 100.0)
    options = {"top": top, "temperature": 300.0, "seed": 0, "n_bootstrap": 0, "n_splits": 0}
    text = r"is 10 ps, shorter than the 100 ps between frames of the reference: the lag is one frame, 100 ps"
    with pytest.warns(CGALWarning, match=f"--lag-ps {text}"):
        result = evaluate_files([path], [path], TOPOLOGY, lag_ps=10.0, **options)
    assert result.tica.lag_frames == 1
    assert any("--lag-ps" in note for note in result.provenance["read"])
    found = evaluator(top, path, lag_ps=10.0)
    with pytest.warns(CGALWarning, match=rf"evaluation\.lag_ps {text}"):
        found.check()
    assert any("evaluation.lag_ps" in note for note in found.notes)
    assert not any("evaluation.lag_ps" in note for note in evaluator(top, path, lag_ps=100.2).notes)
