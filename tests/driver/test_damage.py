"""Damaged files, folders that cannot be written, and full disks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cgal_plugin.data import DataStore
from cgal_plugin.errors import CGALError, StateError
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, read_log
from tests.driver import stand_ins
from tests.driver.cheap import cheap_run, labels

pytestmark = pytest.mark.usefixtures("without_figures")


def flip(path: Path) -> None:
    """Turn one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut the second half off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    assert any(p.name.startswith(name) for p in (root / "data" / "damaged").iterdir())


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "train/model.ckpt",
        "train/potential_x4.pt",
        "train/manifest.json",
        "simulate/frames.npz",
        "simulate/manifest.json",
        "evaluate/coverage.npz",
        "evaluate/manifest.json",
        "select/selected.npz",
        "label/manifest.json",
    ],
)
def test_a_damaged_result_is_named_and_not_used(
    name: str, harm: Callable[[Path], None], cheap_finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(cheap_finished / "run", root)
    path = root / "rounds" / "round_000" / name
    harm(path)
    config = stand_ins.config(cheap_finished, stopping={"rounds": 2})
    if harm is Path.unlink and path.name == "manifest.json":
        before = labels(root)
        cheap_run(root, config)  # the stage is run again
        after = labels(root)
        assert {n: after[n] for n in before} == before
        return
    with pytest.raises(CGALError) as error:
        cheap_run(root, config)
    assert name.split("/")[-1] in str(error.value)
    assert "delete" in str(error.value)
    (path.parent / "manifest.json").unlink()  # as it says
    cheap_run(root, config)


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
