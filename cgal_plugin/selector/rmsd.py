"""Exact nearest RMSD at scale: for every candidate the closest reference frame.

``nearest_rmsd`` takes any sizes: references and candidates are handled in blocks of bounded
memory, so that memory-mapped arrays larger than the machine's memory work.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.search import Frames, Index
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray

    FrameSet = ArrayLike | mdtraj.Trajectory

#: memory of one block of reference frames with its index; candidates take a quarter of it
_BLOCK_BYTES = 256 * 2**20
#: coordinates beyond this size (Å) would overflow in single precision
_LARGEST = 1e30
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def as_frames(frames: FrameSet, what: str) -> NDArray[Any]:
    """The coordinate array behind ``frames`` (memory maps stay on disk), its form checked.

    Raises
    ------
    SelectionError
        The shape is not (n, beads, 3), there is no frame or no bead, or the dtype is no real number.
    """
    array = np.asarray(getattr(frames, "xyz", frames))
    if array.dtype.kind not in "fiu":
        raise SelectionError(f"{what} has dtype {array.dtype}; expected real numbers")
    if array.ndim != 3 or array.shape[-1] != 3:
        hint = "; put a single frame into a list" if array.ndim == 2 else ""
        raise SelectionError(f"{what} has shape {array.shape}; expected (n_frames, n_beads, 3){hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise SelectionError(f"{what} is empty: shape {array.shape}; one frame of one bead is the least")
    return array


def unit_of(frames: FrameSet, unit: str) -> str:
    """``unit``, or nm for an ``mdtraj.Trajectory``."""
    return "nm" if hasattr(frames, "xyz") else unit


def blocks(
    array: NDArray[Any], unit: str, size: int, what: str
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """``(first frame, frames in Å)`` for blocks of ``size`` frames, checked to be finite.

    Raises
    ------
    SelectionError
        A coordinate is NaN, infinite or absurdly large; the frame is named.
    UnitError
        The unit is unknown.
    """
    for lo in range(0, len(array), size):
        block = as_angstrom(array[lo : lo + size], unit)
        # NaN compares false
        sound = (np.abs(block) < block.dtype.type(min(_LARGEST, np.finfo(block.dtype).max))).all(axis=(1, 2))
        if not sound.all():
            frame = lo + int(np.argmin(sound))
            count = int(np.count_nonzero(~sound))
            raise SelectionError(
                f"{what} has coordinates that are not finite (or beyond {_LARGEST:g} Å) in frame {frame}"
                f" ({count} such frames in this block); drop the frames after a blow-up"
            )
        yield lo, block


def block_frames(n_beads: int, share: float = 1.0) -> int:
    """Number of frames whose search data fit into ``share`` of the block memory."""
    return max(1024, int(share * _BLOCK_BYTES / (160 * n_beads + 800)))


def usable_threads(n_threads: int | None) -> int:
    """``n_threads``, or by default the cores this process may use, at most ``OMP_NUM_THREADS``.

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
    reference: FrameSet,
    *,
    unit: str = "angstrom",
    n_threads: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Smallest optimal-superposition RMSD of each candidate to any reference frame, and which one.

    Exact, in double precision; all beads weigh the same; only proper rotations superpose (a
    mirror image does not). Of reference frames whose distances differ by less than 1e-6 Å any
    one may be named. Memory is bounded by a few hundred MB beyond the arrays given.

    Parameters
    ----------
    candidates, reference
        ``(n, beads, 3)`` and ``(m, beads, 3)`` arrays in ``unit`` (``numpy.memmap`` is read in
        blocks), or ``mdtraj.Trajectory`` (its nm are converted whatever ``unit`` says).
    unit
        ``"angstrom"`` or ``"nm"``.
    n_threads
        Threads; by default the cores this process may use, at most ``OMP_NUM_THREADS``.

    Returns
    -------
    distance
        ``(n,)`` float64, Å.
    index
        ``(n,)`` int64, the reference frame.

    Raises
    ------
    SelectionError
        Shapes are wrong, bead counts differ, there are no frames, or coordinates are not finite.
    UnitError
        The unit is unknown.
    """
    x, y = as_frames(candidates, "candidates"), as_frames(reference, "reference")
    if x.shape[1] != y.shape[1]:
        raise SelectionError(
            f"candidates have {x.shape[1]} beads and the reference has {y.shape[1]};"
            " they must be the same molecule in the same mapping"
        )
    threads = usable_threads(n_threads)
    unit_x, unit_y = unit_of(candidates, unit), unit_of(reference, unit)
    best = np.full(len(x), np.inf)
    index = np.zeros(len(x), dtype=np.int64)
    for first, frames in blocks(y, unit_y, block_frames(y.shape[1]), "reference"):
        block = Index(frames)
        for lo, some in blocks(x, unit_x, block_frames(x.shape[1], 0.25), "candidates"):
            part = slice(lo, lo + len(some))
            distance, nearest = _search(block, some, best[part], threads)
            nearer = distance < best[part]
            index[part][nearer] = nearest[nearer] + first
            best[part] = distance
    return best, index


@functools.cache
def _blas_libraries() -> Any:
    # finding the loaded libraries takes milliseconds; numpy's is there by now
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
    # each is small: threads inside BLAS would only get into each other's way
    with _blas_libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, block.groups(frames)))
    return distance, nearest


def coverage(
    frames: FrameSet,
    reference: FrameSet,
    *,
    unit: str = "angstrom",
    n_threads: int | None = None,
) -> dict[str, Any]:
    """How well ``reference`` covers ``frames``: the distribution of the nearest RMSD, Å.

    Returns
    -------
    dict
        ``"n_frames"``, ``"n_reference"``, ``"mean"``, ``"quantiles"`` (``{0.05: Å, ..., 1.0: Å}``),
        ``"distances"`` ``(n,)`` and ``"indices"`` ``(n,)`` as of :func:`nearest_rmsd`.

    Raises
    ------
    SelectionError, UnitError
        As :func:`nearest_rmsd`.
    """
    distances, indices = nearest_rmsd(frames, reference, unit=unit, n_threads=n_threads)
    return {
        "n_frames": len(distances),
        "n_reference": len(as_frames(reference, "reference")),
        "mean": float(distances.mean()),
        "quantiles": {q: float(v) for q, v in zip(QUANTILES, np.quantile(distances, QUANTILES), strict=True)},
        "distances": distances,
        "indices": indices,
    }
