"""What a round is judged by: coverage, and the reference ensemble where there is one."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.config import Config
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.mapping import CGTopology

if TYPE_CHECKING:
    from cgal_plugin.analysis.tica import TICAModel


class ReferenceEvaluator:
    """Compares what a model samples with the reference of the configuration.

    Raises
    ------
    DataError
        On first use, where the reference cannot be read or is of another molecule.
    """

    def __init__(self, config: Config, topology: CGTopology) -> None:
        self.config = config
        self.topology = topology

    @property
    def lag_frames(self) -> int:
        """TICA lag in frames of the reference."""
        evaluation = self.config.evaluation
        return max(1, round(evaluation.lag_ps / evaluation.reference_interval_ps))

    @cached_property
    def reference(self) -> list[np.ndarray]:
        """Reference trajectories, ``(n, n_beads, 3)`` Å each; empty where none is given."""
        found: list[np.ndarray] = []
        for path in self.config.evaluation.reference:
            found += load_trajectories(
                Path(path), self.topology, top=self.config.evaluation.reference_topology
            )
        return found

    @cached_property
    def tica(self) -> TICAModel | None:
        """TICs of the reference."""
        if not self.reference:
            return None
        from cgal_plugin.analysis.tica import TICAModel

        return TICAModel.fit(self.reference, self.lag_frames)

    def check(self) -> None:
        """Read the reference and fit its TICs now, where one is given: not after the first round."""
        if self.reference:
            assert self.tica is not None

    def __call__(self, trajectories: list[np.ndarray], seed: int) -> dict[str, Any]:
        """JSON-ready results: ``w1``, ``w1_ucsc`` and all that goes with them; nothing without reference."""
        if not self.reference:
            return {}
        from cgal_plugin.analysis import evaluate

        usable = [t for t in trajectories if len(t)]
        result = evaluate(
            usable,
            self.reference,
            self.topology,
            lag_frames=self.lag_frames,
            temperature=self.config.system.temperature,
            seed=seed,
            tica=self.tica,
        )
        return result.to_dict(surfaces=False)
