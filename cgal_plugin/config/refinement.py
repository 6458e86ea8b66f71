"""The section ``refinement``: populations of the final model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cgal_plugin.config.quantities import Count, Number, Picoseconds
from cgal_plugin.config.section import Section


class Refinement(Section):
    """Correction of the final model's populations to those of the free all-atom dynamics.

    A Markov state model of seed data and labels gives target populations; the priors are corrected towards
    them by relative entropy.
    """

    iterations: Count = 6
    """Corrections, each after a sampling; a last sampling shows their result."""
    steps: Count = 30000
    """CG steps per replica in each sampling; other settings are those of simulation."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """Lag time of the Markov state model, ps; labels must be longer, better several times longer."""
    n_states: Annotated[Count, Field(ge=2)] = 60
    """States of the Markov state model."""
    ridge: Annotated[Number, Field(gt=0)] = 0.05
    """Regularisation: the higher, the smaller the changes that few frames support."""
