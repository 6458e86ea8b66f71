"""The sections ``evaluation`` and ``stopping``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from cgal_plugin.config.quantities import CountOrZero, Fraction, Nanoseconds, Picoseconds
from cgal_plugin.config.section import Section


class Evaluation(Section):
    """TICA and Wasserstein-1 distances to a reference."""

    reference: tuple[Path, ...] = ()
    """Reference trajectories (all-atom or CG; formats that mdtraj reads). Empty: no W1."""
    reference_topology: Path | None = None
    """Topology of the reference trajectories, for formats without one."""
    reference_interval_ps: Annotated[Picoseconds, Field(gt=0)] = 1.0
    """Time between frames of the reference, ps."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 10.0
    """TICA lag time, ps."""
    reweight: bool = Field(default=False, strict=True)
    """Weight the reference by a Markov state model if its states are connected (short trajectories from many
    starts); otherwise it stays unweighted, and the results say so."""
    msm_lag_ps: Annotated[Picoseconds, Field(gt=0)] = 50.0
    """Lag time of the Markov state model, ps."""


class Stopping(Section):
    """When to stop: at the first condition that holds."""

    rounds: CountOrZero = 2
    """Rounds of train, simulate, select, label; a last training on all data follows. 0: one training on the
    seed data."""
    oracle_ns: Annotated[Nanoseconds, Field(gt=0)] | None = None
    """Budget of all-atom MD in ns, seed data included; the last round labels no more than is left."""
    coverage_plateau: Fraction | None = None
    """Stop when the mean nearest RMSD decreases by less than this fraction from one round to the next."""
