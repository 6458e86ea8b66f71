"""The section ``refinement``: populations of the final model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from cgal_plugin.config.quantities import Count, Number, Picoseconds, Steps
from cgal_plugin.config.scale import by_size, count, scaled
from cgal_plugin.config.section import Decision, Section

#: version of the method; results of different versions are not compared. 1: plain dynamics
VERSION = 2


class Refinement(Section):
    """Correction of the populations of the final model to those of unbiased all-atom dynamics.

    A Markov state model of seed data and labels gives target populations; the priors are corrected towards
    them by relative entropy.
    """

    iterations: Annotated[Count, Field(le=1000)] = 6
    """Number of corrections. CG dynamics runs before each correction, and once more to show the result."""
    steps: Annotated[Steps, scaled("refinement.steps")] = count("refinement.steps")
    """Steps per replica of these CG dynamics; replicas and integrator are those of the section simulation."""
    rungs: Annotated[Count, scaled("refinement.rungs")] = count("refinement.rungs")
    """Most temperatures of a ladder of these CG dynamics (parallel tempering), in a geometric series; 1: no
    tempering. As many of the lowest are used as divide the replicas, with four ladders or more and enough
    frames at the temperature of the system, which alone count; simulation.temperatures are used if given."""
    hottest: Annotated[Number, Field(gt=1, le=5)] = 2.15
    """Highest temperature of a whole ladder, relative to that of the system."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """Lag time of the Markov state model, ps; labels must be longer, preferably several times longer."""
    n_states: Annotated[Count, Field(ge=2, le=10_000), scaled("refinement.n_states")] = count(
        "refinement.n_states"
    )
    """Number of states of the Markov state model."""
    ridge: Annotated[Number, Field(gt=0, le=1e6)] = 0.05
    """Regularisation; a larger value reduces changes that few frames support."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the length of the dynamics, its temperatures and the number of states."""
        return by_size("refinement", given, n_residues)
