"""Measure the driver's cost per task: labels of an oracle that does nothing, with each executor.

    python tests/benchmarks/bench_executor.py local --tasks 10000
    python tests/benchmarks/bench_executor.py parsl --tasks 10000
    python tests/benchmarks/bench_executor.py simulated --tasks 100000 --workers 1000
    python tests/benchmarks/bench_executor.py scaling --frames 32    # real labels, 1 and 2 Parsl workers

``simulated`` has no worker processes: each task ends after about 10 s (log-normal) of virtual time, as with
a thousand workers, and the driver writes every label to real shards and records. It prints the driver's CPU
time and wall time per task, and its resident memory at the start, half-way and at the end. ``scaling``
alternates one and two workers, ``--repeats`` times each, and compares the labels with those of local
processes. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.label_job import LabelJob
from cgal_plugin.config.executor import LocalExecutor, ParslExecutor
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.execution import map_tasks
from cgal_plugin.execution.pool import Pool
from cgal_plugin.mapping import CGTopology
from cgal_plugin.runs.quarantine import Quarantine

SEQUENCE = "YYDPETGTWY"


class Idle:
    """An oracle that returns 125 frames with forces (5 ps, saved every 0.04 ps) after a sleep."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def label(self, frames: np.ndarray) -> LabelledFrames:
        """Return rows of one frame."""
        time.sleep(self.seconds)
        rows = np.repeat(np.asarray(frames, dtype=np.float32), 125, axis=0)
        index = np.zeros(125, dtype=np.int64)
        return LabelledFrames(rows, rows, index, index, np.zeros(125))


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Meter:
    """Measure the driver's CPU time, wall time and memory after the first label."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.memory: list[float] = []
        self.cpu = self.wall = 0.0
        self.first = 0

    def __call__(self, done: int, total: int) -> None:
        if not self.first and done:
            self.first, self.cpu, self.wall = done, time.process_time(), time.perf_counter()
        if done in (max(1, self.total // 20), self.total // 2, self.total):
            self.memory.append(resident_mb())

    def report(self, what: str) -> None:
        """Print one line."""
        n = self.total - self.first
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        memory = ", ".join(f"{m:.0f}" for m in self.memory)
        print(
            f"{what:<28} {self.total} tasks: driver CPU {1e3 * cpu / n:.2f} ms per task, wall "
            f"{1e3 * wall / n:.2f} ms per task; resident MB {memory}",
            flush=True,
        )


def job(folder: Path, n: int) -> LabelJob:
    """Make a job of ``n`` frames."""
    topology = CGTopology.from_sequence(SEQUENCE)
    store = DataStore.create(folder / "data", topology, temperature=400.0, force_map_hash="none")
    frames = np.random.default_rng(0).normal(size=(n, 10, 3)).astype(np.float32)
    names = [f"r000_f{i:06d}" for i in range(n)]
    book = Quarantine(folder / "label")
    return LabelJob(frames, names, store, book, folder / "work", "bench", "bench")


class Virtual(Executor):
    """``workers`` workers in virtual time.

    A thread runs the tasks one after the other, in the order in which they would end.
    """

    def __init__(self, workers: int, seconds: float) -> None:
        self.workers = workers
        self.rng = np.random.default_rng(0)
        self.seconds = seconds
        self.free = [0.0] * workers
        self.queue: list[tuple[float, int, Any]] = []
        self.lock = threading.Condition()
        self.number = 0
        self.spent = self.waited = 0.0
        self.ended = 0.0
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task for the worker that is free first."""
        future: Future[Any] = Future()
        with self.lock:
            start = max(heapq.heappop(self.free), self.ended)
            end = start + float(self.rng.lognormal(np.log(self.seconds), 0.5))
            heapq.heappush(self.free, end)
            self.number += 1
            heapq.heappush(self.queue, (end, self.number, (future, args[0])))
            self.lock.notify()
        return future

    def _work(self) -> None:
        while True:
            with self.lock:
                while not self.queue:
                    self.lock.wait()
                self.ended, _, (future, call) = heapq.heappop(self.queue)
            started, clock = time.thread_time(), time.perf_counter()
            result = call.function(_IDLE, call.item)  # work of the worker, not of the driver
            self.spent += time.thread_time() - started
            self.waited += time.perf_counter() - clock
            future.set_result(result)


_IDLE = Idle()


