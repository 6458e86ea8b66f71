"""CG dynamics from a file of start frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.config.ladder import check_temperatures
from cgal_plugin.config.quantities import MOST, parse_quantity
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.dynamics.result import SimulationResult
from cgal_plugin.dynamics.simulate import simulate
from cgal_plugin.errors import ConfigError, DynamicsError
from cgal_plugin.export import load_metadata

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology


def parse_temperatures(text: str) -> tuple[float, ...]:
    """Return temperatures (K) of a text such as ``400,460,530``; empty for an empty text.

    Raises
    ------
    ConfigError
        A value is no temperature, or they are no ladder.
    """
    found = []
    for part in text.split(",") if text.strip() else []:
        try:
            found.append(parse_quantity(part, "K"))
        except ValueError as error:
            raise ConfigError(
                f"--temperatures {text!r}: {error}; give temperatures in K, as 400,460,530"
            ) from None
    try:
        return check_temperatures(found)
    except ValueError as error:
        raise ConfigError(f"--temperatures {text!r}: {error}") from None


def simulate_file(
    potential: str | os.PathLike[str],
    topology: CGTopology,
    start: str | os.PathLike[str],
    *,
    temperature: float | None,
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
    temperature
        K; None: that of the potential.
    message
        Called with a note if the potential records no temperature or another one: a CG potential is a free
        energy at one temperature, and an approximation at others.
    **options
        Other arguments of :func:`simulate`.

    Raises
    ------
    ConfigError
        No temperature is given, and the potential records none.
    DataError
        The start frames cannot be read.
    ExportError
        The potential cannot be read.
    DynamicsError, StateError
        See :func:`simulate`.
    """
    frames = np.concatenate(load_trajectories(start, topology, top=top, unit=unit))
    made_for = load_metadata(potential).get("temperature")
    name = os.fspath(potential)
    if made_for is None and temperature is None:
        raise ConfigError(
            f"{name} does not record its temperature: give the temperature of its training data "
            "(--temperature), or export it again with a temperature"
        )
    if made_for is None:
        message(f"note: {name} does not record its temperature; {temperature:g} K is used as given")
    elif temperature is None:
        temperature = float(made_for)
        message(f"temperature {temperature:g} K, as recorded in {name}")
    elif abs(made_for - temperature) > 1e-6:
        message(f"note: {name} was made for {made_for:g} K, not for {temperature:g} K")
    assert temperature is not None
    if not 1 <= n_replicas <= MOST:
        raise DynamicsError(f"--replicas is {n_replicas}; use 1 to {MOST}")
    rows = np.linspace(0, len(frames) - 1, n_replicas).round().astype(int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*a CG potential is a free energy at one temperature")
        return simulate(
            potential, topology, frames[rows], temperature=temperature, n_replicas=n_replicas, **options
        )
