"""All-atom labels for CG frames."""

from cgal_plugin.oracle.labels import LabelSettings
from cgal_plugin.oracle.openmm import OpenMMOracle
from cgal_plugin.oracle.protocol import LabelledFrames, Oracle, Quarantined
from cgal_plugin.oracle.sampling import TrajectoryTask, run_trajectory
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory

__all__ = [
    "AllAtomModel",
    "AllAtomTrajectory",
    "LabelSettings",
    "LabelledFrames",
    "OpenMMOracle",
    "Oracle",
    "Quarantined",
    "TrajectoryTask",
    "run_trajectory",
]