def simulated(n: int, workers: int) -> None:
    """Run ``n`` tasks on ``workers`` virtual workers."""
    virtual = Virtual(workers, 10.0)

    @contextmanager
    def pool(*_: Any) -> Any:
        yield Pool(virtual, 2 * workers, workers)

    map_tasks.open_pool = pool
    with tempfile.TemporaryDirectory() as folder:
        meter = Meter(n)
        work = job(Path(folder), n)
        work.run(_IDLE, workers, meter)
        meter.cpu += virtual.spent
        meter.wall += virtual.waited
        meter.report(f"simulated, {workers} workers")
        check(work)
        ideal = n / workers * 10.0 * np.exp(0.125)
        print(f"  virtual time {virtual.ended:.0f} s; with no gaps it would be {ideal:.0f} s")


def executors(kind: str, n: int) -> None:
    """Run ``n`` tasks on two local processes or two Parsl workers."""
    with tempfile.TemporaryDirectory() as folder:
        settings: Any = (
            LocalExecutor(workers=2)
            if kind == "local"
            else ParslExecutor(kind="parsl", template="htex_local", workers_per_node=2)
        )
        meter = Meter(n)
        work = job(Path(folder), n)
        work.run(Idle(), settings, meter)
        meter.report(f"{kind}, 2 workers")
        check(work)


def check(work: LabelJob) -> None:
    """Check that every frame has a label."""
    book = work.quarantine
    if len(book):
        raise SystemExit(f"{len(book)} failed:\n{book.diagnosis(book.names())}")
    if len(work.store.names()) != len(work.names):
        raise SystemExit(f"{len(work.store.names())} of {len(work.names)} labels")


def scaling(n: int, repeats: int) -> None:
    """Measure real labels per second with one and two Parsl workers, and compare with local labels."""
    from cgal_plugin.oracle import OpenMMOracle

    oracle = OpenMMOracle(SEQUENCE, temperature=400.0, mode="free", production_ps=5.0, relax_ps=1.0, seed=1)
    trajectory = oracle.run("auto", 20.0, seed=2, save_ps=0.2, equilibrate_ps=1.0)
    frames = oracle.mapping.map_positions(trajectory.positions)[:: max(1, 100 // n)][:n]
    topology = oracle.topology
    rates: dict[str, list[float]] = {"1": [], "2": [], "local": []}
    labels: dict[str, dict[str, str]] = {}
    for kind in ("local", *("1", "2") * repeats):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            store = DataStore.create(
                root / "data", topology, temperature=400.0, force_map_hash=oracle.force_map.hash
            )
            names = [f"f{i:04d}" for i in range(len(frames))]
            book = Quarantine(root / "label")
            work = LabelJob(frames, names, store, book, root / "work", "bench", "bench")
            settings: Any = (
                LocalExecutor(workers=2)
                if kind == "local"
                else ParslExecutor(kind="parsl", template="htex_local", workers_per_node=int(kind))
            )
            times: list[float] = []
            work.run(oracle, settings, lambda done, total, t=times: t.append(time.perf_counter()))
            # without the first labels, during which the workers import OpenMM
            rates[kind].append((len(times) - 2) / (times[-1] - times[1]))
            found = {n: store.record(n)["sha256"] for n in store.names()}
            labels.setdefault(kind, found)
            assert labels[kind] == found
            print(
                f"{kind:>5}: {rates[kind][-1]:.3f} labels/s, {len(found)} of {len(frames)} labelled",
                flush=True,
            )
    one, two = statistics.median(rates["1"]), statistics.median(rates["2"])
    same = labels["1"] == labels["2"] == labels["local"]
    print(f"Parsl: {one:.3f} labels/s on one worker, {two:.3f} on two: {two / one:.2f} times as many")
    print(
        f"labels of local processes and of Parsl are {'the same' if same else 'NOT THE SAME'}, byte for byte"
    )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["local", "parsl", "simulated", "scaling"])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=32, help="labels of `scaling`, at least 3")
    parser.add_argument("--repeats", type=int, default=3, help="runs of `scaling` per number of workers")
    options = parser.parse_args()
    if options.what == "simulated":
        simulated(options.tasks, options.workers)
    elif options.what == "scaling":
        scaling(options.frames, options.repeats)
    else:
        executors(options.what, options.tasks)


if __name__ == "__main__":
    import bench_executor  # under its own name, so that workers can import the oracle

    bench_executor.main()
