"""mlcg's HDF5 data sets: groups ``/METASET/MOLECULE`` with coordinates, forces and bead types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.raw_data import LABELS, RECORD, RawMolecule, RawTrajectory, check_names, read_embeds
from cgal_plugin.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COORDS, FORCES, DELTA, EMBEDS, N_FRAMES = "cg_coords", "cg_forces", "cg_delta_forces", "cg_embeds", "N_frames"
_FORCE_MAP = "cgal_force_map"
_DAMAGED = (OSError, KeyError, ValueError, RuntimeError, TypeError)


def h5py_module() -> Any:
    """Return h5py.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("HDF5 files need h5py: pip install 'cgal_plugin[hdf5]'") from error
    return h5py


class H5Rows:
    """A dataset of an HDF5 file, opened for each reading, so that no file stays open."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        with h5py_module().File(path, "r") as file:
            self.shape: tuple[int, ...] = tuple(file[key].shape)
            self.dtype: np.dtype[Any] = file[key].dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        with h5py_module().File(self.path, "r") as file:
            values: NDArray[Any] = file[self.key][rows]
            return values


def has_hdf5_layout(path: Path) -> bool:
    """Return whether an HDF5 file is of this layout, or damaged, and no trajectory of mdtraj."""
    try:
        with h5py_module().File(path, "r") as file:
            return not {"coordinates", "topology"} <= set(file)
    except _DAMAGED:
        return True


def read_hdf5_layout(path: Path) -> list[RawMolecule]:
    """Read the molecules of a file, of all metasets; arrays are read when they are used.

    Raises
    ------
    DataError
        The file is missing or damaged, or a molecule lacks its bead types.
    """
    if not path.is_file():
        raise DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    try:
        with h5py_module().File(path, "r") as file:
            keys = _molecules(file)
            names = [_name(path, key) for key in keys]
            if len(set(names)) < len(names):  # such as /train/cln and /val/cln
                names = [key.strip("/").replace("/", "_") for key in keys]
            molecules = [_molecule(path, file[key], key, name) for key, name in zip(keys, names, strict=True)]
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error
    if not molecules:
        raise DataError(
            f"{path} has no CG data: expected groups /METASET/MOLECULE with {COORDS} and {FORCES}"
        )
    check_names(molecules, path)
    return molecules


def _name(path: Path, key: str) -> str:
    return key.rstrip("/").rpartition("/")[2] or path.stem


def _molecules(group: Any, key: str = "") -> list[str]:
    """Return the paths of the groups with coordinates; links to other files are followed."""
    if COORDS in group:
        return [key or "/"]
    found = []
    for name in group:
        child = group[name]
        if hasattr(child, "keys"):
            found += _molecules(child, f"{key}/{name}")
    return found


def _molecule(path: Path, group: Any, key: str, name: str) -> RawMolecule:
    where = f"{path}, group {key}"
    if EMBEDS not in group.attrs:
        raise DataError(f"{where} has no attribute {EMBEDS} with the numbers of the bead types")
    n = int(group[COORDS].shape[0])
    if int(group.attrs.get(N_FRAMES, n)) != n:
        raise DataError(f"{where} has {n} frames; its attribute {N_FRAMES} is {group.attrs[N_FRAMES]}")
    record, labels = {}, {}
    if RECORD in group:
        record = json.loads(group[RECORD].asstr()[()])
        labels = {label: group[label][()] for label in LABELS}
    force_map = group[_FORCE_MAP][()].tobytes() if _FORCE_MAP in group else None
    known = {COORDS, FORCES, DELTA, RECORD, _FORCE_MAP, *LABELS}
    parts = {role: H5Rows(path, f"{key}/{role}") for role in (COORDS, FORCES, DELTA) if role in group}
    trajectory = RawTrajectory(where, parts[COORDS], parts.get(FORCES), parts.get(DELTA))
    return RawMolecule(
        name=name,
        trajectories=[trajectory],
        embeds=read_embeds(group.attrs[EMBEDS], f"{where}: {EMBEDS}"),
        files=[path],
        record=record,
        labels=labels,
        force_map_file=force_map,
        left_out=sorted(set(group) - known),
    )


def write_molecule(
    metaset: Any,
    name: str,
    shape: tuple[int, int, int],
    embeds: NDArray[np.int64],
    fill: Callable[[Mapping[str, Any]], None],
    *,
    record: Mapping[str, Any],
    labels: Mapping[str, NDArray[Any]],
    force_map: bytes | None = None,
    delta: bool = False,
) -> None:
    """Write one molecule to an open group of an HDF5 file.

    Parameters
    ----------
    metaset
        Open group.
    shape
        Of coordinates and forces, which are float32.
    fill
        Called with the datasets by name, ``cg_coords``, ``cg_forces`` and, with ``delta``,
        ``cg_delta_forces``; it writes them.
    record, labels, force_map
        See :class:`~cgal_plugin.data.raw_data.RawMolecule`.
    """
    group = metaset.create_group(name)
    keys = (COORDS, FORCES, DELTA) if delta else (COORDS, FORCES)
    fill({key: group.create_dataset(key, shape=shape, dtype=np.float32) for key in keys})
    group.attrs[EMBEDS] = embeds
    group.attrs[N_FRAMES] = shape[0]
    # an attribute holds at most 64 kB
    group.create_dataset(RECORD, data=json.dumps(record, sort_keys=True))
    for key, values in labels.items():
        group.create_dataset(key, data=values)
    if force_map is not None:
        group.create_dataset(_FORCE_MAP, data=np.frombuffer(force_map, dtype=np.uint8))
