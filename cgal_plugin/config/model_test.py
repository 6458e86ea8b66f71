"""How the final model of a run is tested."""

from __future__ import annotations

from cgal_plugin.config.quantities import Count, CountOrZero, Fraction
from cgal_plugin.config.section import Section


class ModelTest(Section):
    """Equilibrium CG dynamics of every arm's final model, compared with the reference.

    All arms start alike: half of the replicas folded, half stretched, so that nothing of the start
    depends on the arm.
    """

    n_replicas: Count = 64
    """Independent replicas."""
    steps: Count = 25000
    """Steps each."""
    report_interval: Count = 100
    """Steps between frames."""
    discard: Fraction = 0.2
    """Share of each replica that is left out as equilibration."""
    n_bootstrap: CountOrZero = 100
    """Replicates of the intervals."""
    force_frames: CountOrZero = 2000
    """Reference frames for the force error; 0: none."""
