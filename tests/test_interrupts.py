"""Signals: an exception where Python runs, after a C++ call that calls back, or the end of the process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cgal_plugin import interrupts
from cgal_plugin.interrupts import Interrupted, check, deferred, handled


def _send(number: int, *, keyboard: bool = False) -> None:
    with handled(keyboard=keyboard):
        os.kill(os.getpid(), number)
        time.sleep(5)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_an_exception_and_the_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        _send(number)
    assert (caught.value.number, str(caught.value)) == (number, number.name)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    check()  # nothing is left of it


def test_ctrl_c_stays_a_keyboard_interrupt_for_scripts() -> None:
    with pytest.raises(KeyboardInterrupt):
        _send(signal.SIGINT, keyboard=True)


def test_within_a_deferred_block_it_waits_for_the_end() -> None:
    reached = []

    def work() -> None:
        with handled(), deferred():
            with deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append("after the signal")
            check()
            reached.append("after the inner block")
        reached.append("after the outer block")

    with pytest.raises(Interrupted):
        work()
    assert reached == ["after the signal", "after the inner block"]


def test_code_that_swallows_it_is_asked_again() -> None:
    def work() -> None:
        with handled():
            with contextlib.suppress(BaseException):  # as a __del__ does
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # a second one breaks into nothing
            check()

    with pytest.raises(Interrupted):
        work()


class _Dropping:
    """An object whose destructor meets the signal: Python drops the exception."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))


def _drop_in_a_destructor() -> None:
    _Dropping()


def _drop_in_a_callback() -> None:
    import ctypes

    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

    callback()


def _drop_in_a_weak_reference() -> None:
    import weakref

    thing = type("Thing", (), {})()
    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    assert watched() is None


@pytest.mark.parametrize("drop", [_drop_in_a_destructor, _drop_in_a_callback, _drop_in_a_weak_reference])
def test_a_signal_whose_exception_python_drops_is_raised_again(
    drop: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with handled(keyboard=False):
            drop()
            time.sleep(5)

    started = time.monotonic()
    with pytest.raises(Interrupted):
        work()
    assert time.monotonic() - started < 3
    assert "Traceback" not in capsys.readouterr().err


def test_no_signal_is_raised_again_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, the guard could notice a drop within the block, and send the signal after it."""

    class Late(interrupts._State):
        def __getattribute__(self, name: str) -> Any:
            if name != "dropped" or threading.current_thread() is threading.main_thread():
                return super().__getattribute__(name)
            time.sleep(0.5)  # the main thread leaves the block meanwhile
            return True

    def work() -> None:
        with handled():
            with contextlib.suppress(Interrupted):
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(2 * interrupts._AGAIN_SECONDS)

    monkeypatch.setattr(interrupts, "_state", Late())
    stray: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: stray.append(number))
    try:
        with pytest.raises(Interrupted):
            work()
        time.sleep(0.6)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not stray


@pytest.mark.parametrize("end", [lambda: None, lambda: sys.exit(0), lambda: 1 / 0])
def test_a_suppressed_signal_ends_the_block_as_a_signal(end: Callable[[], object]) -> None:
    """Nothing asks for it any more: the end of the block does."""

    def work() -> None:
        with handled():
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
            end()

    with pytest.raises(Interrupted):
        work()


def test_other_dropped_exceptions_are_reported_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    class Bad:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    before = sys.unraisablehook
    shown: list[object] = []
    sys.unraisablehook = lambda facts: shown.append(facts.exc_value)
    try:
        with handled():
            Bad()
    finally:
        sys.unraisablehook = before
    assert [str(error) for error in shown] == ["in a destructor"]


def test_blocks_within_blocks_and_other_threads_change_nothing() -> None:
    with handled():
        ours = signal.getsignal(signal.SIGTERM)
        with handled():
            assert signal.getsignal(signal.SIGTERM) is ours
        thread = threading.Thread(target=lambda: handled().__enter__())
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is ours


@pytest.mark.integration
def test_a_main_thread_in_a_long_c_call_is_killed() -> None:
    code = (
        "import hashlib\n"
        "from cgal_plugin import interrupts\n"
        "interrupts.GRACE_SECONDS = 1.0\n"
        "with interrupts.handled(), interrupts.last_words(lambda i: print('last words', i, flush=True)):\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # minutes in C
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "last words SIGUSR1\n"
    assert process.wait(timeout=30) == 128 + signal.SIGUSR1
