"""Exact nearest RMSD: the nearest reference frame of each candidate.

References and candidates are processed in blocks of bounded memory, so that memory-mapped arrays and
shards on disk may be larger than memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.device_search import choose_device, device_search
from cgal_plugin.selector.frame_sets import as_frames, blocks, check_scale, sources, unit_of
from cgal_plugin.selector.search import Frames, Index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.selector.frame_sets import FrameSet, Reference, Source

#: memory of one block of reference frames with its index; a block of candidates has a quarter of it
_BLOCK_BYTES = 256 * 2**20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def block_frames(n_beads: int, share: float = 1.0) -> int:
    """Return the number of frames whose search data fit into ``share`` of the block memory."""
    return max(1024, int(share * _BLOCK_BYTES / (160 * n_beads + 800)))


def usable_threads(n_threads: int | None) -> int:
    """Return ``n_threads``, by default the available cores, at most ``OMP_NUM_THREADS``.

    Raises
    ------
    SelectionError
        ``n_threads`` is not a positive integer.
    """
    if n_threads is not None:
        if isinstance(n_threads, bool) or not isinstance(n_threads, (int, np.integer)) or n_threads < 1:
            raise SelectionError(f"n_threads is {n_threads!r}; expected a positive integer or None")
        return int(n_threads)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


def nearest_rmsd(
    candidates: FrameSet,
    reference: Reference,
    *,
    unit: str = "angstrom",
    n_threads: int | None = None,
    device: str = "auto",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the smallest superposed RMSD of each candidate to any reference frame, and its index.

    The result is exact, in double precision. All beads have equal weight; only proper rotations superpose (a
    mirror image does not match). If distances differ by less than 1e-6 Å, the index of any of these
    frames may be returned. Memory is bounded by a few hundred MB beyond the given arrays and the
    largest shard.

    Parameters
    ----------
    candidates
        ``(n, beads, 3)`` array in ``unit`` (``numpy.memmap`` is read in blocks), or
        ``mdtraj.Trajectory`` (always in nm).
    reference
        As ``candidates``, or shards that are read one after another: a path or a
        :class:`~cgal_plugin.data.DataStore` (see :class:`~cgal_plugin.data.FrameFiles` for files and
        folders), or a list, tuple or iterator of these. Frames are counted over all shards, in order.
    unit
        ``"angstrom"`` or ``"nm"``, of arrays and of ``.npy`` and ``.npz`` files.
    n_threads
        Number of threads; by default the available cores, at most ``OMP_NUM_THREADS``.
    device
        ``"cpu"``, ``"cuda"`` (the first NVIDIA GPU, any number of pairs), or ``"auto"``: the GPU if there is
        one and a block has 10⁸ pairs of frames. The results are the same.

    Returns
    -------
    distance
        ``(n,)`` float64, Å.
    index
        ``(n,)`` int64, index of the reference frame.

    Raises
    ------
    SelectionError
        Shapes are wrong, bead counts differ, there are no frames, coordinates are not finite, one of the
        two sets is in another length unit, or ``device`` is unknown or not there.
    DataError
        A file is missing, damaged or cannot be read.
    UnitError
        The unit is unknown.
    """
    choose_device(device, 0)
    x = as_frames(candidates, "candidates")
    best, index = np.full(len(x), np.inf), np.zeros(len(x), dtype=np.int64)
    parts = sources(reference, unit, "reference")
    update_nearest((x, unit_of(candidates, unit)), parts, best, index, usable_threads(n_threads), device)
    return best, index


def update_nearest(
    candidates: tuple[NDArray[Any], str],
    reference: Iterable[Source],
    best: NDArray[np.float64],
    index: NDArray[np.int64],
    threads: int,
    device: str = "auto",
) -> int:
    """Lower ``best`` (n,) Å and set ``index`` (n,) in place where a reference frame is nearer.

    Return the number of reference frames. Raises the errors of :func:`nearest_rmsd`.
    """
    n_beads = candidates[0].shape[1]
    count = 0
    for first, frames in blocks(reference, block_frames(n_beads), "reference"):
        if frames.shape[1] != n_beads:
            raise SelectionError(
                f"candidates have {n_beads} beads and the reference has {frames.shape[1]};"
                " they must be the same molecule in the same mapping"
            )
        block: Index | None = None
        gpu = choose_device(device, len(frames) * len(candidates[0]))
        for lo, some in blocks([candidates], block_frames(n_beads, 0.25), "candidates"):
            if first == lo == 0:
                check_scale(some, frames)
            part = slice(lo, lo + len(some))
            found = device_search(frames, some, best[part], gpu) if gpu else None
            if found is None:
                gpu, block = "", block or Index(frames)
                found = _search(block, some, best[part], threads)
            distance, nearest = found
            nearer = distance < best[part]
            index[part][nearer] = nearest[nearer] + first
            best[part] = distance
        count = first + len(frames)
    return count


@functools.cache
def _blas_libraries() -> Any:
    # cached: the search for loaded libraries takes milliseconds
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _search(
    block: Index, some: NDArray[np.floating], best: NDArray[np.float64], threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    distance, nearest = best.copy(), np.zeros(len(best), dtype=np.int64)
    frames = Frames.prepare(some, block.embedding)

    def work(group: NDArray[np.int64]) -> None:
        d, i = distance[group], nearest[group]
        block.search(frames.take(group), d, i)
        distance[group], nearest[group] = d, i

    # groups are independent, so that the result does not depend on the number of threads;
    # they are small, so that threads inside BLAS would only slow each other down
    with _blas_libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, block.groups(frames)))
    return distance, nearest


def coverage(
    frames: FrameSet,
    reference: Reference,
    *,
    unit: str = "angstrom",
    n_threads: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Return the distribution of the nearest RMSD of ``frames`` to ``reference``, Å.

    Returns
    -------
    dict
        ``"n_frames"``, ``"n_reference"``, ``"mean"``, ``"quantiles"`` (``{0.05: Å, ..., 1.0: Å}``),
        ``"distances"`` ``(n,)`` Å and ``"indices"`` ``(n,)``, the results of :func:`nearest_rmsd`.

    Raises
    ------
    SelectionError, DataError, UnitError
        See :func:`nearest_rmsd`.
    """
    choose_device(device, 0)
    x = as_frames(frames, "frames")
    distances, indices = np.full(len(x), np.inf), np.zeros(len(x), dtype=np.int64)
    parts = sources(reference, unit, "reference")
    n_reference = update_nearest(
        (x, unit_of(frames, unit)), parts, distances, indices, usable_threads(n_threads), device
    )
    return {
        "n_frames": len(distances),
        "n_reference": n_reference,
        "mean": float(distances.mean()),
        "quantiles": {q: float(v) for q, v in zip(QUANTILES, np.quantile(distances, QUANTILES), strict=True)},
        "distances": distances,
        "indices": indices,
    }
