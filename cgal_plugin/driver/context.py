"""State that the loop, its rounds and the refinement share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.build import Components
from cgal_plugin.components.checks import check_sampled
from cgal_plugin.components.protocols import Sampler
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import keep_trajectories
from cgal_plugin.runs.log import Progress, RunLog
from cgal_plugin.runs.stage import StageOutput


@dataclass(frozen=True, eq=False)
class RunContext:
    """One run: its configuration, directory, components, data and log."""

    config: Config
    directory: RunDirectory
    components: Components
    store: DataStore
    log: RunLog

    def seed(self, *names: str | int) -> int:
        """Return the seed of the random stream with these names."""
        return derive_seed(self.config.seed, *names)

    def settings(self, section: str) -> Any:
        """Return a section of the resolved configuration, JSON-ready."""
        return self.config.resolved()[section]

    def sample(
        self,
        sampler: Sampler,
        potential: Path,
        start: NDArray[np.floating],
        *,
        seed: int,
        folder: Path,
        out_dir: Path,
        progress: Progress,
    ) -> tuple[Sequence[NDArray[np.floating]], StageOutput]:
        """Run CG dynamics, check the result, and write its trajectories unless the sampler did.

        Returns
        -------
        The trajectories, and the output of the stage in ``folder``.
        """
        sampled = sampler.sample(
            potential,
            self.store.topology,
            start,
            temperature=self.config.system.temperature,
            seed=seed,
            out_dir=out_dir,
            progress=progress,
        )
        sampled = check_sampled(sampled, sampler, self.store.topology)
        files, names = keep_trajectories(folder, sampled.trajectories, sampled.files)
        results = {
            **sampled.facts,
            "events": [asdict(event) for event in sampled.events],
            "steps": int(sampled.steps),
            "trajectories": names,
        }
        # the values on disk, so that a resumed run continues from the same numbers
        stored = [np.asarray(t, dtype=np.float32) for t in sampled.trajectories]
        return stored, StageOutput(results, files)
