"""Whether a run can refine its final model: why not, if it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cgal_plugin.config.oracle import OpenMMOracleConfig
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.simulation import Simulation
from cgal_plugin.config.system import SeedData
from cgal_plugin.config.training import Training

#: fewest frames of the model, and the fraction of each replica that is equilibration
_MIN_FRAMES, _EQUILIBRATION = 200, 0.2
#: fewest ladders of temperatures: the others must suffice if one blows up
_MIN_LADDERS = 4
#: an interval above any lag time, ps
_LONG_PS = 1e9


def common_interval(saved: Iterable[float]) -> float:
    """Return the shortest interval (ps) at which trajectories saved every ``saved`` ps all have frames."""
    return math.lcm(*(max(1, round(1000 * min(ps, _LONG_PS))) for ps in saved)) / 1000


def refinement_problem(
    refinement: Refinement, training: Any, simulation: Any, oracle: Any, rounds: int
) -> str | None:
    """Return what makes a refinement impossible, with the remedy; None if nothing in the sections does.

    Own trainers and files of priors are checked where they are read, see :mod:`cgal_plugin.components.build`.
    """
    if isinstance(simulation, Simulation) and simulation.temperatures:
        interval = simulation.exchange_interval or simulation.report_interval
        if interval > refinement.steps:
            return (
                f"refinement.steps {refinement.steps} is less than the {interval} steps between "
                "exchanges of temperatures: raise it, or lower simulation.exchange_interval"
            )
    if isinstance(training, Training) and not training.refinable:
        if training.init is not None:
            return (
                "refinement changes pair energies that the run has fitted, and training.init brings "
                "priors of its own: remove one of them"
            )
        return (
            "refinement changes pair energies fitted to forces: set training.priors.method to "
            "force_matching and add pairs to training.priors.terms"
        )
    if not isinstance(oracle, OpenMMOracleConfig) or rounds == 0 or oracle.free_ps > refinement.lag_ps:
        return None
    return (
        f"refinement needs labels with more than lag_ps = {refinement.lag_ps} ps of dynamics "
        f"without a restraint; these labels have {oracle.free_ps} ps: set oracle.mode free without "
        "restraint, or steered with release_ps, or a longer production_ps"
    )


def why_not_refined(
    refinement: Refinement, training: Any, simulation: Any, oracle: Any, rounds: int, seed: SeedData
) -> str | None:
    """Return why a run that does not mention refinement leaves it out; None if it is on.

    These are the problems of a refinement that is asked for, and those that would end the run late.
    """
    for name, section, ours in (
        ("training", training, Training),
        ("simulation", simulation, Simulation),
        ("oracle", oracle, OpenMMOracleConfig),
    ):
        if not isinstance(section, ours):
            return f"whether {name}.kind {section.kind} allows it is not known"
    few = _too_few(refinement, simulation)
    if few is not None:
        return few
    problem = refinement_problem(refinement, training, simulation, oracle, rounds)
    if problem is not None:
        return problem
    if seed.store is None and rounds == 0 and seed.picoseconds <= refinement.lag_ps:
        return f"no round, and seed trajectories of {seed.picoseconds:g} ps are too short"
    saved = [oracle.save_ps] * (rounds > 0) + [seed.save_ps] * (seed.store is None)
    common = common_interval(saved)
    if common > refinement.lag_ps:
        return (
            f"seed data and labels, saved every {' and '.join(f'{ps:g}' for ps in saved)} ps, have "
            f"common frames only every {common:g} ps"
        )
    return None


def too_few_frames(refinement: Refinement | None, simulation: Any) -> str | None:
    """Return what to change if the built-in dynamics saves too few frames for a refinement; None otherwise.

    It is no check of the configuration alone, because a sampler can be given in Python.
    """
    if refinement is None or not isinstance(simulation, Simulation):
        return None
    few = _too_few(refinement, simulation)
    if few is None:
        return None
    return (
        f"{few} after equilibration, and {_MIN_FRAMES} are needed: raise refinement.steps to "
        f"{_enough(simulation)} or more, lower simulation.report_interval, or set refinement to null"
    )


def rungs_used(refinement: Refinement, simulation: Simulation) -> int:
    """Return the number of temperatures of a refinement's dynamics; 1: no tempering, or that of the user.

    It is the largest number, at most ``refinement.rungs``, that divides the replicas of each block and leaves
    at least four ladders, and at the temperature of the system twice the frames that are needed: replicas can
    blow up.
    """
    if simulation.temperatures:
        return 1
    packed, used = simulation.n_replicas // simulation.blocks, _used_frames(refinement, simulation)
    for n in range(min(refinement.rungs, packed, simulation.n_replicas // _MIN_LADDERS), 1, -1):
        if packed % n == 0 and simulation.n_replicas // n * used >= 2 * _MIN_FRAMES:
            return n
    return 1


def _replicas(simulation: Simulation) -> int:
    """Return the replicas at the temperature of the system, without tempering of the refinement."""
    return simulation.n_replicas // max(1, len(simulation.temperatures))


def _used_frames(refinement: Refinement, simulation: Simulation) -> int:
    """Return the frames of a replica after its equilibration."""
    each = refinement.steps // simulation.report_interval
    return each - round(_EQUILIBRATION * each)


def _too_few(refinement: Refinement, simulation: Simulation) -> str | None:
    """Say how few frames the dynamics of a refinement save; None if they are enough."""
    replicas = _replicas(simulation)
    frames = replicas * _used_frames(refinement, simulation)
    if frames >= _MIN_FRAMES:
        return None
    return f"{replicas} replicas save only {frames} frames in refinement.steps {refinement.steps}"


def _enough(simulation: Simulation) -> int:
    """Return a number of steps that saves enough frames."""
    each = math.ceil(_MIN_FRAMES / (_replicas(simulation) * (1 - _EQUILIBRATION))) + 1
    return each * simulation.report_interval
