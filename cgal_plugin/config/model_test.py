"""The test of a run's final model in a benchmark."""

from __future__ import annotations

from cgal_plugin.config.quantities import Count, CountOrZero, Fraction
from cgal_plugin.config.section import Section


class ModelTest(Section):
    """Equilibrium CG dynamics of the final model of each arm, compared with the reference.

    In each arm, half of the replicas start folded and half stretched: the start does not depend on the arm.
    """

    n_replicas: Count = 64
    """Number of independent replicas."""
    steps: Count = 25000
    """Steps per replica."""
    report_interval: Count = 100
    """Steps between frames."""
    discard: Fraction = 0.2
    """Fraction of each replica, at its start, that is discarded as equilibration."""
    n_bootstrap: CountOrZero = 100
    """Number of bootstrap replicates for the intervals."""
    force_frames: CountOrZero = 2000
    """Number of reference frames for the force error; 0: do not compute it."""
