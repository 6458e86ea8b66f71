"""Checks of the temperatures of parallel tempering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

#: temperatures (K) that differ by less are the same
_SAME = 1e-6


def check_temperatures(temperatures: Sequence[float], temperature: float | None = None) -> tuple[float, ...]:
    """Return a ladder of temperatures, K.

    Raises
    ------
    ValueError
        There are fewer than two; one is not positive and finite; they do not ascend; or ``temperature``, at
        which frames are used, is not one of them.
    """
    found = tuple(float(t) for t in temperatures)
    text = ", ".join(f"{t:g}" for t in found)
    bad = [t for t in found if not (math.isfinite(t) and t > 0)]
    if bad:
        raise ValueError(f"temperatures are {text} K; {bad[0]:g} is not a temperature above 0 K")
    if len(found) == 1:
        raise ValueError(
            f"temperatures has one value, {text} K; an exchange needs two or more. Without exchanges, leave "
            "temperatures out"
        )
    if any(b - a <= _SAME for a, b in itertools.pairwise(found)):
        ordered = sorted(set(found))
        twice = len(ordered) < len(found)
        raise ValueError(
            f"temperatures are {text} K; they must ascend{', and each be given once' * twice}: "
            f"{', '.join(f'{t:g}' for t in ordered)}"
        )
    if found and temperature is not None:
        rung_of(found, temperature)
    return found


def geometric_ladder(lowest: float, hottest: float, n: int) -> tuple[float, ...]:
    """Return ``n`` temperatures, K, from ``lowest`` to ``hottest * lowest``; empty for 1: no tempering."""
    return tuple(lowest * hottest ** (k / (n - 1)) for k in range(n)) if n > 1 else ()


def rung_of(temperatures: Sequence[float], temperature: float) -> int:
    """Return the rung of ``temperature`` (K).

    Raises
    ------
    ValueError
        It is none of ``temperatures``.
    """
    for rung, found in enumerate(temperatures):
        if abs(found - temperature) <= _SAME:
            return rung
    raise ValueError(
        f"temperature {temperature:g} K is none of the temperatures "
        f"{', '.join(f'{t:g}' for t in temperatures)} K, and only at these are frames sampled: add it to them"
    )


def check_ladders(n_replicas: int, n_temperatures: int, blocks: int = 1) -> int:
    """Return the number of ladders of ``n_replicas``, which are divided into ``blocks`` Systems.

    Raises
    ------
    ValueError
        The replicas do not fill whole ladders.
    """
    whole = n_temperatures * blocks
    if n_replicas % whole:
        near = [n for n in (n_replicas // whole, n_replicas // whole + 1) if n]
        raise ValueError(
            f"{n_replicas} replicas{f' in {blocks} blocks' * (blocks > 1)} cannot be divided into ladders of "
            f"{n_temperatures} temperatures; the number of replicas is that of all temperatures together: "
            "use " + " or ".join(str(n * whole) for n in near)
        )
    return n_replicas // n_temperatures
