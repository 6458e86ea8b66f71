"""The commands: right input does the work, wrong input is one clear line and an exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.cli import main as cli
from cgal_plugin.cli.progress import round_line
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet
from tests.priors.chains import chains
from tests.walks import walks


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of ``cgal ARGUMENTS``, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cgal", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            sys.exit(cli.main())
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_template_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    assert call(capsys, "template", "--out", path)[0] == 0
    code, out, _ = call(capsys, "validate", path)
    assert code == 0
    assert "sequence: YYDPETGTWY" in out
    code, _, err = call(capsys, "template", "--out", path)
    assert code == 2
    assert "already exists" in err
    assert call(capsys, "validate", path)[0] == 0


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "schema")
    assert code == 0
    assert json.loads(out)["title"] == "Config"


def test_dry_run_prints_plan_and_cost_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("system: {sequence: YYDPETGTWY, temperature: 400 K}")
    code, out, _ = call(capsys, "run", path, "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    for part in ("ns of all-atom MD", "CG replica-steps", "min with", "48 labels"):
        assert part in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "nowhere.yaml"), 2, "does not exist"),
        (("report", "nowhere"), 1, "not a run directory"),
        (("fit-priors", "nowhere", "-o", "x.yaml"), 1, "not a data store"),
        (("label", "nowhere.npz", "--system", "GYG", "-o", "x"), 1, "nowhere.npz"),
        (("label", "nowhere.npz", "--system", "GXG", "-o", "x"), 1, "'X' at position 2"),
        (("evaluate", "-m", "a.npz", "-r", "b.npz", "-t", "YYX"), 1, "'X' at position 3"),
        (("select", "-c", "a.npz", "-r", "b.npz", "-t", "YYY", "-o", "x"), 1, "a.npz"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = call(capsys, *arguments)
    assert found == code
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cgal", "validate", "nowhere.yaml", "--debug"])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cli.main()


def test_fit_priors_by_forces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = CGTopology.from_sequence("GYGAG")
    store = DataStore.create(tmp_path / "data", topology, temperature=400.0, force_map_hash="m")
    frames, index = chains(300, 5), np.arange(300)
    forces = np.random.default_rng(0).normal(size=frames.shape)
    store.append("s", LabelledFrames(frames, forces, index, 0 * index, np.zeros(300)), source="seed")
    common = ("fit-priors", str(tmp_path / "data"), "-o", str(tmp_path / "p.yaml"), "--terms", "bonds,pairs")
    code, out, _ = call(capsys, *common, "--method", "force_matching", "--plot", str(tmp_path / "p.png"))
    assert code == 0
    assert json.loads(out.splitlines()[-1])["term"] == "pairs"
    assert PriorSet.load(tmp_path / "p.yaml").terms == ("bonds", "pairs")
    code, _, err = call(capsys, *common, "--method", "likelihood")
    assert code == 2
    assert "'force_matching'" in err
    for more, terms in (
        ((), ("bonds", "angle_series", "dihedrals", "repulsion", "pairs")),  # as in a run
        (("--method", "likelihood"), ("bonds", "angles", "dihedrals", "repulsion")),
    ):
        code, _, err = call(capsys, *common[:-2], *more)
        assert code == 0
        assert ", ".join(terms) in err
        assert set(PriorSet.load(tmp_path / "p.yaml").terms) == set(terms)


def test_train_counts_averaged_forces_by_their_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = CGTopology.from_sequence("GYGAG")
    store = DataStore.create(tmp_path / "data", topology, temperature=400.0, force_map_hash="m")
    frames, index = chains(40, 5), np.arange(40)
    forces = np.random.default_rng(0).normal(size=frames.shape)
    for source, error in (("seed", 10.0), ("round_001", 2.0)):
        labels = LabelledFrames(frames, forces, index, 0 * index, np.full(40, error))
        store.append(source, labels, source=source)
    keys = "num_epochs: 1\nembedding_dimension: 8\nnum_layers: 1\nnum_rbf: 8\n"
    for name, more, items in (("a", "", 26), ("b", "dataset_arg: {repeat: {seed: 3}}\n", 4)):
        (tmp_path / "keys.yaml").write_text(keys + more)
        command = ("train", str(tmp_path / "data"), "-o", str(tmp_path / name))
        code, _, err = call(capsys, *command, "--config", str(tmp_path / "keys.yaml"))
        assert code == 0, err
        with np.load(tmp_path / name / "splits.npz") as split:
            assert 0.8 * items * 40 < len(split["idx_train"]) + len(split["idx_val"]) <= items * 40


def test_select_and_evaluate_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = CGTopology.from_sequence("YYDPETGTWY")
    rng = np.random.default_rng(0)
    walk = np.cumsum(np.cumsum(rng.normal(scale=0.09, size=(240, 10, 3)), axis=0), axis=1)
    walk += np.arange(10)[:, None] * [3.8, 0, 0]
    trajectory = mdtraj.Trajectory(walk / 10, topology.to_mdtraj())
    trajectory[:120].save_dcd(str(tmp_path / "a.dcd"))
    trajectory[120:].save_dcd(str(tmp_path / "b.dcd"))
    trajectory[0].save_pdb(str(tmp_path / "top.pdb"))
    files = ("-t", tmp_path / "top.pdb", "--top", tmp_path / "top.pdb")
    chosen = tmp_path / "s.npz"
    frames = ("-c", tmp_path / "b.dcd", "-r", tmp_path / "a.dcd")
    code, out, err = call(capsys, "select", *frames, "-n", 4, "-o", chosen, *files)
    assert code == 0, err
    assert len(out.splitlines()) == 4
    with np.load(chosen) as arrays:
        assert arrays["positions"].shape == (4, 10, 3)
        assert (arrays["distances"] > 0).all()
    others = ("-o", tmp_path / "covering.npz", "--strategy", "coverage", "--min-rmsd", 1)
    code, covering, err = call(capsys, "select", *frames, "-n", 4, *files, *others)
    assert code == 0, err
    assert all(float(line.split()[1]) >= 1.0 for line in covering.splitlines())
    # the same reference in shards: a folder of arrays and a file
    (tmp_path / "shards").mkdir()
    for k, part in enumerate(np.array_split(walk[:80], 3)):
        np.save(tmp_path / "shards" / f"{k}.npy", part)
    trajectory[80:120].save_dcd(str(tmp_path / "rest.dcd"))
    shards = ("-c", tmp_path / "b.dcd", "-r", tmp_path / "shards", "-r", tmp_path / "rest.dcd")
    code, again, err = call(capsys, "select", *shards, "-n", 4, "-o", tmp_path / "again.npz", *files)
    assert code == 0, err
    assert again == out
    code, out, err = call(
        capsys, "evaluate", "-m", tmp_path / "b.dcd", "-r", tmp_path / "a.dcd", "--lag", 5, *files
    )
    assert code == 0, err
    assert json.loads(out)["w1"]["value"] > 0
    written = ("-m", tmp_path / "b.dcd", "-r", tmp_path / "a.dcd", "--lag", 5, "-o", tmp_path / "w1.json")
    code, out, err = call(capsys, "evaluate", *written, *files)
    assert code == 0, err
    assert [line.split(" ")[0] for line in out.splitlines()] == ["W1", "W1"]
    assert json.loads((tmp_path / "w1.json").read_text())["w1"]["value"] > 0


def test_round_line_shows_w1_only_with_its_interval_and_floor() -> None:
    row = {
        "round": 1,
        "n_frames": 10,
        "coverage": {"mean": 1.0, "q95": 2.0},
        "n_blow_ups": 0,
        "w1": {"value": 0.5, "interval": (0.4, 0.6), "floor": 0.1},
        "w1_ucsc": {"value": 0.7, "interval": None, "floor": None},
    }
    line = round_line(row)
    assert "W1 0.500 [0.400, 0.600] floor 0.100" in line
    assert "W1 (ucsc) 0.700 (no interval) no floor" in line


def test_an_unexpected_error_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text(
        "class Broken:\n    def __init__(self):\n        raise ValueError('boom')\n"
    )
    path = tmp_path / "run.yaml"
    path.write_text("system: {sequence: GYG}\noracle: {kind: custom, class: 'broken:Broken'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        code, _, err = call(capsys, "run", path, "--out", tmp_path / "run")
    assert code == 1
    assert err.startswith("error: ValueError: boom (")
    assert "broken.py:3" in err
    assert not (tmp_path / "run" / "config.yaml").exists()  # a corrected file is not refused as a change


def test_a_trajectory_reader_does_not_write_into_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    topology = CGTopology.from_sequence("GYG")
    frames = walks(20, 3)
    mdtraj.Trajectory(frames / 10, topology.to_mdtraj()).save_dcd(str(tmp_path / "a.dcd"))
    np.save(tmp_path / "b.npy", frames[:10])
    topology.save(tmp_path / "top.json")
    mdtraj.Trajectory(frames[:1] / 10, topology.to_mdtraj()).save_pdb(str(tmp_path / "top.pdb"))
    capfd.readouterr()
    files = ("-c", "a.dcd", "--top", "top.pdb", "-r", "b.npy", "-t", "top.json", "-n", "3", "-o", "s.npz")
    code, out, err = call(capfd, "select", *files)
    assert code == 0, err
    assert [len(line.split("\t")) for line in out.splitlines()] == [2, 2, 2]
