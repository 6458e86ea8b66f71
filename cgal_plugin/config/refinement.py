"""The section ``refinement``: populations of the final model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cgal_plugin.config.quantities import Count, Number, Picoseconds
from cgal_plugin.config.section import Section


class Refinement(Section):
    """Correction of the populations of the final model to those of unbiased all-atom dynamics.

    A Markov state model of seed data and labels gives target populations; the priors are corrected towards
    them by relative entropy.
    """

    iterations: Count = 6
    """Number of corrections. CG dynamics runs before each correction, and once more to show the result."""
    steps: Count = 30000
    """Steps per replica of these CG dynamics; other settings are those of the section simulation."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """Lag time of the Markov state model, ps; labels must be longer, preferably several times longer."""
    n_states: Annotated[Count, Field(ge=2)] = 60
    """Number of states of the Markov state model."""
    ridge: Annotated[Number, Field(gt=0)] = 0.05
    """Regularisation; a larger value reduces changes that few frames support."""
