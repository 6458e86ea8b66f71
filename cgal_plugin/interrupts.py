"""Signals that end a run: cleanly, within seconds, wherever it is.

What is on disk is whole at any moment (files appear by renaming), so an end costs only what was not
finished. A signal raises :class:`Interrupted` in the main thread as soon as Python gets to it. While
C++ code runs that calls back into Python (an OpenMM integrator with a potential in Python), an exception
would be taken for one of the potential's: there it waits for the end of the call (:func:`deferred`). If
the main thread does not end in time, stuck in a long C++ call, the process is ended as it is.
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
#: s from a signal to the end of the process, if the main thread has not ended by then
GRACE_SECONDS = 10.0


class Interrupted(BaseException):
    """A signal asked the run to end; no Exception, so that no ``except Exception`` holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.number


@dataclass
class _State:
    active: bool = False
    pending: int | None = None
    held: int = 0


_state = _State()


def check() -> None:
    """Raise the signal that came and was held up, or was lost in code that swallows exceptions.

    Raises
    ------
    Interrupted
        There was one.
    """
    if _state.pending is not None and not _state.held:
        raise Interrupted(_state.pending)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold a signal up until the end of the block."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    check()


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.pending is None:  # a second signal must not break into what the first one's end needs
        _state.pending = number
        check()


@contextlib.contextmanager
def handled(
    last_words: Callable[[Interrupted], None] = lambda interrupted: None, *, keyboard: bool = True
) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into :class:`Interrupted` within the block.

    Within another such block, and outside the main thread (where Python allows no handlers), it does
    nothing.

    Parameters
    ----------
    last_words
        Called in another thread when the main thread does not end within :data:`GRACE_SECONDS`, just
        before the process is ended.
    keyboard
        Leave the block with Python's own KeyboardInterrupt after SIGINT.
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
        theirs.close()  # ends the guard's wait
        guard.join()
        ours.close()
        _state.active, _state.pending = False, None


def _guard(ours: socket.socket, ended: threading.Event, last_words: Callable[[Interrupted], None]) -> None:
    """Wait for a signal's number from the C-level handler, which comes even while Python is stuck."""
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
