"""The default sampler: CG dynamics of packed replicas, in this process or as tasks of the executor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.protocols import ExtendableSampler, SampledFrames, Sampler
from cgal_plugin.config.ladder import geometric_ladder
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.models import Simulation
from cgal_plugin.config.refine_by_default import rungs_used
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.errors import CGALWarning
from cgal_plugin.execution.map_tasks import ExecutorSettings, map_tasks
from cgal_plugin.execution.resources import Auto, available_cores, resolve_threads
from cgal_plugin.mapping import CGTopology
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.layout import WORK
from cgal_plugin.runs.log import Progress

#: steps between exchanges of temperatures in the model test and the refinement
EXCHANGE = 50


@dataclass(frozen=True, eq=False)
class ReplicaSet:
    """Replicas of one System, as a task; ``options`` are keywords of ``cgal_plugin.dynamics.simulate``."""

    potential: Path
    topology: CGTopology
    start: NDArray[np.floating]
    out_dir: Path
    options: dict[str, Any]


def simulate_replicas(replicas: ReplicaSet, progress: Progress | None = None) -> None:
    """Run the dynamics; frames and checkpoint are kept in the folder. A second call resumes."""
    from cgal_plugin.dynamics import simulate

    simulate(
        replicas.potential,
        replicas.topology,
        replicas.start,
        n_replicas=len(replicas.start),
        out_dir=replicas.out_dir,
        progress=progress,
        **replicas.options,
    )


def dynamics_threads(value: int | Auto, backend: str) -> int:
    """Return the threads of CG dynamics; 1 for backends whose results depend on the number of threads.

    Those of torch divide its sums differently; the sums of the fast engine have a fixed order, and it divides
    its work over no more threads than pay.
    """
    from cgal_plugin.dynamics.force import FAST_BACKENDS

    return resolve_threads(value, available_cores()) if backend in FAST_BACKENDS else 1


class OpenMMSampler:
    """CG dynamics of replicas packed in one System; see :func:`cgal_plugin.dynamics.simulate`.

    With ``simulation.blocks`` above 1, the replicas are divided into that number of Systems, which run as
    tasks of the executor. With ``simulation.temperatures``, the sampled frames are those at the temperature
    of the system, one trajectory per ladder.
    """

    def __init__(self, settings: Simulation, executor: ExecutorSettings) -> None:
        if settings.platform == "auto":  # a run has resolved it; Reference is the fastest on a CPU
            settings = settings.model_copy(update={"platform": "Reference"})
        self.settings = settings
        self.executor = executor
        self.n_replicas = settings.n_replicas
        self.packed_replicas = settings.n_replicas // settings.blocks

    def with_steps(self, steps: int) -> OpenMMSampler:
        """Return a sampler with the same settings and another number of steps."""
        return self._with(steps=steps)

    def for_refinement(self, refinement: Refinement, temperature: float) -> OpenMMSampler:
        """Return a sampler for the refinement at a temperature, K: tempered, with the same replicas."""
        n = rungs_used(refinement, self.settings)
        # neighbours as far apart as in the whole ladder
        hottest = refinement.hottest ** ((n - 1) / max(1, refinement.rungs - 1))
        ladder = geometric_ladder(temperature, hottest, n)
        if not ladder:
            return self.with_steps(refinement.steps)
        exchange = min(EXCHANGE, refinement.steps)
        return self._with(steps=refinement.steps, temperatures=ladder, exchange_interval=exchange)

    def for_test(self, test: ModelTest, temperature: float) -> OpenMMSampler:
        """Return a sampler for the test at a temperature, K: independent replicas, in this process."""
        ladder = test.ladder(temperature)
        changes: dict[str, Any] = {
            "n_replicas": test.n_walkers,
            "steps": test.steps,
            "report_interval": test.report_interval,
            "temperatures": ladder,
            "exchange_interval": min(EXCHANGE, test.steps) if ladder else None,
        }
        if self.settings.blocks > 1:  # workers may have other hardware than this process
            changes |= {"blocks": 1, "platform": "Reference", "backend": "auto"}
        return self._with(**changes)

    def _with(self, **changes: Any) -> OpenMMSampler:
        return OpenMMSampler(self.settings.model_copy(update=changes), self.executor)

    def sample(
        self,
        potential: Path,
        topology: CGTopology,
        start_positions: NDArray[np.floating],
        *,
        temperature: float,
        seed: int,
        out_dir: Path,
        progress: Progress | None = None,
    ) -> SampledFrames:
        """See :class:`cgal_plugin.components.protocols.Sampler`; ``potential`` is for ``packed_replicas``."""
        from cgal_plugin.dynamics import load_simulation
        from cgal_plugin.dynamics.backends import choose_backend

        settings = self.settings
        options: dict[str, Any] = {
            "steps": settings.steps,
            "timestep_fs": settings.timestep_fs,
            "temperature": temperature,
            "friction": settings.friction,
            "report_interval": settings.report_interval,
            "backend": settings.backend,
            "platform": settings.platform,
            "temperatures": settings.temperatures,
            "exchange_interval": settings.exchange_interval,
        }
        if settings.blocks == 1:
            backend = choose_backend(
                settings.backend, potential, len(start_positions), settings.platform, out_dir
            )
            threads = dynamics_threads(self.executor.training_threads, backend)
            options |= {"seed": seed, "backend": backend, "n_threads": threads}
            sets = [ReplicaSet(potential, topology, start_positions, out_dir, options)]
            simulate_replicas(sets[0], progress)
        else:
            sets = [
                ReplicaSet(
                    potential,
                    topology,
                    start,
                    out_dir / f"block_{i:03d}",
                    {**options, "seed": derive_seed(seed, "block", i), "n_threads": 1},
                )
                for i, start in enumerate(np.split(np.asarray(start_positions), settings.blocks))
            ]
            self._over_workers(sets, out_dir, progress)
        results = [load_simulation(each.out_dir) for each in sets]
        facts: dict[str, Any] = {"backend": results[0].backend, "platform": settings.platform}
        files = [path for result in results for path in result.trajectories]
        if settings.temperatures:
            facts["tempering"] = [result.tempering for result in results]
            if settings.blocks > 1:  # the warnings of workers are not seen
                for text in sorted({t for result in results for t in result.tempering["warnings"]}):
                    warnings.warn(text, CGALWarning, stacklevel=2)
            files = [path for result in results for path in result.save_temperatures([temperature])[0]]
        return SampledFrames(
            [frames for result in results for frames in result.load_temperature()],
            [
                replace(event, replica=event.replica + i * self.packed_replicas)
                for i, result in enumerate(results)
                for event in result.events
            ],
            sum(result.steps_done for result in results) * self.packed_replicas,
            facts,
            tuple(files),
        )

    def _over_workers(self, sets: Sequence[ReplicaSet], out_dir: Path, progress: Progress | None) -> None:
        done = 0

        def count(index: int, result: None) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(sets))

        # out_dir is RUN/rounds/round_NNN/simulate or RUN/refinement/iteration_NNN/dynamics
        folder = out_dir.parents[2] / WORK
        names = [f"{out_dir.parent.name}_{each.out_dir.name}" for each in sets]
        map_tasks(
            simulate_replicas,
            sets,
            count,
            workers=self.executor,
            limited=False,
            folder=folder,
            names=names,
        )


def refinement_sampler(sampler: Sampler, refinement: Refinement, temperature: float) -> Sampler:
    """Return the sampler of the refinement: the default one is tempered, others may change their length."""
    if type(sampler) is OpenMMSampler:  # a subclass has its own dynamics
        return sampler.for_refinement(refinement, temperature)
    return sampler.with_steps(refinement.steps) if isinstance(sampler, ExtendableSampler) else sampler


def dynamics_folder(sampler: Sampler) -> str:
    """Return the name of the folder for the dynamics of an iteration.

    Tempered dynamics has another one: a run of an earlier version may have plain dynamics there, unfinished.
    """
    tempered = type(sampler) is OpenMMSampler and sampler.settings.temperatures
    return "tempered" if tempered else "dynamics"
