"""Parallel tempering: ladders of temperatures and the exchange between their rungs.

A *walker* is one replica, whose trajectory is continuous; a *rung* is one temperature of the ladder. An
exchange moves the temperatures of two walkers on neighbouring rungs, and scales their momenta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.config.ladder import check_ladders, check_temperatures
from cgal_plugin.errors import DynamicsError
from cgal_plugin.provenance import derive_seed
from cgal_plugin.units import kT

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ladder:
    """Independent ladders of one set of temperatures; walker ``w`` belongs to ladder ``w // rungs``.

    Attributes
    ----------
    temperatures
        K, ascending.
    n_replicas
        Walkers of all ladders.
    interval
        Steps between attempts to exchange.
    seed
        Seed of the simulation.
    """

    temperatures: tuple[float, ...]
    n_replicas: int
    interval: int
    seed: int

    @property
    def n_ladders(self) -> int:
        """Number of ladders."""
        return self.n_replicas // len(self.temperatures)

    def ladder_of(self, walker: int) -> int:
        """Return the ladder of a walker."""
        return walker // len(self.temperatures)

    def baths(self, rungs: Sequence[int]) -> NDArray[np.float64]:
        """Return the temperature of each walker, ``(n_replicas,)`` K."""
        return np.array(self.temperatures)[np.asarray(rungs, dtype=np.int64)]

    def random(self, step: int) -> NDArray[np.float64]:
        """Return the random numbers of the attempts at a step, ``(n_ladders, rungs)``.

        They depend on seed and step only, so that a resumed simulation repeats them.
        """
        rng = np.random.default_rng(derive_seed(self.seed, "exchange", step))
        return rng.random((self.n_ladders, len(self.temperatures)))


@dataclass
class ExchangeState:
    """State of the exchanges, as stored in a checkpoint.

    Attributes
    ----------
    rungs
        Rung of each walker.
    attempts, accepted
        Number of exchanges between two rungs, of all ladders: ``[lower][upper]``.
    ends
        How far each walker is on its round trip: 0 not at the lowest rung yet, 1 on the way up, 2 on the way
        down.
    round_trips
        Completed round trips of each walker: lowest rung, highest, lowest.
    records, checksum
        Records in the exchange file, and their CRC-32.
    """

    rungs: list[int]
    attempts: list[list[int]]
    accepted: list[list[int]]
    ends: list[int]
    round_trips: list[int]
    records: int = 0
    checksum: int = 0

    @classmethod
    def start(cls, ladder: Ladder) -> ExchangeState:
        """Return the initial state: walker ``w`` on rung ``w % rungs``."""
        k, n = len(ladder.temperatures), ladder.n_replicas
        rungs = [w % k for w in range(n)]
        counts = [[[0] * k for _ in range(k)] for _ in range(2)]
        return cls(rungs, counts[0], counts[1], [int(r == 0) for r in rungs], [0] * n)


def acceptance(lower: float, upper: float, energy_lower: float, energy_upper: float) -> float:
    """Return the probability of the exchange of two walkers at temperatures ``lower`` and ``upper`` (K).

    ``min(1, exp((β_lower - β_upper)(U_lower - U_upper)))`` with energies in kcal/mol (Sugita and Okamoto,
    Chem. Phys. Lett. 314, 141, 1999); it keeps the distribution at each temperature, because the momenta are
    scaled by √(T_new/T_old). 0 if an energy is not finite.
    """
    exponent = (1.0 / kT(lower) - 1.0 / kT(upper)) * (energy_lower - energy_upper)
    return math.exp(min(0.0, exponent)) if math.isfinite(exponent) else 0.0


def exchange(
    ladder: Ladder, state: ExchangeState, energies: NDArray[np.float64], parked: Sequence[bool], step: int
) -> bool:
    """Attempt exchanges between neighbouring rungs; return whether one was accepted.

    Pairs alternate: rungs 0-1, 2-3, ... at even attempts and 1-2, 3-4, ... at odd ones. Parked walkers take
    no part; the rungs on both sides of theirs become neighbours.

    Parameters
    ----------
    state
        It is changed.
    energies
        Potential energy of each walker, ``(n_replicas,)`` kcal/mol.
    step
        Step of the simulation, a multiple of the interval.
    """
    random = ladder.random(step)
    odd = (step // ladder.interval) % 2
    changed = False
    for number in range(ladder.n_ladders):
        first = number * len(ladder.temperatures)
        walkers = [w for w in range(first, first + len(ladder.temperatures)) if not parked[w]]
        walkers.sort(key=lambda w: state.rungs[w])
        # two rungs have one pair, at every attempt
        for position in range(odd if len(walkers) > 2 else 0, len(walkers) - 1, 2):
            low, high = walkers[position], walkers[position + 1]
            i, j = state.rungs[low], state.rungs[high]
            state.attempts[i][j] += 1
            p = acceptance(ladder.temperatures[i], ladder.temperatures[j], energies[low], energies[high])
            if random[number, i] < p:
                state.accepted[i][j] += 1
                state.rungs[low], state.rungs[high] = j, i
                changed = True
    if changed:
        _count_round_trips(state, len(ladder.temperatures) - 1)
    return changed


def _count_round_trips(state: ExchangeState, top: int) -> None:
    for walker, rung in enumerate(state.rungs):
        if rung == 0:
            state.round_trips[walker] += state.ends[walker] == 2
            state.ends[walker] = 1
        elif rung == top and state.ends[walker] == 1:
            state.ends[walker] = 2


def make_ladder(
    temperatures: Sequence[float],
    temperature: float,
    n_replicas: int,
    steps: int,
    interval: int | None,
    report_interval: int,
    seed: int,
) -> Ladder:
    """Return the ladders of a simulation; see :func:`cgal_plugin.dynamics.simulate`.

    Raises
    ------
    DynamicsError
        A temperature, the number of replicas or the interval is wrong.
    """
    chosen = report_interval if interval is None else interval
    if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer) or chosen < 1:
        raise DynamicsError(f"exchange_interval is {chosen!r}; it must be an integer of at least 1")
    try:
        ladder = check_temperatures(temperatures, temperature)
        check_ladders(n_replicas, len(ladder))
    except ValueError as error:
        raise DynamicsError(str(error)) from None
    if chosen > steps:
        raise DynamicsError(
            f"exchange_interval {chosen} exceeds steps {steps}: no exchange would be attempted"
        )
    return Ladder(ladder, n_replicas, int(chosen), seed)
