"""One blow-up of CG dynamics: the type that samplers, manifests and reports share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlowUp:
    """A replica whose dynamics left the range of physical structures; later frames of it were dropped.

    Attributes
    ----------
    replica
        0-based.
    step
        Step of the check that found it.
    kind
        ``"non-finite"``, ``"bond"`` or ``"energy"``.
    detail
        What was seen, in words.
    frame_index
        Number of frames of this replica stored before the event; None where a sampler does not say.
    """

    replica: int
    step: int
    kind: str
    detail: str = ""
    frame_index: int | None = None
