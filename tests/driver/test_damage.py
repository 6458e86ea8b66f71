"""Damaged files, folders that cannot be written, and full disks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.components.protocols import TrainedModel, TrainRequest
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import CGALError, StateError
from cgal_plugin.reporting.collect import report_run
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, read_log
from tests.damage import cut, empty, flip
from tests.driver import stand_ins
from tests.driver.cheap import cheap_run, labels, without_figures
from tests.driver.tiny import SMOKE

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("name", ["r000_f0003.npz", "r000_f0003.json", "seed_000.npz", "seed_000.json"])
def test_a_damaged_shard_is_named_and_made_again(
    name: str, harm: Callable[[Path], None], cheap_finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    before = labels(root)
    harm(root / "data" / "shards" / name)
    result = cheap_run(root, stand_ins.config(cheap_finished, stopping={"rounds": 2}))
    assert len(result.rounds) == 3
    after = labels(root)
    assert {n: after[n] for n in before} == before
    told = [e for e in read_log(root / LOG) if e["event"] == "damage"]
    assert len(told) == 1
    assert name.split(".")[0] in told[0]["what"]
    assert any(p.name.startswith(name) for p in (root / "data" / "damaged").rglob("*"))


def content(root: Path) -> dict[str, Any]:
    """Content of every stage and label of a run, and its final model."""
    found: dict[str, Any] = {"labels": labels(root), "model": (root / "potential.pt").read_bytes()}
    for path in sorted(root.rglob("manifest.json")):
        if "damaged" not in path.parts:
            manifest = json.loads(path.read_text())
            results = {k: v for k, v in manifest["results"].items() if k != "metrics"}  # they hold seconds
            found[str(path.parent.relative_to(root))] = manifest["content"], results, manifest["upstream"]
    return found


def damage_told(root: Path, n_before: int) -> list[str]:
    """What the log says about damage since it had ``n_before`` events."""
    return [e["what"] for e in read_log(root / LOG)[n_before:] if e["event"] == "damage"]


def files_of(root: Path) -> list[str]:
    """Files of a run that hold its state, one shard of each kind."""
    skipped = ("run.lock", "report.html", LOG, ".lock")
    paths = (p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file() and p.name not in skipped)
    names = [p.as_posix() for p in paths if "work" not in p.parts]
    return [n for n in names if not re.search(r"f000[1-9]\.", n)]


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        pytest.param(cut, marks=pytest.mark.integration),
        pytest.param(empty, marks=pytest.mark.integration),
        pytest.param(Path.unlink, id="missing", marks=pytest.mark.integration),
    ],
)
def test_every_damaged_file_of_a_finished_run_is_made_again(
    harm: Callable[[Path], None], cheap_finished: Path, tmp_path: Path
) -> None:
    """The run finishes with the same content, and says what was damaged."""
    before, config = content(cheap_finished / "run"), stand_ins.config(cheap_finished)
    n_events = len(read_log(cheap_finished / "run" / LOG))
    names = files_of(cheap_finished / "run")
    assert {n.split("/")[0] for n in names} >= {"config.yaml", "run.json", "data", "priors", "seed", "rounds"}
    quiet = ("model.ckpt", "potential.pt")  # copied anew from the last round by each call
    for name in names:
        if harm is Path.unlink and (name.endswith(".json") or name == "config.yaml"):
            continue  # without it, the stage, shard or run does not exist
        root = tmp_path / name.replace("/", "_")
        shutil.copytree(cheap_finished / "run", root)
        harm(root / name)
        cheap_run(root, config)
        assert content(root) == before, name
        told = damage_told(root, n_events)
        assert len(told) == (name not in quiet and not (harm is Path.unlink and "force_map" in name)), name
        assert all(Path(name).name.split(".")[0] in text for text in told), name


@pytest.mark.parametrize("name", ["train/model.ckpt", "simulate/frames.npz", "evaluate/coverage.npz"])
def test_a_file_that_is_gone_is_made_again(name: str, cheap_finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    (root / "rounds" / "round_000" / name).unlink()
    cheap_run(root, stand_ins.config(cheap_finished))
    assert content(root) == content(cheap_finished / "run")


class Fickle(stand_ins.Untrained):
    """A trainer whose models are never the same, like one on a GPU."""

    def train(self, request: TrainRequest, progress: Any = None) -> TrainedModel:
        path = request.out_dir / "model.ckpt"
        path.write_bytes(os.urandom(16))
        return TrainedModel(path)


class FickleNoise(stand_ins.Noise):
    """A sampler that depends on the potential."""

    def sample(self, potential: Path, *arguments: Any, seed: int, **options: Any) -> Any:
        own = int.from_bytes(potential.read_bytes()[:4], "big")
        return super().sample(potential, *arguments, seed=own, **options)


def test_what_depends_on_other_content_is_made_again_and_labels_are_kept(
    cheap_finished: Path, tmp_path: Path
) -> None:
    root, config = tmp_path / "run", stand_ins.config(cheap_finished, stopping={"rounds": 2})
    parts: dict[str, Any] = {"trainer": Fickle(), "sampler": FickleNoise()}
    cheap_run(root, config, **parts)
    before, n_events = content(root), len(read_log(root / LOG))
    flip(root / "rounds" / "round_001" / "train" / "model.ckpt")
    cheap_run(root, config, **parts)
    after = content(root)
    for stage in ("seed", "priors", *(f"rounds/round_000/{s}" for s in ("train", "simulate", "evaluate"))):
        assert after[stage] == before[stage]
    for stage in ("round_001/train", "round_001/simulate", "round_001/evaluate", "round_002/train"):
        assert after[f"rounds/{stage}"] != before[f"rounds/{stage}"]
    assert after["labels"] == before["labels"]
    assert after["rounds/round_001/select"] == before["rounds/round_001/select"]
    events = read_log(root / LOG)[n_events:]
    texts = [e["text"] for e in events if e["event"] == "message"]
    assert any("model.ckpt is made again, different from the damaged one" in t for t in texts)
    assert any("round_001/select was computed from other data" in t and "it is kept" in t for t in texts)
    cheap_run(root, config, **parts)  # and now nothing is made again
    assert {k: v for k, v in content(root).items() if "select" not in k} == {
        k: v for k, v in after.items() if "select" not in k
    }


def test_a_damaged_configuration_is_compared_by_its_hash(cheap_finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    flip(root / "config.yaml")
    other = stand_ins.config(cheap_finished, training={"learning_rate": 0.01})
    with pytest.raises(StateError, match="give exactly the one of the last call, or --accept-changes"):
        cheap_run(root, other)
    cheap_run(root, other, accept_changes=True)
    assert RunDirectory(root).config() == other


def test_damage_is_named_by_the_report(cheap_finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    flip(root / "rounds/round_000/simulate/frames.npz")
    with pytest.raises(StateError, match=r"frames\.npz is damaged; run `cgal run` again"):
        report_run(root)


def test_a_damaged_quarantine_record_is_labelled_again(cheap_finished: Path, tmp_path: Path) -> None:
    root, config = tmp_path / "run", stand_ins.config(cheap_finished, oracle={"max_failure_rate": 1.0})
    cheap_run(root, config, oracle=stand_ins.Fails(0.5, ("refuse",)))
    folder = root / "rounds" / "round_000" / "label"
    records = sorted(folder.glob("quarantined_*.json"))
    before, n_events = content(root), len(read_log(root / LOG))
    shutil.rmtree(root / "rounds" / "round_001")
    (folder / "manifest.json").unlink()  # as if killed while labelling
    flip(records[0])
    cheap_run(root, config, oracle=stand_ins.Fails(0.5, ("refuse",)))
    assert content(root) == before
    assert [records[0].name in told for told in damage_told(root, n_events)] == [True]
    assert sorted(folder.glob("quarantined_*.json")) == records


@pytest.fixture(scope="module")
def real_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round with our own parts."""
    root = tmp_path_factory.mktemp("real") / "run"
    with without_figures():
        run(parse_config(REAL), root)
    return root


