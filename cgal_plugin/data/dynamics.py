"""Unbiased all-atom dynamics in a data store, as trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.store import DataStore


def free_trajectories(store: DataStore, interval_ps: float) -> list[NDArray[np.float32]]:
    """Return the CG frames of unbiased dynamics, one ``(n, n_beads, 3)`` Å array per start, in time order.

    These are seed trajectories, labels of mode ``free`` without a restraint, and steered labels after
    their release, according to the metadata that the OpenMM oracle writes.

    Parameters
    ----------
    interval_ps
        Time between frames, ps; a multiple of the ``save_ps`` of every shard.

    Raises
    ------
    DataError
        There is no such trajectory, or a ``save_ps`` does not divide ``interval_ps``.
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
    """Return the values of ``save_ps`` of the shards that :func:`free_trajectories` reads."""
    records = [store.record(name)["metadata"] for name in store.names()]
    return {float(m["save_ps"]) for m in records if _free_ps(m) > 0}


def _free_ps(metadata: dict[str, Any]) -> float:
    """Return the unbiased time at the end of each start, ps; infinite if all of it is unbiased."""
    if metadata.get("save_ps") is None:
        return 0.0
    if metadata.get("mode") == "steered":
        return float(metadata.get("release_ps") or 0.0)
    return np.inf if metadata.get("mode") == "free" and not metadata.get("restraint") else 0.0
