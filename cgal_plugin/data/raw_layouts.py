"""Find the layout of CG data of other programs, and read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cgal_plugin.data.hdf5_layout import has_hdf5_layout, read_hdf5_layout
from cgal_plugin.data.npy_layout import has_npy_layout, read_npy_layout
from cgal_plugin.data.npz_layout import read_npz_layout
from cgal_plugin.data.raw_data import RawMolecule, check_names
from cgal_plugin.errors import DataError

#: ``npy``: torchmd-cg; they are read alike
LAYOUTS = ("npy", "mlcg-tk", "hdf5", "npz")
#: an all-atom trajectory
TRAJECTORY = "trajectory"
_HDF5 = (".h5", ".hdf5", ".hdf")


def layout_of(path: Path) -> str:
    """Return the layout of a file or folder, one of :data:`LAYOUTS` or :data:`TRAJECTORY`.

    Raises
    ------
    DataError
        It does not exist, or is a folder without such data.
    """
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist")
    if path.is_dir():
        if (path / "store.json").is_file():
            raise DataError(f"{str(path)!r} is a data store already; it can be used as it is")
        if not has_npy_layout(path):
            raise DataError(
                f"folder {str(path)!r} has no CG data: expected NAME_coords.npy (or NAME_cg_coords.npy, "
                "NAME/raw/coordinates.npy); give .h5, .npz and trajectory files by name"
            )
        return "npy"
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        return "hdf5" if has_hdf5_layout(path) else TRAJECTORY
    return {".npy": "npy", ".npz": "npz"}.get(suffix, TRAJECTORY)


def read_raw(paths: Sequence[Path], layout: str | None = None) -> list[RawMolecule]:
    """Read the molecules of files and folders.

    Parameters
    ----------
    paths
        Files and folders, of one layout or of several.
    layout
        One of :data:`LAYOUTS`; None: from the files.

    Raises
    ------
    DataError
        A file is missing or damaged, has another layout, or two molecules have one name.
    """
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"format {layout!r} is not known; use one of {', '.join(LAYOUTS)}")
    kinds = {path: layout or layout_of(path) for path in paths}
    molecules: list[RawMolecule] = []
    arrays = [path for path, kind in kinds.items() if kind in ("npy", "mlcg-tk")]
    if arrays:
        molecules += read_npy_layout(arrays)
    for path, kind in kinds.items():
        if kind == "npz":
            molecules.append(read_npz_layout(path))
        elif kind == "hdf5":
            molecules += read_hdf5_layout(path)
        elif kind == TRAJECTORY:
            raise DataError(f"{path} is no CG data: give all-atom trajectories without CG data")
    check_names(molecules, ", ".join(map(str, paths)))
    return molecules
