"""Frames of the data store that the loop needs: start frames of replicas, and coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.data import DataStore, FrameFiles
from cgal_plugin.errors import DynamicsError

#: frames among which spread start frames are chosen
_POOL = 5000


def start_positions(
    store: DataStore, shards: Sequence[str], n: int, seed: int, *, spread: bool
) -> NDArray[np.floating]:
    """Choose frames of the named shards for replicas to start from.

    Parameters
    ----------
    n
        Number of replicas. If there are fewer frames, frames are repeated.
    spread
        Choose by farthest-point RMSD among at most 5,000 random frames; otherwise at random.

    Returns
    -------
    ``(n, n_beads, 3)`` Å.
    """
    n_frames = sum(store.record(name)["n_frames"] for name in shards)
    rng = np.random.default_rng(seed)
    if not spread:
        return frames_at(store, shards, rng.choice(n_frames, size=n, replace=n_frames < n))
    from cgal_plugin.selector import k_centre

    rows = np.sort(rng.choice(n_frames, size=min(n_frames, _POOL), replace=False))
    pool = frames_at(store, shards, rows)
    return pool[np.resize(k_centre(pool, n)[0], n)]


def continued_positions(
    store: DataStore,
    last: Sequence[NDArray[np.floating]],
    results: Mapping[str, Any],
    n: int,
    *,
    seed: int,
    spread: bool,
) -> NDArray[np.floating]:
    """Return the last frames of trajectories, or data frames for those that blew up or have no frame.

    All replicas of a ladder of temperatures continue from its trajectory. It goes on if a replica at another
    temperature blows up.

    Parameters
    ----------
    last
        One ``(n, n_beads, 3)`` Å trajectory per replica or ladder; empty: there was none.
    results
        Results of their stage: ``events`` are the replicas that blew up, ``tempering`` is there with ladders.
    n
        Number of replicas.

    Returns
    -------
    ``(n, n_beads, 3)`` Å.
    """
    if results.get("tempering"):
        each, whole = n // len(last), max(map(len, last))
        lost = {k for k, path in enumerate(last) if len(path) < whole}
    else:
        each, lost = 1, {event["replica"] for event in results.get("events", ())}
    kept = {k: path[-1] for k, path in enumerate(last) if len(path) and k not in lost}
    ends = {i: kept[i // each] for i in range(n) if i // each in kept}
    if len(ends) == n:
        return np.stack([ends[i] for i in range(n)])
    start = start_positions(store, store.names(), n, seed, spread=spread)
    return np.stack([ends.get(i, start[i]) for i in range(n)])


def frames_at(store: DataStore, shards: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return ``(len(rows), n_beads, 3)`` Å: the frames ``rows``, counted over the named shards in order."""
    found = np.empty((len(rows), store.topology.n_beads, 3), dtype=np.float32)
    first = 0
    for name in shards:
        last = first + store.record(name)["n_frames"]
        here = np.flatnonzero((rows >= first) & (rows < last))
        if len(here):
            found[here] = store.positions([name])[rows[here] - first]
        first = last
    return found


def coverage(
    candidates: NDArray[np.floating], store: DataStore, shards: Sequence[str]
) -> NDArray[np.float64]:
    """Return ``(n,)`` Å, the nearest RMSD of each candidate to the frames of the named shards."""
    from cgal_plugin.selector import nearest_rmsd

    return nearest_rmsd(candidates, FrameFiles(store, shards=shards))[0]


def check_any_frame(
    trajectories: Sequence[NDArray[np.floating]],
    events: Sequence[Mapping[str, Any]],
    where: str,
    folder: Path,
) -> None:
    """Check that a simulation gave at least one frame.

    Raises
    ------
    DynamicsError
        There is none; the message names the blow-ups.
    """
    if sum(len(t) for t in trajectories):
        return
    details = "; ".join(sorted({f"{e['kind']}: {e['detail']}" for e in events})[:3])
    raise DynamicsError(
        f"{where}: every replica blew up before its first frame ({details or 'no events'}). Train longer, "
        f"use stronger priors or a smaller simulation.timestep_fs; delete {folder} to simulate again"
    )
