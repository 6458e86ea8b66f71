"""Correct a trained potential so that its states have the populations that the labels' dynamics implies."""

from cgal_plugin.refinement.correction import Correction, correction
from cgal_plugin.refinement.populations import DynamicStates, Populations, populations

__all__ = ["Correction", "DynamicStates", "Populations", "correction", "populations"]
