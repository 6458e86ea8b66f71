"""Labelled frames in memory: the result of an oracle, and the content of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Quarantined:
    """A frame that the oracle could not label, and the reason."""

    frame_index: int
    reason: str
    method: str = ""


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """CG frames with forces from an oracle.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å.
    forces
        ``(n, n_beads, 3)`` kcal/mol/Å, mapped.
    frame_index
        ``(n,)`` int64: index of the frame given to the oracle.
    start_index
        ``(n,)`` int64: index of the all-atom start of that frame. Rows of equal
        (frame_index, start_index) form one correlated block.
    force_error
        ``(n,)`` kcal/mol/Å: standard error of the force (rms over components), NaN if unknown.
    quarantined
        Frames without a label.
    metadata
        JSON-ready facts: at least ``temperature`` (K), ``mode``, ``force_map_hash``.

    Raises
    ------
    DataError
        Shapes differ, or a position or force is not finite.
    """

    positions: NDArray[np.floating]
    forces: NDArray[np.floating]
    frame_index: NDArray[np.int64]
    start_index: NDArray[np.int64]
    force_error: NDArray[np.floating]
    quarantined: Sequence[Quarantined] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions, forces = np.asarray(self.positions), np.asarray(self.forces)
        if positions.ndim != 3 or positions.shape[-1] != 3:
            raise DataError(f"positions have shape {positions.shape}; expected (n_frames, n_beads, 3)")
        if forces.shape != positions.shape:
            raise DataError(f"forces have shape {forces.shape}, positions {positions.shape}; they must agree")
        for name in ("frame_index", "start_index", "force_error"):
            if np.shape(getattr(self, name)) != (len(positions),):
                raise DataError(
                    f"{name} has shape {np.shape(getattr(self, name))}; expected ({len(positions)},)"
                )
        for name, array in (("positions", positions), ("forces", forces)):
            if not np.isfinite(array).all():
                bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
                raise DataError(
                    f"{name} of {bad.size} of {len(array)} frames are not finite (first: frame {bad[0]})"
                )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def block(self) -> NDArray[np.int64]:
        """``(n,)`` int64: 0-based number of the correlated block of each row."""
        frame, start = (np.diff(np.asarray(a, dtype=np.int64)) for a in (self.frame_index, self.start_index))
        if ((frame > 0) | ((frame == 0) & (start >= 0))).all():  # sorted, as an oracle writes them
            return np.concatenate([[0], np.cumsum((frame != 0) | (start != 0))])[: len(self)].astype(np.int64)
        pairs = np.stack([self.frame_index, self.start_index], axis=1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @classmethod
    def concatenate(cls, parts: Sequence[LabelledFrames]) -> LabelledFrames:
        """Join several sets of frames; the metadata are those of the first.

        Raises
        ------
        DataError
            ``parts`` is empty, or bead counts differ.
        """
        if not parts:
            raise DataError("no labelled frames to join")
        counts = sorted({p.positions.shape[1] for p in parts})
        if len(counts) > 1:
            raise DataError(f"labelled frames have different numbers of beads: {counts}")
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in ("positions", "forces", "frame_index", "start_index", "force_error")
        }
        return replace(parts[0], **arrays, quarantined=tuple(q for p in parts for q in p.quarantined))


@dataclass(frozen=True, eq=False)
class StoredFrames:
    """All frames of a store in memory.

    ``positions`` and ``forces`` ``(n, n_beads, 3)`` in Å and kcal/mol/Å; ``shard`` ``(n,)`` indexes
    ``names`` and ``sources``; ``block`` ``(n,)`` numbers the correlated blocks of the whole store.
    """

    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    force_error: NDArray[np.float32]
    shard: NDArray[np.int64]
    block: NDArray[np.int64]
    names: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)
