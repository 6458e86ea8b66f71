"""Correct a trained potential towards the equilibrium populations of the all-atom dynamics."""

from cgal_plugin.refinement.correction import Correction, correction
from cgal_plugin.refinement.populations import DynamicStates, Populations, populations

__all__ = ["Correction", "DynamicStates", "Populations", "correction", "populations"]
