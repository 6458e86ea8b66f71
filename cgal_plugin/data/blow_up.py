"""One blow-up of CG dynamics: the type that samplers, manifests and reports use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlowUp:
    """A replica whose dynamics left the range of physical structures; its later frames were discarded.

    Attributes
    ----------
    replica
        Number of the replica, from 0.
    step
        Step of the check that detected the blow-up.
    kind
        ``"non-finite"``, ``"bond"`` or ``"energy"``.
    detail
        Description of the observed values.
    frame_index
        Number of frames of this replica stored before the event; None if the sampler does not report it.
    """

    replica: int
    step: int
    kind: str
    detail: str = ""
    frame_index: int | None = None
