"""The sections ``evaluation`` and ``stopping``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cgal_plugin.config.quantities import CountOrZero, Fraction, Nanoseconds, Picoseconds
from cgal_plugin.config.scale import by_size, count, scaled
from cgal_plugin.config.section import Decision, Section


class Evaluation(Section):
    """TICA and Wasserstein-1 distances to a reference."""

    reference: tuple[Path, ...] = ()
    """Reference trajectories (all-atom or CG; formats that mdtraj reads). Empty: no W1."""
    reference_topology: Path | None = None
    """Topology of the reference trajectories, for formats without one."""
    reference_units: Literal["angstrom", "nm"] = "angstrom"
    """Length unit of reference files in npy or npz; other formats have their own."""
    reference_interval_ps: Annotated[Picoseconds, Field(gt=0)] | None = None
    """Time between frames of the reference, ps. Default: from the times in the files, with which a
    number must agree; 1 ps is assumed for files without times."""
    lag_ps: Annotated[Picoseconds, Field(gt=0)] = 10.0
    """TICA lag time, ps."""
    reweight: bool = Field(default=False, strict=True)
    """Weight the reference by a Markov state model if its states are connected (short trajectories from many
    starts); otherwise it stays unweighted, and the results say so."""
    msm_lag_ps: Annotated[Picoseconds, Field(gt=0)] = 50.0
    """Lag time of the Markov state model, ps."""


class Stopping(Section):
    """When to stop: at the first condition that holds."""

    rounds: Annotated[CountOrZero, Field(le=10_000), scaled("stopping.rounds")] = count("stopping.rounds")
    """Rounds of train, simulate, select, label; a last training on all data follows. 0: one training on the
    seed data."""
    oracle_ns: Annotated[Nanoseconds, Field(gt=0)] | None = None
    """Budget of all-atom MD in ns, seed data included; the last round labels no more than is left."""
    coverage_plateau: Fraction | None = None
    """Stop when the mean nearest RMSD decreases by less than this fraction from one round to the next."""

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the number of rounds."""
        return by_size("stopping", given, n_residues)
