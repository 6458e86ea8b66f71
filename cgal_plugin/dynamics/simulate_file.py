"""CG dynamics from a file of start frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.dynamics.result import SimulationResult
from cgal_plugin.dynamics.simulate import simulate
from cgal_plugin.export import load_metadata

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology


def simulate_file(
    potential: str | os.PathLike[str],
    topology: CGTopology,
    start: str | os.PathLike[str],
    *,
    temperature: float,
    n_replicas: int,
    top: str | os.PathLike[str] | None = None,
    unit: str = "angstrom",
    message: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> SimulationResult:
    """Run :func:`simulate` from frames of a file, spread evenly over it.

    Parameters
    ----------
    start, top, unit
        See :func:`~cgal_plugin.data.trajectories.load_trajectories`.
    message
        Called with a note if the potential was made for another temperature: a CG potential is a free energy
        at one temperature, and an approximation at others.
    **options
        Other arguments of :func:`simulate`.

    Raises
    ------
    DataError
        The start frames cannot be read.
    ExportError
        The potential cannot be read.
    DynamicsError, StateError
        See :func:`simulate`.
    """
    frames = np.concatenate(load_trajectories(start, topology, top=top, unit=unit))
    made_for = load_metadata(potential).get("temperature")
    if made_for is not None and abs(made_for - temperature) > 1e-6:
        message(f"note: {os.fspath(potential)} was made for {made_for:g} K, not for {temperature:g} K")
    rows = np.linspace(0, len(frames) - 1, n_replicas).round().astype(int)
    return simulate(
        potential, topology, frames[rows], temperature=temperature, n_replicas=n_replicas, **options
    )
