"""The last line of a run's log says how it ended, also when a signal does not look like one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cgal_plugin.interrupts import Interrupted, handled
from cgal_plugin.runs.log import LOG, RunLog, SilentReporter, read_log


def _log(folder: Path) -> RunLog:
    return RunLog(SilentReporter(), folder / LOG)


def _raise_kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _swallow_and_exit() -> None:
    with contextlib.suppress(BaseException):  # as in a destructor
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit("as Lightning does when it has noticed a SIGTERM")


def _swallow_and_fail() -> None:
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)
    raise RuntimeError("of the C++ code that called back")


@pytest.mark.parametrize("work", [_raise_kill, _swallow_and_exit, _swallow_and_fail])
def test_a_signal_is_recorded_whatever_it_looks_like(work: Callable[[], None], tmp_path: Path) -> None:
    def run() -> None:
        log = _log(tmp_path)
        with handled(keyboard=False), log.recorded("hash"), log.stage("train"):
            work()

    with pytest.raises(Interrupted):
        run()
    last = read_log(tmp_path / LOG)[-1]
    assert (last["event"], last["stage"], last["signal"]) == ("interrupted", "train", "SIGTERM")


def test_an_error_is_recorded_as_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), _log(tmp_path).recorded("hash"):
        raise RuntimeError("of the model")
    last = read_log(tmp_path / LOG)[-1]
    assert (last["event"], last["error"], last["text"]) == ("error", "RuntimeError", "of the model")


def test_a_killed_main_thread_is_recorded(tmp_path: Path) -> None:
    code = (
        "import hashlib, os, signal, threading\n"
        "from pathlib import Path\n"
        "from cgal_plugin import interrupts\n"
        "from cgal_plugin.runs.log import RunLog, SilentReporter\n"
        "interrupts.GRACE_SECONDS = 0.5\n"
        f"log = RunLog(SilentReporter(), Path({str(tmp_path / LOG)!r}))\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "with interrupts.handled(), log.recorded('hash'), log.stage('train'):\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # minutes in C
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    last = read_log(tmp_path / LOG)[-1]
    assert (last["event"], last["stage"], last["signal"]) == ("interrupted", "train", "SIGTERM")
