"""The ensembles that the tests of the analysis use."""

from tests.analysis.conftest import good, reference, stiff, topology

__all__ = ["good", "reference", "stiff", "topology"]
