"""Tasks for worker processes; a module of its own, because Parsl's workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(x: int) -> tuple[int, str]:
    return x * x, os.environ["OMP_NUM_THREADS"]


def cores(seconds: float) -> set[int]:
    """Where this process may run."""
    time.sleep(seconds)
    return os.sched_getaffinity(0)


def add(shared: int, x: int) -> int:
    return shared + x


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def die_once(task: tuple[int, str]) -> int:
    x, marker = task
    if x == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def sleep_on_two(x: int) -> int:
    print(f"task {x} says hello", flush=True)
    if x == 2:
        time.sleep(3600)
    return x


def sleep_or_fail(shared: int, x: int) -> int:
    if x == 2:
        time.sleep(3600)
    return fail_on_three(x) + shared


def note_pids(task: tuple[int, float, str]) -> int:
    """Write worker's and manager's process ids to a file, work for a while, and return the number."""
    number, seconds, folder = task
    path = Path(folder) / f"{number}-{os.getpid()}-{os.getppid()}"
    path.touch()
    time.sleep(seconds)
    return number


class Unpicklable:
    def __init__(self) -> None:
        self.handle: Any = open(os.devnull)  # noqa: SIM115

    def label(self, frames: Any) -> None:
        """No label."""