REAL = {**SMOKE, "selector": {"n_select": 2, "max_rmsd": None}}


#: files of a real run that need more than writing them anew
HARD = (
    "seed/trajectory_000.npz",
    "priors/priors.yaml",
    "train/model_000/epoch_0002.ckpt",
    "train/potential_x4.pt",
    "simulate/replica_000.dcd",
)
#: files on which an unfinished stage depends
STATE = (
    "priors.yaml",
    "training.json",
    "epoch_0002.ckpt",
    "replica_000.dcd",
    "checkpoint.npz",
    "simulation.json",
)


@pytest.mark.parametrize(
    "only", [pytest.param(HARD, marks=pytest.mark.integration), pytest.param(("",), marks=pytest.mark.slow)]
)
def test_every_damaged_file_of_a_real_run_is_made_again(
    only: tuple[str, ...], real_finished: Path, tmp_path: Path
) -> None:
    before, n_events = content(real_finished), len(read_log(real_finished / LOG))
    for name in files_of(real_finished):
        if "round_001" in name or not name.endswith(only):
            continue
        root = tmp_path / "run"
        shutil.copytree(real_finished, root)
        flip(root / name)
        run(parse_config(REAL), root)
        assert content(root) == before, name
        unread = ("epoch_0001", "json", "hparams", "metrics", "splits", "simulate/checkpoint", "topology.pdb")
        if not any(part in name for part in unread) and "/" in name:
            assert damage_told(root, n_events), name
        shutil.rmtree(root)


