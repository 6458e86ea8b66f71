"""When a run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgal_plugin.config.evaluation import Stopping


def stop_reason(
    stopping: Stopping,
    rows: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any],
    used_ns: float,
    most: int | None,
) -> str | None:
    """Return why a run stops after the evaluation of a round, or None.

    Parameters
    ----------
    rows, row
        Results of the earlier rounds and of this one.
    used_ns
        All-atom MD so far, ns.
    most
        Number of labels that the oracle's budget allows; None without a budget.
    """
    if len(rows) >= stopping.rounds:
        return f"{stopping.rounds} rounds done (stopping.rounds)"
    if stopping.oracle_ns is not None and (most == 0 or used_ns >= stopping.oracle_ns):
        return f"oracle budget spent: {used_ns:.3f} of {stopping.oracle_ns} ns (stopping.oracle_ns)"
    if stopping.coverage_plateau is not None and rows:
        before, now = rows[-1]["coverage"]["mean"], row["coverage"]["mean"]
        if before - now < stopping.coverage_plateau * before:
            return f"nearest RMSD {before:.2f} -> {now:.2f} Å, a plateau (stopping.coverage_plateau)"
    return None
