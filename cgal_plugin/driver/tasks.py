"""Functions that worker processes run: picklable, at module level."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from cgal_plugin.data import LabelledFrames
from cgal_plugin.errors import OracleError


def is_picklable(obj: Any) -> bool:
    """Whether ``obj`` can be sent to another process."""
    try:
        pickle.dumps(obj)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def label_frame(task: tuple[Any, np.ndarray]) -> LabelledFrames:
    """Label one frame: ``task`` is an oracle and ``(n_beads, 3)`` Å.

    Raises
    ------
    OracleError
        The oracle returned something that is not LabelledFrames.
    """
    oracle, frame = task
    labelled = oracle.label(frame[None])
    if not isinstance(labelled, LabelledFrames):
        raise OracleError(
            f"the oracle {type(oracle).__qualname__} returned {type(labelled).__name__}; "
            "expected cgal_plugin.data.LabelledFrames"
        )
    return labelled