@pytest.mark.parametrize(
    "only", [pytest.param(STATE, marks=pytest.mark.integration), pytest.param(("",), marks=pytest.mark.slow)]
)
def test_every_damaged_file_of_an_interrupted_stage_is_made_again(
    only: tuple[str, ...], real_finished: Path, tmp_path: Path
) -> None:
    """As if the run was killed before the stage recorded its results."""
    before = content(real_finished)
    order = ["priors", *(f"rounds/round_000/{s}" for s in ("train", "simulate", "evaluate", "select"))]
    unread = ("manifest.json", ".png", ".csv", ".pdb")
    for name in files_of(real_finished):
        stage = next((s for s in order[:3] if name.startswith(s)), None)
        if stage is None or name.endswith(unread) or not name.endswith(only):
            continue
        root = tmp_path / "run"
        shutil.copytree(real_finished, root)
        (root / stage / "manifest.json").unlink()
        for later in [*order[order.index(stage) + 1 :], "rounds/round_000/label", "rounds/round_001"]:
            shutil.rmtree(root / later)
        flip(root / name)
        run(parse_config(REAL), root)
        assert content(root) == before, name
        shutil.rmtree(root)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_manifest_cannot_lead_out_of_its_folder(
    absolute: bool, cheap_finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(b"evil")
    path = root / "rounds/round_000/train/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    manifest["results"]["checkpoint"] = str(evil) if absolute else "../../../../evil.ckpt"
    path.write_text(json.dumps(manifest))
    with pytest.raises(StateError, match="outside the folder"):
        cheap_run(root, stand_ins.config(cheap_finished))


def test_a_changed_record_is_named(cheap_finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    path = root / "data" / "shards" / "r000_f0000.json"
    path.write_text(path.read_text().replace('"source": "round_000"', '"source": "round_007"'))
    with pytest.raises(CGALError, match=r"r000_f0000\.json is damaged.*checksum"):
        DataStore(root / "data").record("r000_f0000")


def test_accepted_changes_restart_unfinished_stages(cheap_finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    (root / "rounds" / "round_001" / "train" / "manifest.json").unlink()
    changed = stand_ins.config(cheap_finished, stopping={"rounds": 2}, training={"learning_rate": 0.01})
    with pytest.raises(StateError, match=r"training\.learning_rate: 0\.001 -> 0\.01"):
        cheap_run(root, changed)
    result = cheap_run(root, changed, accept_changes=True)
    assert len(result.rounds) == 3
    assert (root / "rounds" / "round_001" / ".train.0" / "model.ckpt").exists()


# ---------------------------------------------------------------------- disks


class Disk:
    """A small file system in memory."""

    def __init__(self, path: Path, options: str) -> None:
        self.path = path
        path.mkdir()
        self._mount(options)

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no permission to mount a file system")

    def remount(self, options: str) -> None:
        """Change size or mode."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    mounted: list[Disk] = []

    def make(options: str) -> Disk:
        mounted.append(Disk(tmp_path / "disk", options))
        return mounted[-1]

    yield make
    for each in mounted:
        subprocess.run(["umount", "-l", str(each.path)], check=True)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.integration)])
def test_a_full_disk_is_named_and_loses_nothing(
    workers: int, disk: Callable[[str], Disk], cheap_finished: Path
) -> None:
    """Wherever the run is when the disk fills up, it ends with the same labels once there is space."""
    small = disk("size=20k")
    config = stand_ins.config(cheap_finished, executor={"workers": workers})
    said = []
    for size in range(28, 400, 36 if workers else 12):
        with contextlib.suppress(StateError):
            try:
                cheap_run(small.path / "run", config)
                break
            except StateError as error:
                said.append(str(error))
                raise
        assert not list(small.path.rglob("*.tmp"))
        small.remount(f"size={size}k")
    assert all("No space left on device" in text or "the disk is full" in text for text in said)
    small.remount("size=10m")
    cheap_run(small.path / "run", config)
    assert len(said) > 3
    assert labels(small.path / "run") == labels(cheap_finished / "run")


def test_a_read_only_disk_is_named(disk: Callable[[str], Disk], cheap_finished: Path) -> None:
    small = disk("size=10m")
    shutil.copytree(cheap_finished / "run", small.path / "run")
    small.remount("ro")
    before = _hashes(small.path)
    with pytest.raises(StateError, match=r"cannot be written: .*Read-only file system"):
        cheap_run(small.path / "run", stand_ins.config(cheap_finished))
    assert _hashes(small.path) == before


def test_a_folder_of_another_user_is_refused(cheap_finished: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from cgal_plugin.runs.directory import RunDirectory\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "with RunDirectory(sys.argv[1]).locked(): pass\n"
    )
    root = tmp_path / "run"
    root.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    process = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True)
    assert process.returncode == 1
    assert "cannot be written" in process.stderr
    assert "Permission denied" in process.stderr


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()
    }


def test_the_lock_waits_for_a_reader(tmp_path: Path) -> None:
    """A reader that tries the lock for a moment (cgal status) does not turn a run away."""
    import fcntl
    import threading

    (tmp_path / "run.lock").touch()
    handle = os.open(tmp_path / "run.lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.3, os.close, [handle])
    timer.start()
    with RunDirectory(tmp_path).locked():
        pass
    timer.join()
