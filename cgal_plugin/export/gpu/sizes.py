"""Sizes of the arrays that the GPU engine allocates, and the memory that they need."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cgal_plugin.errors import ExportError

#: molecules up to this size keep all pairs and need no list
ALL_PAIRS = 64
#: Å³ of a residue in a folded protein, and the margin for denser places
_RESIDUE_VOLUME, _MARGIN = 135.0, 1.5
#: elements of an array; indices in kernels are int32
_MOST = 2**31 - 1


class TooLargeError(ExportError, MemoryError):
    """An array has more elements than int32 can index: callers make fewer replicas, as with little memory."""


def padded(n: int) -> int:
    """Return the next multiple of 32."""
    return -(-n // 32) * 32


def list_capacity(n_beads: int, n_residues: int, reach: float) -> int:
    """Return slots per bead for a list to ``reach`` Å: all beads of a small molecule, else by density."""
    if n_beads <= ALL_PAIRS:
        return n_beads - 1
    density = n_beads / max(1, n_residues) / _RESIDUE_VOLUME
    expected = _MARGIN * density * 4.0 / 3.0 * math.pi * reach**3
    return min(n_beads - 1, padded(math.ceil(expected)))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a potential on the device.

    Attributes
    ----------
    width, filters
        Features of the beads and of the filters, padded to groups of 32.
    hidden
        Padded widths of the hidden output layers, or of the only output layer.
    capacity
        Slots of the list per bead.
    """

    n_beads: int
    n_replicas: int
    blocks: int
    width: int
    filters: int
    hidden: tuple[int, ...]
    capacity: int

    @property
    def rows(self) -> int:
        """Beads of all replicas."""
        return self.n_beads * self.n_replicas

    @property
    def groups(self) -> int:
        """Groups of 32 filter channels."""
        return self.filters // 32

    @property
    def gradient(self) -> int:
        """Width of a row of gradients: dE/dv of the blocks after the first, dE/d(first output layer)."""
        return (self.blocks - 1) * self.filters + self.hidden[0]

    def buffers(self) -> dict[str, tuple[int, type[np.generic]]]:
        """Return elements and dtype of each array of the workspace."""
        f, i, d = np.float32, np.int32, np.float64
        rows, slots = self.rows, self.rows * self.capacity
        found: dict[str, tuple[int, type[np.generic]]] = {
            "built": (3 * rows, d),
            "lost": (self.n_replicas, i),
            "stale": (self.n_replicas, i),
            "overflow": (1, i),
            "count": (rows, i),
            "neighbor": (slots, i),
            "reverse": (slots, i),
            "pair": (slots, i),
            "place": (slots, f),
            "slope": (slots * self.groups, f),
            "v": (rows * self.blocks * self.filters, f),
            "message": (rows * self.filters, f),
            "active": (rows * self.blocks * self.width, f),
            "derivative": (rows * self.blocks * self.width, f),
            "gradient": (rows * self.gradient, f),
            "scratch": (rows * self.width, f),
            "energy": (rows, d),
        }
        for k, width in enumerate(self.hidden):
            found[f"out{k}"] = (rows * width, f)
            if k > 0 or len(self.hidden) > 1:
                found[f"out_slope{k}"] = (rows * width, f)
        return found

    @property
    def memory(self) -> int:
        """Bytes of the workspace, without weights and tables (a few MB)."""
        return sum(n * np.dtype(kind).itemsize for n, kind in self.buffers().values())

    def check(self) -> None:
        """Refuse arrays that int32 cannot index.

        Raises
        ------
        TooLargeError
            There are too many beads or replicas.
        """
        name, (largest, _) = max(self.buffers().items(), key=lambda item: item[1][0])
        if largest > _MOST:
            raise TooLargeError(
                f"{self.n_replicas} replicas of {self.n_beads} beads need an array {name!r} of {largest} "
                f"elements on the GPU; at most {_MOST}: use fewer replicas in one call"
            )
