"""State that the loop, its rounds and the refinement share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.build import Components
from cgal_plugin.components.model_test import run_model_test
from cgal_plugin.components.protocols import Sampler, TrainedModel
from cgal_plugin.components.sampling import sample
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import RunLog
from cgal_plugin.runs.stage import Dependencies, Stage, StageOutput


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
        self, sampler: Sampler, potential: Path, start: NDArray[np.floating], **options: Any
    ) -> tuple[Sequence[NDArray[np.floating]], StageOutput]:
        """See :func:`cgal_plugin.components.sampling.sample`."""
        temperature = self.config.system.temperature
        return sample(sampler, potential, self.store.topology, start, temperature=temperature, **options)

    def test(
        self, model: TrainedModel, stage: Stage, title: str, depends: Dependencies, *, old: bool
    ) -> dict[str, Any]:
        """See :func:`cgal_plugin.components.model_test.run_model_test`; ``old``: the run is past it."""
        if self.config.tested is None:
            return {}
        if old and not stage.done:
            self.log.message(
                f"{title} has no test, which earlier versions did not make: it is tested now (test: null "
                "in the configuration turns tests off)"
            )
        parts = self.config, self.directory, self.components, self.store
        return run_model_test(*parts, model, stage, title=title, depends=depends, reporter=self.log)
