"""The section ``test``: the test of each round's model, and of the models of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from cgal_plugin.config.ladder import geometric_ladder
from cgal_plugin.config.quantities import Count, CountOrZero, Fraction, Number, Steps
from cgal_plugin.config.scale import by_size, count, scaled
from cgal_plugin.config.section import Decision, Section

#: least bootstrap replicates for an interval, and least frames of a replica after the equilibration
_MIN_BOOTSTRAP, _MIN_FRAMES = 20, 2


class ModelTest(Section):
    """Equilibrium CG dynamics of each round's model, compared with the reference.

    Half of the replicas start from the given structure and half stretched, in all rounds alike. By default,
    each replica is a ladder of temperatures (parallel tempering), which forgets its start sooner; what counts
    is sampled at the temperature of the system. Time step and friction are those of `simulation`.
    """

    n_replicas: Count = 16
    """Number of independent replicas; a sampler of your own keeps its number."""
    rungs: Annotated[Count, scaled("test.rungs")] = count("test.rungs")
    """Temperatures of each replica, in a geometric series; 1: no tempering."""
    hottest: Annotated[Number, Field(gt=1, le=5)] = 2.15
    """Highest temperature of a ladder, relative to that of the system."""
    steps: Annotated[Steps, scaled("test.steps")] = count("test.steps")
    """Steps per replica and temperature, enough to forget the starts: a W1 that still drifts is marked."""
    report_interval: Steps = 100
    """Steps between frames."""
    discard: Fraction = 0.2
    """Fraction of each replica, at its start, that is discarded as equilibration."""
    n_bootstrap: CountOrZero = 100
    """Number of bootstrap replicates for the intervals; 0: no intervals."""
    force_frames: CountOrZero = 2000
    """Number of reference frames for the force error; 0: do not compute it."""
    reference_forces: Path | None = None
    """Forces of the reference frames (npz), for the force error."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the length of the dynamics."""
        return by_size("test", given, n_residues)

    @model_validator(mode="after")
    def _enough(self) -> ModelTest:
        if 0 < self.n_bootstrap < _MIN_BOOTSTRAP:
            raise ValueError(
                f"n_bootstrap {self.n_bootstrap} is too few for an interval: use 0 or at least "
                f"{_MIN_BOOTSTRAP}"
            )
        frames = self.steps // self.report_interval
        used = frames - round(self.discard * frames)
        if used < _MIN_FRAMES:
            raise ValueError(
                f"steps {self.steps} with report_interval {self.report_interval} and discard "
                f"{self.discard:g} leave {used} frames of each replica, and {_MIN_FRAMES} are needed: raise "
                "steps, or lower report_interval or discard"
            )
        return self

    @property
    def n_walkers(self) -> int:
        """Replicas at all temperatures together."""
        return self.n_replicas * self.rungs

    def ladder(self, temperature: float) -> tuple[float, ...]:
        """Return the temperatures of a replica, K, from that of the system up; empty without tempering."""
        return geometric_ladder(temperature, self.hottest, self.rungs)
