"""Refuse sizes with which a run would fail late: too little memory, or too few frames to refine a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cgal_plugin.config import Config
from cgal_plugin.config.refine_by_default import too_few_frames
from cgal_plugin.config.simulation import Simulation
from cgal_plugin.config.training import Training
from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology

#: bytes per weight in training: the weight, its gradient, and two moments of AdamW, float32
_PER_WEIGHT = 16
#: bytes per bead of a frame in memory: three float32, and the copy in which all trajectories are joined
_PER_BEAD = 24
#: values per pair of beads, feature and layer that training keeps for one frame
_PER_PAIR = 6


def check_sizes(config: Config, topology: CGTopology, *, own_sampler: bool = False) -> None:
    """Check the sizes of a run before anything is spent; ``own_sampler``: it does not use ``simulation``.

    Raises
    ------
    ConfigError
        The dynamics of the refinement saves too few frames, or see :func:`check_memory`.
    """
    few = None if own_sampler else too_few_frames(config.refinement, config.simulation)
    if few is not None:
        raise ConfigError(few)
    check_memory(config, topology)


def check_memory(config: Config, topology: CGTopology, available: int | None = None) -> None:
    """Refuse a configuration whose smallest need of memory exceeds that of this machine.

    Parameters
    ----------
    available
        Bytes; default: the memory of this machine. If it is not known, nothing is checked.

    Raises
    ------
    ConfigError
        A part does not fit; the message names its keys.
    """
    available = _physical() if available is None else available
    for keys, needed in memory_needs(config, topology):
        if available is not None and needed > available:
            raise ConfigError(
                f"{keys} need about {needed / 1e9:,.0f} GB of memory, and this machine has "
                f"{available / 1e9:,.0f} GB: lower one of them"
            )


def memory_needs(config: Config, topology: CGTopology) -> Iterator[tuple[str, float]]:
    """Yield the keys that a need comes from, with their values, and the bytes: a lower estimate of each."""
    beads = topology.n_beads
    training, simulation, test, seeds = config.training, config.simulation, config.tested, config.seed_data
    if isinstance(training, Training) and training.init is None:
        m = training.model
        f, layers = m.embedding_dimension, m.num_layers
        weights = layers * f * (m.num_rbf + 5 * f) + f * (f // 2 + 100)
        pairs = 4 * _PER_PAIR * f * layers * beads * (beads - 1)
        grid = 8 * f * layers * (m.filter_grid or 0)
        what = f"training.model: embedding_dimension {f:,}, num_layers {layers:,} and num_rbf {m.num_rbf:,}"
        yield what, _PER_WEIGHT * weights + pairs + grid
    if isinstance(simulation, Simulation):
        frames = simulation.n_replicas * (simulation.steps // simulation.report_interval)
        yield _frames_of("simulation", simulation.n_replicas, simulation.steps), _PER_BEAD * beads * frames
    if test is not None:
        frames = test.n_walkers * (test.steps // test.report_interval)
        yield _frames_of("test", test.n_replicas, test.steps), _PER_BEAD * beads * frames
    if seeds.store is None:
        frames = seeds.n_trajectories * round(seeds.picoseconds / seeds.save_ps)
        what = f"seed_data: n_trajectories {seeds.n_trajectories:,} and picoseconds {seeds.picoseconds:,g}"
        yield f"{what}, saved every {seeds.save_ps:g} ps,", 2 * _PER_BEAD * beads * frames


def _frames_of(section: str, n_replicas: int, steps: int) -> str:
    return f"the frames of {section}: n_replicas {n_replicas:,}, steps {steps:,} and report_interval"


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
