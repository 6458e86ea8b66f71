"""The loop of a simulation: steps, guard checks, frames, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.dynamics.engines import open_engine
from cgal_plugin.dynamics.exchange_file import make_record
from cgal_plugin.dynamics.folder import SimulationFolder
from cgal_plugin.dynamics.guard import Limits, find_blown
from cgal_plugin.dynamics.progress import Progress
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.dynamics.tempering import ExchangeState, Ladder, exchange
from cgal_plugin.errors import DynamicsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHECKPOINT_SECONDS = 5.0
#: frames are buffered between checkpoints up to this number of bytes
_BUFFER_BYTES = 1 << 26


class Runner:
    """Propagate a :class:`CGEngine` and keep a :class:`SimulationFolder` up to date."""

    def __init__(
        self,
        settings: Settings,
        limits: Limits,
        folder: SimulationFolder,
        start: NDArray[np.float64],
        *,
        report_interval: int,
        checkpoint_interval: int | None,
        minimize_steps: int,
        center_frames: bool,
        ladder: Ladder | None = None,
    ) -> None:
        self.settings = settings
        self.limits = limits
        self.folder = folder
        self.start = start
        self.report_interval = report_interval
        self.checkpoint_interval = checkpoint_interval
        self.minimize_steps = minimize_steps
        self.center_frames = center_frames
        self.ladder = ladder
        self._records: list[NDArray[np.void]] = []
        self._buffer: list[list[NDArray[np.float32]]] = [[] for _ in range(settings.n_replicas)]
        self._buffered = 0
        self._restarted_at = [-1] * settings.n_replicas
        self._clock = self._last_time = time.monotonic()
        self._last_step = 0

    def run(
        self, steps: int, saved: tuple[Progress, bytes] | None, callback: Callable[[int, int], None] | None
    ) -> Progress:
        """Run until ``steps`` or until all replicas are parked; all results are on disk at return."""
        self._clock = time.monotonic()
        self._begin(saved)
        now = self.progress
        self._checkpoint()
        while not now.finished(steps):
            report = min(now.step + self.report_interval - now.step % self.report_interval, steps)
            while now.step < report:
                self._advance(self._steps_to(report))
            if self._due():
                self._checkpoint()
            if callback is not None:
                callback(now.step, steps)
        self._checkpoint()
        return now

    def _begin(self, saved: tuple[Progress, bytes] | None) -> None:
        interval, timestep = self.report_interval, self.settings.timestep_ps
        if saved is not None:
            self.progress, binary = saved
            self.folder.check_trajectories(self.progress)
            self.engine = open_engine(self.settings, np.flatnonzero(self.progress.parked).tolist())
            self.engine.restore(binary)
            empty = np.empty((0, self.settings.topology.n_beads, 3))
            self.folder.append([empty] * self.settings.n_replicas, self.progress.frames, interval, timestep)
            if self.ladder is not None and self.progress.exchanges is not None:
                self.folder.frame_table(self.progress)  # is it intact?
                self.folder.append_exchanges([], self.progress.exchanges)
                self.engine.set_temperatures(self.ladder.baths(self.progress.exchanges.rungs), rescale=False)
            return
        exchanges = None if self.ladder is None else ExchangeState.start(self.ladder)
        self.progress = Progress.start(self.settings.n_replicas, exchanges)
        if exchanges is not None:
            self.folder.append_exchanges([], exchanges)
        self.folder.create_trajectories(self.settings.topology.n_beads, interval, timestep)
        self.engine = open_engine(self.settings)
        self.engine.set_start(self.start, self.minimize_steps)
        finite = np.isfinite(self.engine.forces()).all(axis=(1, 2))
        blown = self._blown()
        for replica in np.flatnonzero(~finite):
            blown[int(replica)] = ("non-finite", "forces at the start are not finite")
        if len(blown) == self.settings.n_replicas:
            kind, detail = next(iter(blown.values()))
            raise DynamicsError(
                f"every replica is outside the limits of the guard at the start (first: {kind}, {detail}); "
                "use other start frames or wider limits"
            )
        # a restart would begin from the same invalid start frame
        self._handle(blown, can_restart=False)

    # ------------------------------------------------------------------ steps between reports

    def _advance(self, n: int) -> None:
        before = self.engine.checkpoint()
        if self.engine.step(n) is None:
            self.progress.step += n
            self._check()
        else:
            self.engine.restore(before)
            self._find_culprit(n)
        self._report_and_exchange()

    def _steps_to(self, report: int) -> int:
        """Return the number of steps to a report, or to an earlier attempt to exchange temperatures."""
        step = self.progress.step
        if self.ladder is None:
            return report - step
        return min(report - step, self.ladder.interval - step % self.ladder.interval)

    def _report_and_exchange(self) -> None:
        """Store frames at the temperatures at which they were sampled, then exchange temperatures."""
        now, ladder, state = self.progress, self.ladder, self.progress.exchanges
        if now.step % self.report_interval == 0:
            self._store()
        if ladder is None or state is None:
            return
        at_report, at_exchange = now.step % self.report_interval == 0, now.step % ladder.interval == 0
        if not (at_report or at_exchange):
            return
        energies = self.engine.energies()
        if at_report:
            frames = np.array(now.frames) - 1
            stored = [not p and at != now.step for p, at in zip(now.parked, self._restarted_at, strict=True)]
            self._records.append(make_record(now.step, energies, state.rungs, np.where(stored, frames, -1)))
        if at_exchange and exchange(ladder, state, energies, now.parked, now.step):
            self.engine.set_temperatures(ladder.baths(state.rungs))

    def _find_culprit(self, n: int) -> None:
        """Repeat failed steps one by one, and handle the replica that leaves the limits first."""
        target = self.progress.step + n
        while self.progress.step < target and not all(self.progress.parked):
            message = self.engine.step(1)
            if message is not None:
                raise DynamicsError(
                    f"the potential failed at step {self.progress.step} with every replica within the "
                    f"limits of the guard: {message}; {str(self.folder.root)!r} holds the simulation up to "
                    "its last checkpoint"
                )
            self.progress.step += 1
            self._check()

    def _check(self) -> None:
        blown = self._blown()
        parked = self.progress.parked
        self._handle({r: found for r, found in blown.items() if not parked[r]}, can_restart=True)

    def _blown(self) -> dict[int, tuple[str, str]]:
        positions, velocities = self.engine.positions(), self.engine.velocities()
        if self.ladder is None or self.progress.exchanges is None:
            return find_blown(positions, velocities, self.limits)
        baths = self.ladder.baths(self.progress.exchanges.rungs)
        found = find_blown(positions, velocities, self.limits, baths)
        return {r: (kind, f"{detail}, at {baths[r]:g} K") for r, (kind, detail) in found.items()}

    def _handle(self, blown: dict[int, tuple[str, str]], *, can_restart: bool) -> None:
        if not blown:
            return
        now, guard = self.progress, self.limits.guard
        again, park = [], []
        for replica, (kind, detail) in blown.items():
            now.events.append(BlowUp(replica, now.step, kind, detail, now.frames[replica]))
            if can_restart and guard.restart_blown and now.restarts[replica] < guard.max_restarts:
                now.restarts[replica] += 1
                again.append(replica)
            else:
                now.parked[replica] = True
                park.append(replica)
        if park:
            self.engine.park(park, self.start, now.step)
        if again:
            self.engine.restart(again, self.start, now.step)
            for replica in again:
                self._restarted_at[replica] = now.step

    # ------------------------------------------------------------------ frames and checkpoints

    def _store(self) -> None:
        positions = self.engine.positions()
        if self.center_frames:
            positions = positions - positions.mean(axis=1, keepdims=True)
        frames = positions.astype(np.float32)
        for replica, parked in enumerate(self.progress.parked):
            # a replica that was just reset is at its start frame
            if not parked and self._restarted_at[replica] != self.progress.step:
                self._buffer[replica].append(frames[replica])
                self.progress.frames[replica] += 1
        self._buffered += frames.nbytes

    def _due(self) -> bool:
        if self._buffered > _BUFFER_BYTES:
            return True
        if self.checkpoint_interval is None:
            return time.monotonic() - self._last_time > _CHECKPOINT_SECONDS
        return self.progress.step - self._last_step >= self.checkpoint_interval

    def _checkpoint(self) -> None:
        now = self.progress
        empty = np.empty((0, self.settings.topology.n_beads, 3), dtype=np.float32)
        frames = [np.stack(new) if new else empty for new in self._buffer]
        if self._buffered:
            before = [total - len(new) for total, new in zip(now.frames, frames, strict=True)]
            now.checksums = self.folder.append(
                frames, before, self.report_interval, self.settings.timestep_ps, now.checksums
            )
        if now.exchanges is not None:
            self.folder.append_exchanges(self._records, now.exchanges)
        self._buffer, self._records = [[] for _ in self._buffer], []
        self._buffered = 0
        clock = time.monotonic()
        now.seconds += clock - self._clock
        self._clock = self._last_time = clock
        self._last_step = now.step
        self.folder.save_checkpoint(now, self.engine.checkpoint())
