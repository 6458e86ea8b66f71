"""The loop's sampler: CG dynamics in OpenMM, in this process or by blocks of replicas over workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.protocols import Progress, SampledFrames
from cgal_plugin.config.models import Simulation
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.execution.map_tasks import ExecutorSettings, map_tasks
from cgal_plugin.mapping import CGTopology
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.layout import WORK


@dataclass(frozen=True, eq=False)
class Block:
    """Replicas of one System, for a worker; ``options`` are those of ``simulate``."""

    potential: Path
    topology: CGTopology
    start: np.ndarray
    out_dir: Path
    options: dict[str, Any]


@dataclass(frozen=True)
class BlockOutcome:
    """What a block left on disk, in few words: events (replicas counted in the block), steps, backend."""

    events: list[dict[str, Any]]
    steps: int
    backend: str


def simulate_block(block: Block, progress: Progress | None = None) -> BlockOutcome:
    """Run a block; its frames stay in its folder, from where another call goes on."""
    from cgal_plugin.dynamics import simulate

    result = simulate(
        block.potential,
        block.topology,
        block.start,
        n_replicas=len(block.start),
        out_dir=block.out_dir,
        progress=progress,
        **block.options,
    )
    events = [
        {"replica": e.replica, "step": e.step, "kind": e.kind, "detail": e.detail} for e in result.events
    ]
    return BlockOutcome(events, result.steps_done * len(block.start), result.backend)


def _load(block: Block) -> list[np.ndarray]:
    from cgal_plugin.dynamics import simulate

    # everything is done: it only reads
    return simulate(
        block.potential,
        block.topology,
        block.start,
        n_replicas=len(block.start),
        out_dir=block.out_dir,
        **block.options,
    ).load()


class OpenMMSampler:
    """CG dynamics of packed replicas; see :func:`cgal_plugin.dynamics.simulate`.

    With ``simulation.blocks`` the replicas are divided into as many Systems, which run as tasks of the
    executor.
    """

    def __init__(self, settings: Simulation, executor: ExecutorSettings) -> None:
        self.settings = settings
        self.executor = executor
        self.n_replicas = settings.n_replicas
        self.packed_replicas = settings.n_replicas // settings.blocks

    def sample(
        self,
        potential: Path,
        topology: CGTopology,
        start_positions: np.ndarray,
        *,
        temperature: float,
        seed: int,
        out_dir: Path,
        progress: Progress | None = None,
    ) -> SampledFrames:
        """See :class:`cgal_plugin.components.protocols.Sampler`; ``potential`` is for ``packed_replicas``."""
        settings = self.settings
        options = {
            "steps": settings.steps,
            "timestep_fs": settings.timestep_fs,
            "temperature": temperature,
            "friction": settings.friction,
            "report_interval": settings.report_interval,
            "backend": settings.backend,
            "platform": settings.platform,
        }
        if settings.blocks == 1:
            threads = self.executor.training_threads
            options |= {"seed": seed, "n_threads": threads}
            blocks = [Block(potential, topology, start_positions, out_dir, options)]
            outcomes = [simulate_block(blocks[0], progress)]
        else:
            parts = np.split(np.asarray(start_positions), settings.blocks)
            blocks = [
                Block(
                    potential,
                    topology,
                    start,
                    out_dir / f"block_{i:03d}",
                    {**options, "seed": derive_seed(seed, "block", i), "n_threads": 1},
                )
                for i, start in enumerate(parts)
            ]
            outcomes = self._over_workers(blocks, out_dir, progress)
        return SampledFrames(
            [frames for block in blocks for frames in _load(block)],
            [
                BlowUp(**{**event, "replica": event["replica"] + i * self.packed_replicas})
                for i, outcome in enumerate(outcomes)
                for event in outcome.events
            ],
            sum(outcome.steps for outcome in outcomes),
            {"backend": outcomes[0].backend},
        )

    def _over_workers(
        self, blocks: list[Block], out_dir: Path, progress: Progress | None
    ) -> list[BlockOutcome]:
        outcomes: dict[int, BlockOutcome] = {}

        def keep(index: int, outcome: BlockOutcome) -> None:
            outcomes[index] = outcome
            if progress is not None:
                progress(len(outcomes), len(blocks))

        # out_dir is RUN/rounds/round_NNN/simulate
        folder = out_dir.parents[2] / WORK
        names = [f"{out_dir.parent.name}_{block.out_dir.name}" for block in blocks]
        map_tasks(
            simulate_block, blocks, keep, workers=self.executor, limited=False, folder=folder, names=names
        )
        return [outcomes[i] for i in range(len(blocks))]
