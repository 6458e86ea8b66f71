"""Locks on files: one holder, named to others, released when the holder is killed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cgal_plugin.execution.affinity import take_core
from cgal_plugin.file_lock import hold, holder, locked

#: makes the kernel refuse flock with ENOSYS, as a file system without locks does
_REFUSE_FLOCK = """
import ctypes, struct
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(program))), 0, 0):
    raise SystemExit(77)
"""
_FLOCK_NUMBER = {"x86_64": 73, "aarch64": 32}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def _take(path: Path) -> str:
    return f"from pathlib import Path\nfrom cgal_plugin.file_lock import *\npath = Path({str(path)!r})\n"


def test_a_second_holder_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "the folder"):
        assert holder(path) == path.read_text()
        assert hold(path) is None
        other = _python(_take(path) + "with locked(path, 'the folder', patience=0): pass")
        assert f"StateError: the folder is in use by pid {os.getpid()} on " in other.stderr
        assert path.read_text().startswith(f"pid {os.getpid()} on ")  # the second caller changed nothing
    assert holder(path) is None
    with locked(path, "the folder", patience=0):  # the file that is left behind is harmless
        pass


def test_a_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    killed = _python(_take(path) + "import os\nwith locked(path, ''): os.kill(os.getpid(), 9)")
    assert killed.returncode == -9
    assert path.read_text().startswith("pid ")
    assert holder(path) is None
    with locked(path, "the folder", patience=0):
        pass


def test_looking_for_a_holder_writes_nothing_and_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    assert not path.exists()
    with locked(path, ""):
        before = path.stat()
        assert holder(path) is not None
        assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    path.chmod(0o444)
    assert holder(path) is None


def test_without_flock_locks_are_refused(tmp_path: Path) -> None:
    if platform.machine() not in _FLOCK_NUMBER:
        pytest.skip("number of the flock system call not known")
    path = tmp_path / "lock"
    code = _REFUSE_FLOCK.format(number=_FLOCK_NUMBER[platform.machine()]) + _take(path)
    code += "from cgal_plugin.execution.affinity import take_core\nassert holder(path) is None\n"
    code += f"assert take_core(Path({str(tmp_path / 'cores')!r})) is None\nwith locked(path, ''): pass"
    done = _python(code)
    if done.returncode == 77:
        pytest.skip("no seccomp here")
    assert f"StateError: {path} cannot be locked: its file system has no locks (flock: " in done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_no_core_is_taken_where_its_locks_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert take_core(tmp_path / "file" / "cores") is None
