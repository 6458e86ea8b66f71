"""Frame sets that selectors accept, read in Å in blocks of bounded size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from cgal_plugin.data.frame_files import FrameFiles
from cgal_plugin.data.store import DataStore
from cgal_plugin.errors import SelectionError
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray

    FrameSet: TypeAlias = ArrayLike | mdtraj.Trajectory
    #: one set, files, or several of these
    Reference: TypeAlias = FrameSet | str | os.PathLike[str] | DataStore | FrameFiles | Iterable[Any]
    #: an array with its unit, or files
    Source: TypeAlias = tuple[NDArray[Any], str] | FrameFiles

#: distance of beads that follow each other in a chain, Å, and the share and number of pairs that show it
_CHAIN = (1.0, 6.0)
_MOST, _ENOUGH = 0.95, 12
#: larger coordinates (Å) would overflow in single precision
_LARGEST = 1e30
#: frames that the unit is judged from
_SAMPLE = 200


def as_frames(frames: FrameSet, what: str) -> NDArray[Any]:
    """Check and return the coordinate array of ``frames`` (memory maps stay on disk).

    Raises
    ------
    SelectionError
        The shape is not (n, beads, 3), there is no frame or no bead, or the dtype is not real.
    """
    array = np.asarray(getattr(frames, "xyz", frames))
    if array.dtype.kind not in "fiu":
        raise SelectionError(f"{what} has dtype {array.dtype}; expected real numbers")
    if array.ndim != 3 or array.shape[-1] != 3:
        hint = "; put a single frame into a list" if array.ndim == 2 else ""
        raise SelectionError(f"{what} has shape {array.shape}; expected (n_frames, n_beads, 3){hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise SelectionError(
            f"{what} is empty: shape {array.shape}; at least one frame of one bead is needed"
        )
    return array


def unit_of(frames: FrameSet, unit: str) -> str:
    """Return ``unit``, or nm for an ``mdtraj.Trajectory``."""
    return "nm" if hasattr(frames, "xyz") else unit


def sources(frames: Reference, unit: str, what: str) -> Iterator[Source]:
    """Yield the sets in ``frames``, in order, without reading them.

    Raises
    ------
    SelectionError
        See :func:`as_frames`.
    DataError
        A file or folder is missing or empty.
    """
    if isinstance(frames, FrameFiles):
        yield frames
    elif isinstance(frames, str | os.PathLike | DataStore):
        yield FrameFiles(frames, unit=unit)
    elif _several(frames):
        for one in frames:
            yield from sources(one, unit, what)
    else:
        yield as_frames(frames, what), unit_of(frames, unit)


def _several(frames: Any) -> TypeGuard[Iterable[Any]]:
    if hasattr(frames, "__next__"):
        return True
    if not isinstance(frames, list | tuple) or not frames:
        return False
    first = frames[0]
    # a list of frames (beads, 3) is one set, as in numpy
    return isinstance(first, str | os.PathLike | DataStore | FrameFiles) or (
        hasattr(first, "xyz") or (hasattr(first, "ndim") and first.ndim == 3)
    )


def blocks(parts: Iterable[Source], size: int, what: str) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield ``(first frame, frames in Å)`` for blocks of ``size`` frames (the last may be smaller).

    Small sets are joined and large ones are cut, so that memory does not depend on the sizes of the
    sets. Coordinates and bead counts are checked.

    Raises
    ------
    SelectionError
        There is no frame, bead counts differ, or a coordinate is NaN, infinite or too large; the message
        gives the frame, counted over all sets.
    DataError
        A file cannot be read or is damaged.
    UnitError
        The unit is unknown.
    """
    first, held, n_beads = 0, 0, 0
    pending: list[NDArray[np.floating]] = []
    for array, unit in _arrays(parts):
        n_beads = n_beads or array.shape[1]
        if array.shape[1] != n_beads:
            raise SelectionError(
                f"{what} has sets of {n_beads} and of {array.shape[1]} beads;"
                " they must be the same molecule in the same mapping"
            )
        lo = 0
        while lo < len(array):
            piece = as_angstrom(array[lo : lo + size - held], unit)
            _check_finite(piece, first + held, what)
            pending.append(piece)
            lo, held = lo + len(piece), held + len(piece)
            if held == size:
                yield first, _joined(pending)
                first, held, pending = first + held, 0, []
    if held:
        yield first, _joined(pending)
    elif first == 0:
        raise SelectionError(f"{what} is empty; at least one frame of one bead is needed")


def check_scale(candidates: NDArray[np.floating], reference: NDArray[np.floating]) -> None:
    """Check that two sets of frames ``(n, n_beads, 3)`` Å of one molecule are not in nm and Å.

    Raises
    ------
    SelectionError
        Nearly all beads that follow each other are at the distances of a chain in one set, and at a tenth or
        ten times of them in the other.
    """
    scale = []
    for frames in (candidates, reference):
        distance = np.linalg.norm(np.diff(frames[:: -(-len(frames) // _SAMPLE)], axis=1), axis=-1)
        if distance.size < _ENOUGH:
            return
        near, far = _CHAIN
        share = {s: np.mean((distance > s * near) & (distance < s * far)) for s in (1.0, 0.1, 10.0)}
        scale.append(next((s for s, value in share.items() if value > _MOST), 0.0))
    if all(scale) and scale[0] != scale[1]:
        which = "candidates" if scale[0] < scale[1] else "reference"
        raise SelectionError(
            f"beads that follow each other are a tenth as far apart in the {which} as in the other frames: "
            f"the {which} are probably in nm; convert one of them, or give unit='nm' if both are"
        )


def _arrays(parts: Iterable[Source]) -> Iterator[tuple[NDArray[Any], str]]:
    for part in parts:
        if isinstance(part, FrameFiles):
            for array in part:
                yield array, "angstrom"
        else:
            yield part


def _joined(pieces: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _check_finite(frames: NDArray[np.floating], first: int, what: str) -> None:
    # NaN compares false
    limit = frames.dtype.type(min(_LARGEST, float(np.finfo(frames.dtype).max)))
    below = np.abs(frames) < limit
    if not below.all():
        sound = below.all(axis=(1, 2))
        count = int(np.count_nonzero(~sound))
        raise SelectionError(
            f"{what} has coordinates that are not finite (or beyond {_LARGEST:g} Å) in frame"
            f" {first + int(np.argmin(sound))} ({count} such frames in this block);"
            " remove the frames after a blow-up"
        )
