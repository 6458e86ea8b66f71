"""Names in a run directory that more than one module has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgal_plugin.data.trajectories import load_replicas
from cgal_plugin.runs.directory import RunDirectory, Stage

if TYPE_CHECKING:
    import numpy as np

#: stages of a round, in order
STAGES = ("train", "simulate", "evaluate", "select", "label")
#: folder for what goes to and comes from workers, and for their logs
WORK = "work"
#: the force map, kept beside the shards of a data store so that labels can be added to it
FORCE_MAP = "force_map.npz"
#: folder of the refinement's iterations
REFINEMENT = "refinement"
#: share of each refinement trajectory that is left out at its start, as equilibration
EQUILIBRATION = 0.2


def shard_round(name: str) -> int:
    """Round in which the labels of a shard were made; -1 for seed data."""
    return int(name[1:4]) if name[:1] == "r" and name[1:4].isdigit() and name[4:6] == "_f" else -1


def refined_stages(directory: RunDirectory) -> list[Stage]:
    """The completed refinement iterations of a run, in order."""
    folders = sorted((directory.root / REFINEMENT).glob("iteration_*"))
    return [s for s in (directory.stage(REFINEMENT, f.name) for f in folders) if s.done]


def sampled_trajectories(stage: Stage) -> list[np.ndarray]:
    """Trajectories ``(n, n_beads, 3)`` Å that a stage sampled, one per replica; empty ones included."""
    return load_replicas(stage.file("frames.npz"))


def equilibrated(stage: Stage) -> list[np.ndarray]:
    """Trajectories ``(n, n_beads, 3)`` Å of a refinement iteration, without their equilibration."""
    used = [t[round(EQUILIBRATION * len(t)) :] for t in load_replicas(stage.file("frames.npz"))]
    return [t for t in used if len(t)]
