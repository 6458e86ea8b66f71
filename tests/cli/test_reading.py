"""Commands read units, times and file names right, or refuse them, in any folder and on any terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.mapping import CGTopology
from tests.cli.test_main import call
from tests.driver.stand_ins import TOPOLOGY as SMALL
from tests.driver.stand_ins import made_store
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")


def command(folder: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run cgal in a process without a home folder, on a terminal that has ASCII only."""
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "HOME": "/proc/1/no-home",
        "MPLCONFIGDIR": str(folder / "mpl"),
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(folder)]),
        **variables,
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    program = [sys.executable, "-m", "cgal_plugin.cli.main", *map(str, arguments)]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Ørdner ё Å"
    made.mkdir()
    return made


def test_units_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("c", 1), ("r", 2)):
        np.save(tmp_path / f"{name}.npy", walks(30, seed=seed) / 10)
    arguments = ("-c", tmp_path / "c.npy", "-r", tmp_path / "r.npy", "-t", "YYDPETGTWY", "-n", 3, "-o")
    code, _, err = call(capsys, "select", *arguments, tmp_path / "a.npz")
    assert code == 1
    assert "c.npy: bonds have a tenth of their usual length" in err
    assert "--units" in err
    code, _, err = call(capsys, "select", *arguments, tmp_path / "a.npz", "--units", "nm")
    assert code == 0, err
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_allclose(saved["positions"], walks(30, seed=1)[saved["candidate"]], rtol=1e-5)
    code, _, err = call(capsys, "select", *arguments, tmp_path / "b.npz", "--units", "bohr")
    assert code == 2
    assert "--units 'bohr' is not known; use angstrom or nm" in err
    code, _, err = call(
        capsys, "evaluate", "-m", tmp_path / "c.npy", "-r", tmp_path / "r.npy", "-t", "YYDPETGTWY"
    )
    assert code == 1
    assert "a tenth" in err
    for name in ("simulate", "label", "backmap"):
        assert "--units" in call(capsys, name, "--help")[1]


def test_two_lags_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("-m", tmp_path / "c.npy", "-r", tmp_path / "r.npy", "-t", "YYDPETGTWY")
    code, _, err = call(capsys, "evaluate", *files, "--lag", 3, "--lag-ps", 10)
    assert code == 2
    assert "not both" in err


@pytest.mark.parametrize(
    "suffix", ["DCD", *(pytest.param(s, marks=pytest.mark.integration) for s in ("xtc", "TRR"))]
)
def test_any_folder_and_any_terminal(folder: Path, suffix: str) -> None:
    frames = walks(30, seed=4)
    fractional = frames / 41.0
    torn = 41.0 * (fractional - np.floor(fractional))
    made = mdtraj.Trajectory(torn / 10, TOPOLOGY.to_mdtraj())
    made.unitcell_vectors = np.tile(np.eye(3) * 4.1, (30, 1, 1))
    plain = folder.parent / f"t.{suffix.lower()}"  # mdtraj writes to ASCII names only
    made.save(str(plain))
    shutil.move(plain, folder / f"tré.{suffix}")
    made[0].save_pdb(str(folder / "töp.pdb"))
    np.save(folder / "ref.NPY.npy", walks(30, seed=5))
    done = command(
        folder, "select", "-c", f"tré.{suffix}", "-r", "ref.NPY.npy", "-t", "YYDPETGTWY", "--top", "töp.pdb",
        "-n", 3, "-o", "aus.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: tr" in done.stderr
    assert "made whole across the periodic box" in done.stderr
    assert "Traceback" not in done.stderr
    with np.load(folder / "aus.npz") as saved:
        found = saved["positions"]
        assert abs(np.linalg.norm(np.diff(found, axis=1), axis=-1) - 3.8).max() < 0.05
    # an error with an Å in it
    np.save(folder / "nm.npy", frames / 10)
    failed = command(folder, "select", "-c", "nm.npy", "-r", "nm.npy", "-t", "YYDPETGTWY", "-o", "x.npz")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nm.npy: bonds have a tenth of their usual length")
    assert " A)" in failed.stderr


@pytest.mark.integration
def test_a_run_without_a_home_folder(folder: Path) -> None:
    made_store(folder / "daten_ü")
    (folder / "quelle_h1.py").write_text(
        "from tests.driver.stand_ins import Fails\n"
        "class Springs(Fails):\n    def __init__(self):\n        super().__init__(0.0)\n"
    )
    config = {
        "system": {"sequence": SMALL.sequence, "temperature": 400.0},
        "seed_data": {"store": "daten_ü"},
        "training": {
            "epochs": 1,
            "finetune_epochs": 1,
            "model": {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4},
            "priors": {"terms": ["bonds"]},
        },
        "simulation": {"n_replicas": 2, "steps": 100, "report_interval": 50},
        "oracle": {"kind": "custom", "class": "quelle_h1:Springs"},
        "selector": {"kind": "random", "n_select": 2, "max_rmsd": None},
        "stopping": {"rounds": 1},
        "executor": {"workers": 1},
    }
    (folder / "laufé.yaml").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    done = command(folder, "run", "laufé.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("Warp cannot write its cache folder") == 1
    assert (folder / "runs" / "laufé" / "report.html").is_file()
    assert "nearest RMSD mean" in done.stdout
