"""Signals that end a run within seconds.

Files are always complete (they are written under a temporary name and renamed), so only unfinished work
is lost. A signal raises :class:`Interrupted` in the main thread. In C++ code that calls Python (an OpenMM
integrator with a potential in Python), the exception would look like an error of the potential; there it is
raised after the call (:func:`deferred`). If the main thread is in a long C++ call and does not end in time,
the process is killed.

Python drops an exception in a destructor or in a callback from C. The signal is then raised again, at the
latest at the end of the block: it is never lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: s after a signal until the process is killed
GRACE_SECONDS = 10.0
#: s after a dropped exception until the signal is raised again
_AGAIN_SECONDS = 0.05


class Interrupted(BaseException):
    """A signal ended the run. A BaseException, so that ``except Exception`` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """Exit code by the convention of shells."""
        return 128 + self.number


@dataclass
class _State:
    active: bool = False
    pending: int | None = None
    held: int = 0
    #: called before the process is killed
    last_words: list[Callable[[Interrupted], None]] = field(default_factory=list)
    #: whether Python has dropped the exception, and it was not raised again (no Event: it has a lock)
    dropped: bool = False
    #: held while a signal is raised again and while the handlers are put back, so that they are there for it
    sending: threading.Lock = field(default_factory=threading.Lock)


_state = _State()


def check() -> None:
    """Raise a pending signal: one that was deferred, or whose exception was suppressed.

    Raises
    ------
    Interrupted
        A signal is pending.
    """
    if _state.pending is not None and not _state.held:
        raise Interrupted(_state.pending)


def signal_of(error: BaseException | None) -> Interrupted | None:
    """Return the signal that ends a block, with this exception or without one, if any.

    A signal can look like another error: its exception was in a callback, or Lightning ended by its own
    ``SystemExit``.
    """
    if isinstance(error, Interrupted):
        return error
    return None if _state.pending is None else Interrupted(_state.pending)


@contextlib.contextmanager
def last_words(say: Callable[[Interrupted], None]) -> Iterator[None]:
    """Within the block, call ``say`` (in another thread) before the process is killed by :func:`handled`."""
    _state.last_words.append(say)
    try:
        yield
    finally:
        _state.last_words.remove(say)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer signals to the end of the block."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    check()


def _handle(number: int, frame: FrameType | None) -> None:
    # a second signal must not interrupt the clean-up after the first
    if _state.pending is None or _state.dropped:
        _state.pending = _state.pending or number
        _state.dropped = False
        check()


@contextlib.contextmanager
def _noticing_drops() -> Iterator[None]:
    """Notice that Python has dropped the exception of a signal; do not print it as an ignored error."""
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def dropped(facts: Any) -> None:  # in a destructor, or in a callback of ctypes
        if isinstance(facts.exc_value, Interrupted):
            _state.dropped = True
        else:
            unraisable(facts)

    def printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Interrupted):  # in C code that prints exceptions and goes on
            _state.dropped = True
        else:
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = dropped, printed
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = unraisable, uncaught


@contextlib.contextmanager
def handled(*, keyboard: bool = True) -> Iterator[None]:
    """Raise :class:`Interrupted` on SIGINT, SIGTERM and SIGUSR1 within the block.

    Has no effect inside another such block, and outside the main thread (where Python allows no handlers).

    If the main thread does not end within :data:`GRACE_SECONDS`, the process is killed (:func:`last_words`).

    Parameters
    ----------
    keyboard
        Raise Python's KeyboardInterrupt after SIGINT instead.
    """
    if _state.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _state.active, _state.pending, _state.held = True, None, 0
    _state.dropped = False
    ended = threading.Event()
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    guard = threading.Thread(target=_guard, args=(ours, ended), daemon=True)
    guard.start()
    arrived: Interrupted | None = None
    error: BaseException | None = None
    try:
        with _noticing_drops():
            yield
    except BaseException as caught:
        if signal_of(caught) is None:
            raise
        error = caught
    finally:
        _state.held += 1  # a signal must not interrupt this
        with _state.sending:
            ended.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
        theirs.close()  # ends the guard thread
        guard.join()
        ours.close()
        arrived = signal_of(error)
        _state.active, _state.pending, _state.held = False, None, 0
    if arrived is None:
        return
    if keyboard and arrived.number == signal.SIGINT:
        raise KeyboardInterrupt from arrived
    raise arrived from (None if arrived is error else error)


def _guard(ours: socket.socket, ended: threading.Event) -> None:
    """Wait for the number of a signal from the C-level handler, which also works during a C++ call."""
    while True:
        received = ours.recv(1)
        if not received:
            return
        if received[0] in SIGNALS:
            break
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if ended.wait(_AGAIN_SECONDS):
            return
        with _state.sending:
            if _state.dropped and not ended.is_set():
                os.kill(os.getpid(), received[0])
    interrupted = Interrupted(received[0])
    try:
        for say in reversed(_state.last_words):
            with contextlib.suppress(Exception):
                say(interrupted)
    finally:
        os._exit(interrupted.exit_code)
