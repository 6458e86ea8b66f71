"""All-atom labels for CG frames."""

from cgal_plugin.data import LabelledFrames, Quarantined
from cgal_plugin.oracle.backmap import Backmapper, BackmapResult, BackmapSettings, backmap
from cgal_plugin.oracle.label_settings import LabelSettings
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.oracle.openmm import OpenMMOracle
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory
from cgal_plugin.oracle.trajectory_task import TrajectoryTask, run_trajectory

__all__ = [
    "AllAtomLibrary",
    "AllAtomModel",
    "AllAtomTrajectory",
    "BackmapResult",
    "BackmapSettings",
    "Backmapper",
    "LabelSettings",
    "LabelledFrames",
    "OpenMMOracle",
    "Quarantined",
    "TrajectoryTask",
    "backmap",
    "run_trajectory",
]
