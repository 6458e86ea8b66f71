"""CG data of other programs: molecules, their trajectories and what the files say about them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cgal_plugin.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: key of the record that ``cgal export-data`` adds to the data
RECORD = "cgal_record"
#: arrays of labels that it adds
LABELS = ("frame_index", "start_index", "force_error")


class Rows(Protocol):
    """An array on disk or in memory, read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return some rows."""
        ...


@dataclass(frozen=True)
class RawTrajectory:
    """Coordinates and forces of one file or array.

    Attributes
    ----------
    name
        File and array, for messages.
    coords, forces, delta
        ``(n_frames, n_beads, 3)``, in the unit of the file; forces and delta forces (forces minus those of
        priors) are None if there are none.
    """

    name: str
    coords: Rows
    forces: Rows | None = None
    delta: Rows | None = None


@dataclass(frozen=True)
class RawMolecule:
    """Data of one molecule.

    Attributes
    ----------
    name
        Name from the files.
    trajectories
        At least one.
    embeds
        ``(n_beads,)`` int64, number of each bead type; None if the files have none.
    files
        Files that were read.
    structure
        Structure file that belongs to the data, or None.
    force_map
        ``(n_beads, n_atoms)`` force map that belongs to the data, or None.
    record
        What ``cgal export-data`` wrote with the data; empty for data of other programs.
    labels
        Its arrays of :data:`LABELS`.
    force_map_file
        Content of the force-map file of the store that was exported, or None.
    left_out
        Files that belong to the molecule and are not read.
    temperature
        K, if the file has it; that of ``record`` is not repeated here.
    """

    name: str
    trajectories: Sequence[RawTrajectory]
    embeds: NDArray[np.int64] | None
    files: Sequence[Path]
    structure: Path | None = None
    force_map: NDArray[np.floating] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    force_map_file: bytes | None = None
    left_out: Sequence[str] = ()
    temperature: float | None = None


def read_embeds(array: Any, name: str) -> NDArray[np.int64]:
    """Return the numbers of bead types ``(n_beads,)``; text of numbers is allowed, as torchmd-cg writes it.

    Raises
    ------
    DataError
        They are not positive integers in one dimension, or in equal rows.
    """
    array = np.asarray(array)
    if array.ndim == 2 and len(array) and (array == array[0]).all():
        array = array[0]  # one row per frame
    whole = array.dtype.kind in "iuUSf"
    try:
        numbers = array.astype(np.float64) if whole else None
    except ValueError:
        numbers = None
    if numbers is None or numbers.ndim != 1 or (numbers != np.round(numbers)).any() or (numbers < 1).any():
        raise DataError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected the numbers of the bead types, "
            "(n_beads,) integers from 1"
        )
    whole_numbers: NDArray[np.int64] = numbers.astype(np.int64)
    return whole_numbers


def check_names(molecules: Sequence[RawMolecule], where: str | os.PathLike[str]) -> None:
    """Check that there are molecules, and that their names differ.

    Raises
    ------
    DataError
        There are none, or two have one name.
    """
    if not molecules:
        raise DataError(f"{os.fspath(where)} has no CG data")
    names = [m.name for m in molecules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"the data have several molecules of the name {', '.join(twice)}: import them one by one"
        )
