"""Evaluation of CG ensembles: TICA, W1 with its uncertainty, and observables."""

from __future__ import annotations

from cgal_plugin.analysis.distributions import (
    FreeEnergySurface,
    free_energy_surface,
    jensen_shannon,
    jensen_shannon_samples,
)
from cgal_plugin.analysis.evaluate import Evaluation, evaluate
from cgal_plugin.analysis.results import Reduction, W1Result, relative_reduction
from cgal_plugin.analysis.tica import TICAModel, distance_features
from cgal_plugin.analysis.ucsc import w1_ucsc, w1_ucsc_points
from cgal_plugin.analysis.wasserstein import w1, w1_points

__all__ = [
    "Evaluation",
    "FreeEnergySurface",
    "Reduction",
    "TICAModel",
    "W1Result",
    "distance_features",
    "evaluate",
    "free_energy_surface",
    "jensen_shannon",
    "jensen_shannon_samples",
    "relative_reduction",
    "w1",
    "w1_points",
    "w1_ucsc",
    "w1_ucsc_points",
]
