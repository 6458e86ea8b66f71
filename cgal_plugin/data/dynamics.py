"""The unbiased all-atom dynamics in a data store, as trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.store import DataStore


def free_trajectories(store: DataStore, interval_ps: float) -> list[NDArray[np.float32]]:
    """CG frames of seed trajectories and labels that moved freely, ``(n, n_beads, 3)`` Å each, in time order.

    Those are labels of mode ``free`` without a restraint, and what steered labels did after their release,
    by what our oracle writes in the frames' metadata.

    Parameters
    ----------
    interval_ps
        Between frames; every shard's ``save_ps`` must divide it.

    Raises
    ------
    DataError
        There are none, or one was saved at intervals that do not fit.
    """
    found = []
    for name in store.names():
        metadata = store.record(name)["metadata"]
        length = _free_ps(metadata)
        if length <= 0:
            continue
        save_ps = float(metadata["save_ps"])
        stride = round(interval_ps / save_ps)
        if stride < 1 or abs(stride * save_ps - interval_ps) > 1e-6:
            raise DataError(
                f"shard {name!r} has a frame every {save_ps:g} ps, which does not divide {interval_ps:g} ps"
            )
        frames = store.load(name)
        for start in np.unique(frames.start_index):
            path = frames.positions[frames.start_index == start]
            if np.isfinite(length):
                path = path[len(path) - int(length / save_ps + 1e-6) :]
            found.append(path[::stride])
    if not found:
        raise DataError(
            f"{store.root} holds no all-atom dynamics without a bias: seed trajectories, labels of mode free "
            "without restraint, or steered ones with release_ps, each with save_ps in its metadata"
        )
    return found


def save_intervals(store: DataStore) -> set[float]:
    """The ``save_ps`` of what :func:`free_trajectories` takes."""
    records = [store.record(name)["metadata"] for name in store.names()]
    return {float(m["save_ps"]) for m in records if _free_ps(m) > 0}


def _free_ps(metadata: dict[str, Any]) -> float:
    """How much of the end of each start moved freely; infinite where all of it did."""
    if metadata.get("save_ps") is None:
        return 0.0
    if metadata.get("mode") == "steered":
        return float(metadata.get("release_ps") or 0.0)
    return np.inf if metadata.get("mode") == "free" and not metadata.get("restraint") else 0.0
