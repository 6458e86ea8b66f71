"""Nearest RMSD on a GPU: all pairs, exact like the search on the CPU.

The GPU finds the nearest frame by the quartic in float64. The host superposes the frames found, and the few
pairs that rounding of the quartic leaves undecided.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin._warp import device_name, has_gpu, load_kernels, load_warp
from cgal_plugin.errors import SelectionError
from cgal_plugin.selector.kernel import centre, exact_rmsd, squared_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

_LOG = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda")
#: pairs of a block from which ``auto`` uses a GPU: not measured. Copies and the start of Warp take about a
#: second, in which one CPU core searches some 10⁸ pairs
GPU_PAIRS = 100_000_000
#: threads that fill a large GPU
_THREADS = 1 << 18
#: as _ROOT_ERROR of kernel.py, with a margin
_ROOT_ERROR = 2e-7
#: undecided pairs per candidate above which the CPU takes over: degenerate frames
_UNDECIDED = 8
#: as TIE of search.py, Å
_TIE = 1e-6


def choose_device(device: str, pairs: int) -> str:
    """Return the Warp device for ``pairs`` pairs of frames, or ``""`` for the search on the CPU.

    Raises
    ------
    SelectionError
        ``device`` is unknown, or ``"cuda"`` and there is no GPU.
    """
    if device not in DEVICES:
        raise SelectionError(f"device is {device!r}; use one of {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and pairs < GPU_PAIRS):
        return ""
    if has_gpu():
        return "cuda:0"
    if device == "cuda":
        raise SelectionError(
            "device 'cuda' finds no NVIDIA GPU with a working driver (`nvidia-smi` must list it); use 'cpu'"
        )
    return ""


def device_search(
    reference: NDArray[np.floating], candidates: NDArray[np.floating], best: Float, device: str
) -> tuple[Float, Int] | None:
    """Return RMSD (Å) and index of the nearest reference frame of each candidate, on a Warp device.

    A candidate without a frame nearer than ``best`` (Å) keeps it, with index 0. Returns None if the device
    cannot do it: it fails or has too little memory (a warning), or degenerate frames leave too many pairs
    undecided.
    """
    try:
        return _Search(reference, candidates, device).run(best)
    except (RuntimeError, MemoryError) as error:
        warnings.warn(
            f"nearest RMSD on {device_name(device)} failed ({error}); the CPU does it", stacklevel=2
        )
        return None


class _Search:
    def __init__(
        self, reference: NDArray[np.floating], candidates: NDArray[np.floating], device: str
    ) -> None:
        wp = self.wp = load_warp()
        from cgal_plugin.selector import device_kernels

        load_kernels(device_kernels, device)
        self.kernels, self.device = device_kernels, device
        self.x, self.y = centre(candidates), centre(reference)
        # neighbouring threads read neighbouring candidates, and all read the same reference frame
        self.inputs = [
            wp.array(np.ascontiguousarray(self.x.transpose(1, 0, 2)), dtype=wp.vec3d, device=device),
            wp.array(self.y, dtype=wp.vec3d, device=device),
            wp.array(squared_sizes(self.x), dtype=wp.float64, device=device),
            wp.array(squared_sizes(self.y), dtype=wp.float64, device=device),
        ]
        n, m = len(self.x), len(self.y)
        parts = int(np.clip(_THREADS // max(n, 1), 1, max(1, m // 64)))
        self.chunk = -(-m // parts)
        self.shape = (-(-m // self.chunk), n)
        _LOG.info("nearest RMSD of %d x %d frames on %s", n, m, device_name(device))

    def _launch(self, kernel: Any, inputs: list[Any]) -> None:
        self.wp.launch(kernel, dim=self.shape, inputs=[*self.inputs, *inputs], device=self.device)

    def run(self, best: Float) -> tuple[Float, Int] | None:
        wp, device = self.wp, self.device
        squared = wp.empty(self.shape, dtype=wp.float64, device=device)
        index = wp.empty(self.shape, dtype=wp.int32, device=device)
        start = wp.array(np.square(best), dtype=wp.float64, device=device)
        self._launch(self.kernels.nearest, [start, self.chunk, squared, index])
        found, values = index.numpy(), squared.numpy()
        part = np.argmin(np.where(found >= 0, values, np.inf), axis=0)
        nearest = found[part, np.arange(self.shape[1])].astype(np.int64)
        distance = best.copy()
        hit = np.flatnonzero(nearest >= 0)
        distance[hit] = np.minimum(best[hit], self._exact(hit, nearest[hit]))
        pairs = self._undecided(distance, nearest)
        if pairs is None:
            return None
        rows, columns = pairs
        for row, column, value in zip(rows, columns, self._exact(rows, columns), strict=True):
            if value < distance[row] - _TIE:
                distance[row], nearest[row] = value, column
        return distance, np.maximum(nearest, 0)

    def _exact(self, rows: Int, columns: Int) -> Float:
        out = np.empty(len(rows))
        for lo in range(0, len(rows), 8192):
            i, j = rows[lo : lo + 8192], columns[lo : lo + 8192]
            out[lo : lo + 8192] = exact_rmsd(self.x[i], self.y[j])
        return out

    def _undecided(self, distance: Float, nearest: Int) -> tuple[Int, Int] | None:
        wp, device = self.wp, self.device
        count = wp.zeros(1, dtype=wp.int32, device=device)
        pairs = wp.empty(_UNDECIDED * len(distance) + 1024, dtype=wp.vec2i, device=device)
        limit = wp.array(np.maximum(distance - _TIE, 0.0), dtype=wp.float64, device=device)
        index = wp.array(nearest.astype(np.int32), dtype=wp.int32, device=device)
        self._launch(self.kernels.undecided, [limit, index, self.chunk, _ROOT_ERROR, count, pairs])
        total = int(count.numpy()[0])
        if total > len(pairs):
            return None
        # sorted, because threads list their pairs in any order
        found = pairs.numpy()[:total].reshape(-1, 2).astype(np.int64)
        found = found[np.lexsort((found[:, 1], found[:, 0]))]
        return found[:, 0], found[:, 1]
