"""Selection of frames to label: by nearest RMSD, coverage, disagreement of a committee, or at random."""

from cgal_plugin.selector.committee import CommitteeSelector
from cgal_plugin.selector.factory import make_selector
from cgal_plugin.selector.k_centre import k_centre
from cgal_plugin.selector.max_coverage import CoverageSelector, max_coverage
from cgal_plugin.selector.rmsd import coverage, nearest_rmsd
from cgal_plugin.selector.strategies import BaseSelector, RandomSelector, RMSDSelector, Selection

__all__ = [
    "BaseSelector",
    "CommitteeSelector",
    "CoverageSelector",
    "RMSDSelector",
    "RandomSelector",
    "Selection",
    "coverage",
    "k_centre",
    "make_selector",
    "max_coverage",
    "nearest_rmsd",
]
