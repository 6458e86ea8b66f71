"""Tiny peptides, built once."""

from __future__ import annotations

import pytest

from cgal_plugin.oracle import AllAtomTrajectory, OpenMMOracle

TEMPERATURE = 400.0


@pytest.fixture(scope="session")
def aa_oracle() -> OpenMMOracle:
    """Two alanines: two beads, whose distance is the only CG coordinate."""
    return OpenMMOracle("AA", temperature=TEMPERATURE, save_ps=0.04, relax_ps=1.0, production_ps=2.0)


@pytest.fixture(scope="session")
def aa_trajectory(aa_oracle: OpenMMOracle) -> AllAtomTrajectory:
    """60 ps at 400 K, a frame every 0.04 ps."""
    return aa_oracle.run("folded", 60.0, seed=1, equilibrate_ps=4.0)
