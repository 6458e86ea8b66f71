"""Make a data store from all-atom trajectories, with the forces of files or recomputed ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.errors import DataError

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class ImportResult:
    """The store of an import, its number of frames, and what was read and assumed, one line each."""

    store: DataStore
    n_frames: int
    lines: tuple[str, ...]


def import_trajectories(
    trajectories: Sequence[_Path],
    out: _Path,
    *,
    topology: _Path | None = None,
    config: Config | None = None,
    temperature: float | None = None,
    mapping: Any = None,
    embedding: Any = None,
    forces: Sequence[_Path] = (),
    force_unit: str | None = None,
    recompute: bool = False,
    stride: int = 1,
    force_map: str | _Path | None = None,
    block_ps: float | None = None,
    workers: int | None = None,
    message: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import all-atom trajectories. A second call resumes.

    Parameters
    ----------
    trajectories
        Files in formats of mdtraj: XTC, TRR, DCD, NetCDF, HDF5, PDB, ...; each is one simulation.
    out
        Folder of the data store.
    topology
        All-atom structure or topology file of the trajectories' atoms; default: ``system.structure`` of the
        configuration.
    config
        Configuration of the run that will use the store: its system computes forces that files do not have,
        and checks those that they have. Without it, every trajectory needs forces.
    temperature
        K; default: that of the configuration. Required without one.
    mapping, embedding
        CG mapping and embedding; default: those of the configuration, or CA and ``cgal``.
    forces
        One ``.npy`` or ``.npz`` file per trajectory, ``(n_frames, n_atoms, 3)``, with ``force_unit``:
        one of :data:`~cgal_plugin.units.FORCE_UNITS`. TRR files have forces of their own.
    recompute
        Compute all forces, also where files have them.
    stride
        Keep every ``stride``-th frame of each trajectory.
    force_map
        ``"optimal"``, ``"basic"``, or a file with the map of other data; default: that of the configuration.
    block_ps
        Length of the blocks that data sets are split by, ps; default: at least 20 blocks in all.
    workers
        Processes; default: those of the configuration, or 1.
    message
        Called with each line that says what was read or assumed.
    progress
        Called as ``progress(frames done, total frames)``.

    Raises
    ------
    DataError
        Files are missing, damaged, given twice or do not fit each other; a trajectory has no forces and there
        is no configuration; forces are in another unit or of another force field; the temperature differs.
    """
    raise DataError(f"importing all-atom trajectories into {Path(out)} is not available yet")
