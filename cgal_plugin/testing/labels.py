"""The contract of an oracle."""

from __future__ import annotations

import math
import pickle

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgal_plugin.components.protocols import Oracle, PricedOracle
from cgal_plugin.components.tasks import is_picklable
from cgal_plugin.data import LabelledFrames
from cgal_plugin.errors import CGALError
from cgal_plugin.testing.contract import has_role, is_json, unchanged


def check_oracle(
    oracle: Oracle, frames: ArrayLike, *, deterministic: bool = True, refused: ArrayLike | None = None
) -> None:
    """Check that an oracle keeps the contract that a run relies on.

    The ability :class:`PricedOracle` is checked if the oracle has it.

    Parameters
    ----------
    oracle
        An object with ``label(frames) -> LabelledFrames``.
    frames
        ``(n, n_beads, 3)`` Å, at least two, of the molecule of the oracle. At least one can be labelled.
    deterministic
        Require that a frame gets the same label alone and among others, now and later, here and in another
        process. Resumed runs rely on it.
    refused
        ``(n, n_beads, 3)`` Å that the oracle must put into quarantine without an error, such as broken
        chains or coordinates that are not finite. A run passes no such coordinates to an oracle.

    Raises
    ------
    AssertionError
        The oracle breaks the contract; the message says how.
    """
    given = np.asarray(frames)
    assert given.ndim == 3, f"frames have shape {given.shape}; expected (n, n_beads, 3)"
    assert len(given) >= 2, "give at least two frames"
    has_role("oracle", oracle)
    with unchanged(given, "label changed the frames that were passed"):
        labels = oracle.label(given)
    _check_labels(labels, given)
    assert len(labels), "no frame was labelled"
    if refused is not None:
        _check_refused(oracle, np.asarray(refused))
    if deterministic:
        _check_alone(oracle, given, labels)
    if isinstance(oracle, PricedOracle):
        ns = oracle.cost_estimate(2)["oracle_ns"]
        assert math.isfinite(ns), f"cost_estimate(2)['oracle_ns'] is {ns}"
        assert ns >= 0, f"cost_estimate(2)['oracle_ns'] is {ns}"


def _check_alone(oracle: Oracle, frames: NDArray[np.floating], labels: LabelledFrames) -> None:
    """Label one frame again, alone and with the copy of the oracle that a worker process receives."""
    first = int(labels.frame_index[0])
    elsewhere: Oracle = pickle.loads(pickle.dumps(oracle)) if is_picklable(oracle) else oracle
    alone = elsewhere.label(frames[first : first + 1])
    _check_labels(alone, frames[first : first + 1])
    rows = labels.frame_index == first
    for name in ("positions", "forces"):
        assert np.array_equal(getattr(labels, name)[rows], getattr(alone, name)), (
            f"{name} of a frame depend on what else is labelled, on what was labelled before or on the "
            "process; derive the seed of a label from the content of the frame"
        )


def _check_refused(oracle: Oracle, frames: NDArray[np.floating]) -> None:
    try:
        labels = oracle.label(frames)
    except CGALError as error:
        raise AssertionError(
            f"a frame that cannot be labelled must be quarantined, not raise {error!r}"
        ) from error
    _check_labels(labels, frames)
    labelled = sorted(set(labels.frame_index.tolist()))
    assert not labelled, f"frames {labelled[:3]} were labelled, and should be quarantined"


def _check_labels(labels: LabelledFrames, frames: NDArray[np.floating]) -> None:
    assert isinstance(labels, LabelledFrames), (
        f"label returned {type(labels).__name__}; expected cgal_plugin.data.LabelledFrames"
    )
    n_frames, n_beads = frames.shape[:2]
    assert labels.positions.shape[1:] == (n_beads, 3), (
        f"positions have shape {labels.positions.shape}; expected (n, {n_beads}, 3)"
    )
    labelled, refused = set(labels.frame_index.tolist()), {q.frame_index for q in labels.quarantined}
    outside = sorted(i for i in labelled | refused if not 0 <= i < n_frames)
    assert not outside, f"frame_index {outside[:3]} is not one of the {n_frames} frames given"
    both = sorted(labelled & refused)
    assert not both, f"frames {both[:3]} are labelled and quarantined"
    lost = sorted(set(range(n_frames)) - labelled - refused)
    assert not lost, f"frames {lost[:3]} are neither labelled nor quarantined"
    assert all(q.reason for q in labels.quarantined), "a quarantined frame has no reason"
    is_json(dict(labels.metadata), "metadata")
    for key, kind in (("temperature", float), ("ps_per_frame", float), ("force_map_hash", str)):
        value = labels.metadata.get(key)
        accepted = (int, float) if kind is float else kind
        assert value is None or isinstance(value, accepted), f"metadata[{key!r}] is {value!r}"
