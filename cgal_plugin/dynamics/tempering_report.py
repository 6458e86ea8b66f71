"""What an exchange of temperatures achieved: acceptance, round trips, and a better ladder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.units import kT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cgal_plugin.dynamics.tempering import ExchangeState, Ladder

#: acceptance for which a ladder is suggested
AIM = 0.25
#: acceptance below which neighbours count as not connected, if it was measured in this many attempts
_POOR, _ENOUGH = 0.02, 50
#: most temperatures of a suggestion
_MOST = 200


def tempering_report(
    ladder: Ladder,
    state: ExchangeState,
    parked: Sequence[bool],
    mean_energies: NDArray[np.float64],
) -> dict[str, Any]:
    """Return the result of the exchanges, JSON-ready.

    ``pairs`` has attempts and acceptance of the neighbours of the ladder and, if walkers were parked, of
    rungs that became neighbours. ``warnings`` says which pairs do not exchange, and what to do.
    """
    t = ladder.temperatures
    pairs = []
    for i in range(len(t)):
        for j in range(i + 1, len(t)):
            n = state.attempts[i][j]
            if n or j == i + 1:
                share = state.accepted[i][j] / n if n else None
                pairs.append({"temperatures": [t[i], t[j]], "attempts": n, "acceptance": share})
    lost = [
        {"walker": w, "temperature": t[state.rungs[w]], "ladder": ladder.ladder_of(w)}
        for w, is_parked in enumerate(parked)
        if is_parked
    ]
    found: dict[str, Any] = {
        "temperatures": list(t),
        "n_ladders": ladder.n_ladders,
        "exchange_interval": ladder.interval,
        "pairs": pairs,
        "round_trips": sum(state.round_trips),
        "round_trips_of_walkers": list(state.round_trips),
        "mean_energies": [None if math.isnan(e) else float(e) for e in mean_energies],
        "parked": lost,
    }
    return found | {"warnings": _warnings(found, suggested_temperatures(t, mean_energies))}


def _warnings(found: dict[str, Any], better: list[float]) -> list[str]:
    poor = [p for p in found["pairs"] if p["attempts"] >= _ENOUGH and (p["acceptance"] or 0.0) < _POOR]
    texts = []
    if poor:
        which = ", ".join(
            f"{p['temperatures'][0]:g} and {p['temperatures'][1]:g} K "
            f"({100 * p['acceptance']:.2g} % of {p['attempts']})"
            for p in poor
        )
        remedy = (
            f"about {len(better)} temperatures give {100 * AIM:.0f} %: {', '.join(f'{t:g}' for t in better)}"
            if better
            else "use more temperatures, closer to each other"
        )
        texts.append(
            f"hardly any exchange between {which}: the temperatures on both sides are sampled, but as "
            f"separate simulations. All frames are kept; for exchanges, {remedy}"
        )
    texts += [
        f"walker {p['walker']} is parked since it blew up at {p['temperature']:g} K: ladder {p['ladder']} "
        "goes on without this temperature"
        for p in found["parked"]
    ]
    return texts


def suggested_temperatures(temperatures: Sequence[float], mean_energies: NDArray[np.float64]) -> list[float]:
    """Return temperatures (K) between the same ends whose neighbours exchange at about :data:`AIM`.

    With Gaussian distributions of the energy, the acceptance is erfc(√m / 2) with
    m = (β_i - β_j)(⟨U_j⟩ - ⟨U_i⟩) (Kofke, J. Chem. Phys. 117, 6911, 2002). √m adds up along the ladder, so
    that new rungs at equal distances are found from the measured energies. Empty if they do not allow it.

    Parameters
    ----------
    mean_energies
        At each temperature, kcal/mol.
    """
    from scipy.special import erfcinv

    t = np.asarray(temperatures, dtype=np.float64)
    beta = np.array([1.0 / kT(x) for x in t])
    squared = -np.diff(beta) * np.diff(mean_energies)
    if not np.isfinite(squared).all() or (squared <= 0).any():
        return []
    length = np.concatenate([[0.0], np.cumsum(np.sqrt(squared))])
    gaps = math.ceil(length[-1] / (2.0 * float(erfcinv(AIM))))
    if not 1 <= gaps < _MOST:
        return []
    # in ln T, in which the distance is uniform for a constant heat capacity
    at = np.interp(np.linspace(0.0, length[-1], gaps + 1), length, np.log(t))
    return [float(t[0]), *(float(x) for x in np.round(np.exp(at[1:-1]), 1)), float(t[-1])]


def report_lines(found: dict[str, Any]) -> list[str]:
    """Format the counts of a :func:`tempering_report` for the terminal."""
    pairs = [
        f"{p['temperatures'][0]:g}-{p['temperatures'][1]:g} K "
        + (f"{100 * p['acceptance']:.0f} % of {p['attempts']}" if p["attempts"] else "not attempted")
        for p in found["pairs"]
    ]
    return [
        f"exchanges accepted: {', '.join(pairs)}",
        f"round trips: {found['round_trips']} by {len(found['round_trips_of_walkers'])} walkers "
        f"({found['n_ladders']} ladder(s) of {len(found['temperatures'])} temperatures)",
    ]


def short_text(reports: Sequence[dict[str, Any]]) -> str:
    """Format the :func:`tempering_report` of several Systems as part of a line."""
    shares = [p["acceptance"] for r in reports for p in r["pairs"] if p["attempts"]]
    trips = sum(r["round_trips"] for r in reports)
    accepted = f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %" if shares else "none attempted"
    return f"exchanges accepted {accepted}, {trips} round trips"
