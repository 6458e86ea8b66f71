"""State of a simulation, as in its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.dynamics.tempering import ExchangeState
from cgal_plugin.errors import DamageError


@dataclass
class Progress:
    """State of a simulation: the content of a checkpoint in addition to that of OpenMM.

    Attributes
    ----------
    step
        Steps done.
    frames
        Stored frames of each replica.
    parked
        Replicas that blew up and are no longer propagated.
    restarts
        Restarts of each replica.
    seconds
        Wall time of all runs so far.
    checksums
        CRC-32 of the stored frames of each replica; empty before the first frame.
    exchanges
        State of parallel tempering; None without it.
    """

    step: int
    frames: list[int]
    parked: list[bool]
    restarts: list[int]
    events: list[BlowUp] = field(default_factory=list)
    seconds: float = 0.0
    checksums: list[int] = field(default_factory=list)
    exchanges: ExchangeState | None = None

    @classmethod
    def start(cls, n_replicas: int, exchanges: ExchangeState | None = None) -> Progress:
        """Return the initial state."""
        none = [0] * n_replicas
        return cls(0, none, [False] * n_replicas, list(none), exchanges=exchanges)

    def finished(self, steps: int) -> bool:
        """Return whether all steps are done or all replicas are parked."""
        return self.step >= steps or all(self.parked)

    def timings(self) -> dict[str, float]:
        """Return ``seconds`` of wall time and ``steps_per_second``."""
        return {"seconds": self.seconds, "steps_per_second": self.step / max(self.seconds, 1e-9)}


def parse_progress(content: Any, path: Path) -> Progress:
    """Return the state that the file ``path`` holds.

    Raises
    ------
    DamageError
        The content is not a state.
    """
    try:
        events = [BlowUp(**event) for event in content["events"]]
        exchanges = content.get("exchanges")
        state = None if exchanges is None else ExchangeState(**exchanges)
        return Progress(**{**content, "events": events, "exchanges": state})
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, repr(error)) from error


def damaged(path: Path, why: object) -> DamageError:
    """Return the error for a damaged file of a simulation folder."""
    remedy = f"delete {str(path.parent)!r} to simulate again, or use another out_dir"
    return DamageError(f"{str(path)!r} is damaged ({why}); {remedy}")
