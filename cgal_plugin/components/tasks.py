"""Functions that worker processes run. They are importable and picklable, and write files."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data import LabelledFrames, Quarantined
from cgal_plugin.data.shard_files import ShardFile
from cgal_plugin.errors import OracleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.oracle.trajectory_task import TrajectoryTask


def is_picklable(obj: Any) -> bool:
    """Return whether ``obj`` can be sent to another process."""
    try:
        pickle.dumps(obj)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def label_frame(oracle: Any, frame: NDArray[np.floating]) -> LabelledFrames:
    """Label one frame ``(n_beads, 3)`` Å.

    Raises
    ------
    OracleError
        The result of the oracle is not LabelledFrames.
    """
    labelled = oracle.label(frame[None])
    if not isinstance(labelled, LabelledFrames):
        raise OracleError(
            f"the oracle {type(oracle).__qualname__} returned {type(labelled).__name__}; "
            "expected cgal_plugin.data.LabelledFrames"
        )
    return labelled


@dataclass(frozen=True, eq=False)
class LabelTask:
    """A frame ``(n_beads, 3)`` Å, its number, and the folder for the file with its label."""

    frame: NDArray[np.floating]
    number: int
    folder: Path


@dataclass(frozen=True)
class LabelOutcome:
    """The shard file of a label, or None; and the failures that the oracle reported."""

    shard: ShardFile | None
    quarantined: Sequence[Quarantined]


def write_label(oracle: Any, task: LabelTask) -> LabelOutcome:
    """Label a frame and write a shard file, whose rows get the number of the frame."""
    labelled = label_frame(oracle, task.frame)
    if not len(labelled):
        return LabelOutcome(None, tuple(labelled.quarantined))
    index = np.full(len(labelled), task.number, dtype=np.int64)
    # two copies of a task may run at the same time (stragglers, lost workers), so their files need two names
    path = task.folder / f"{task.number:08d}-{uuid.uuid4().hex}.npz"
    shard = ShardFile.write(path, replace(labelled, frame_index=index))
    return LabelOutcome(shard, tuple(labelled.quarantined))


@dataclass(frozen=True)
class SeedTask:
    """A seed trajectory without its oracle, and the file for it."""

    path: Path
    trajectory: TrajectoryTask


def write_trajectory(oracle: Any, task: SeedTask) -> int:
    """Run a seed trajectory and write its file; return its number of frames."""
    from cgal_plugin.oracle.trajectory_task import run_trajectory

    trajectory = run_trajectory(replace(task.trajectory, oracle=oracle))
    trajectory.save(task.path)
    return len(trajectory)


def backmap_chunk(shared: tuple[Any, int], frames: NDArray[np.floating]) -> list[Any]:
    """Backmap frames; ``shared`` is the :class:`AllAtomModel` and the seed."""
    from cgal_plugin.oracle import backmap

    model, seed = shared
    return backmap(frames, model, seed=seed)
