"""Signals that end a run within seconds.

Files are always complete (they are written under a temporary name and renamed), so only unfinished work
is lost. A signal raises :class:`Interrupted` in the main thread. In C++ code that calls Python (an OpenMM
integrator with a potential in Python), the exception would look like an error of the potential; there it is
raised after the call (:func:`deferred`). If the main thread is in a long C++ call and does not end in time,
the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: s after a signal until the process is killed
GRACE_SECONDS = 10.0


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
    if _state.pending is None:  # a second signal must not interrupt the clean-up after the first
        _state.pending = number
        check()


@contextlib.contextmanager
def handled(
    last_words: Callable[[Interrupted], None] = lambda interrupted: None, *, keyboard: bool = True
) -> Iterator[None]:
    """Raise :class:`Interrupted` on SIGINT, SIGTERM and SIGUSR1 within the block.

    Has no effect inside another such block, and outside the main thread (where Python allows no handlers).

    Parameters
    ----------
    last_words
        Called in another thread before the process is killed, if the main thread does not end within
        :data:`GRACE_SECONDS`.
    keyboard
        Raise Python's KeyboardInterrupt after SIGINT instead.
    """
    if _state.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _state.active, _state.pending, _state.held = True, None, 0
    ended = threading.Event()
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    guard = threading.Thread(target=_guard, args=(ours, ended, last_words), daemon=True)
    guard.start()
    try:
        yield
    except Interrupted as interrupted:
        if keyboard and interrupted.number == signal.SIGINT:
            raise KeyboardInterrupt from interrupted
        raise
    finally:
        ended.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()  # ends the guard thread
        guard.join()
        ours.close()
        _state.active, _state.pending = False, None


def _guard(ours: socket.socket, ended: threading.Event, last_words: Callable[[Interrupted], None]) -> None:
    """Wait for the number of a signal from the C-level handler, which also works during a C++ call."""
    while True:
        received = ours.recv(1)
        if not received:
            return
        if received[0] in SIGNALS:
            break
    if ended.wait(GRACE_SECONDS):
        return
    interrupted = Interrupted(received[0])
    try:
        last_words(interrupted)
    finally:
        os._exit(interrupted.exit_code)
