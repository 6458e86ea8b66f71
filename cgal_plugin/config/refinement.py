"""The section ``refinement``: populations of the final model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cgal_plugin.config.quantities import Count, Number, Picoseconds
from cgal_plugin.config.section import Section


class Refinement(Section):
    """Populations of the final model, corrected to those of the free all-atom dynamics.

    The model's priors are changed so that its states come closer to the populations that the transitions
    in seed data and labels imply (Markov state model, relative entropy).
    """

    iterations: Count = 6
    """Corrections, each after a sampling; one more sampling shows what they made."""
    steps: Count = 30000
    """CG steps of a replica in each sampling (with the other settings of simulation)."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 5.0
    """Lag time of the Markov state model, ps; labels must be longer, a few times at best."""
    n_states: Annotated[Count, Field(ge=2)] = 60
    """Its states."""
    ridge: Annotated[Number, Field(gt=0)] = 0.05
    """The higher, the less is changed where the model's frames say little."""
