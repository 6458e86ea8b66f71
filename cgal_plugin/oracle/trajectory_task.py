"""One all-atom trajectory as a task for a worker process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.openmm import OpenMMOracle
from cgal_plugin.oracle.trajectory import AllAtomTrajectory
from cgal_plugin.provenance import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TrajectoryTask:
    """Arguments of :meth:`OpenMMOracle.run` for one trajectory.

    ``oracle`` may be None in a task for a worker that has the oracle. With ``heat_ps`` above 0, dynamics of
    this length (ps) at ``heat_temperature`` (K) leads from ``start`` to the first structure of the
    trajectory, and is discarded.
    """

    oracle: OpenMMOracle | None
    start: str | NDArray[np.floating]
    picoseconds: float
    seed: int
    save_ps: float | None = None
    equilibrate_ps: float = 5.0
    heat_temperature: float | None = None
    heat_ps: float = 0.0


def run_trajectory(
    task: TrajectoryTask, progress: Callable[[int, int], None] | None = None
) -> AllAtomTrajectory:
    """Run a task. A function at module level, so that a process pool can call it.

    Raises
    ------
    OracleError
        The task has no oracle, an argument is invalid, or the dynamics blew up.
    """
    if task.oracle is None:
        raise OracleError("the trajectory task has no oracle; set TrajectoryTask.oracle")
    start = task.start
    if task.heat_ps > 0:
        heated = task.oracle.run(
            start,
            task.heat_ps,
            seed=derive_seed(task.seed, "heat"),
            save_ps=task.heat_ps,
            temperature=task.heat_temperature,
        )
        start = heated.positions[-1]
    return task.oracle.run(
        start,
        task.picoseconds,
        seed=task.seed,
        save_ps=task.save_ps,
        equilibrate_ps=task.equilibrate_ps,
        progress=progress,
    )
