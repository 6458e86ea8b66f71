"""The test of a run's final model in a benchmark."""

from __future__ import annotations

from cgal_plugin.config.quantities import Count, CountOrZero, Fraction
from cgal_plugin.config.section import Section


class ModelTest(Section):
    """Equilibrium CG dynamics of every arm's final model, compared with the reference.

    In all arms half of the replicas start folded and half stretched, so that the start does not depend on
    the arm.
    """

    n_replicas: Count = 64
    """Independent replicas."""
    steps: Count = 25000
    """Steps per replica."""
    report_interval: Count = 100
    """Steps between frames."""
    discard: Fraction = 0.2
    """Share of each replica that is discarded as equilibration."""
    n_bootstrap: CountOrZero = 100
    """Bootstrap replicates of the intervals."""
    force_frames: CountOrZero = 2000
    """Reference frames for the force error; 0: none."""
