"""HDF5 trajectories of mdtraj, read with h5py.

mdtraj reads them through PyTables, which unpickles attributes and objects of the file: a file could run any
code. h5py does not unpickle. Only the datasets and units named here are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

#: extensions of these files
HDF5_SUFFIXES = (".h5", ".hdf5")
#: extension of MSMBuilder 2, and what to do with such a file
LH5_SUFFIX = ".lh5"
NO_LH5 = (
    "LH5 is not read, because its reader runs code from the file. If you trust its origin, convert it: "
    "pip install tables; mdconvert FILE.lh5 -o FILE.h5"
)
_UNITS = {
    "length": {"nanometer": 1.0, "nm": 1.0, "angstrom": 0.1, "picometer": 1e-3},
    "time": {"picosecond": 1.0, "ps": 1.0, "femtosecond": 1e-3, "fs": 1e-3, "nanosecond": 1e3, "ns": 1e3},
    "angle": {"degree": 1.0, "radian": 180.0 / math.pi},
}
#: dataset → shape after the frames (None: the number of atoms) and quantity
_DATASETS: dict[str, tuple[tuple[int | None, ...], str]] = {
    "coordinates": ((None, 3), "length"),
    "time": ((), "time"),
    "cell_lengths": ((3,), "length"),
    "cell_angles": ((3,), "angle"),
}
_TOPOLOGY = "topology"


class HDF5Trajectory:
    """A file of mdtraj's ``Trajectory.save_hdf5``, open for reading.

    Attributes
    ----------
    n_frames, n_atoms
        Size of its coordinates.
    topology
        ``mdtraj.Topology``.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        shape = _dataset(handle, "coordinates").shape
        if len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"coordinates has shape {shape}; expected (n_frames, n_atoms, 3)")
        self.n_frames, self.n_atoms = int(shape[0]), int(shape[1])
        self._present = [name for name in _DATASETS if name in handle]
        for name in self._present:
            _check(_dataset(handle, name), name, self.n_frames, self.n_atoms)
        self.topology = _topology(handle)
        if self.topology.n_atoms != self.n_atoms:
            raise ValueError(f"topology has {self.topology.n_atoms} atoms, coordinates {self.n_atoms}")

    def read(self, begin: int = 0, end: int | None = None) -> mdtraj.Trajectory:
        """Return frames ``begin`` to ``end`` (exclusive; default: all)."""
        import mdtraj

        end = self.n_frames if end is None else min(end, self.n_frames)
        found: dict[str, NDArray[Any]] = {}
        for name in self._present:
            data = _dataset(self._handle, name)
            factor = _factor(data, name)
            values = data[begin:end]
            found[name] = values if factor == 1.0 else values * factor
        return mdtraj.Trajectory(
            found["coordinates"],
            self.topology,
            time=found.get("time"),
            unitcell_lengths=found.get("cell_lengths"),
            unitcell_angles=found.get("cell_angles"),
        )


@contextmanager
def open_hdf5(path: Path) -> Iterator[HDF5Trajectory]:
    """Open an HDF5 trajectory.

    Raises
    ------
    ImportError
        h5py is not installed.
    OSError, ValueError, KeyError, ...
        The file is damaged or has another layout.
    """
    import h5py

    with h5py.File(path, "r") as handle:
        yield HDF5Trajectory(handle)


def _dataset(handle: Any, name: str) -> Any:
    """Return a dataset that lies in this file itself; links and raw data in other files are refused."""
    import h5py

    if name not in handle:
        raise ValueError(f"it has no dataset {name!r}, so it is not an HDF5 trajectory of mdtraj")
    link = handle.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link ({type(link).__name__}); its data must be in the file itself")
    found = handle[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is a group; expected a dataset")
    if found.external or found.is_virtual:
        raise ValueError(f"the data of {name} are in another file; they must be in the file itself")
    return found


def _check(data: Any, name: str, n_frames: int, n_atoms: int) -> None:
    rest = tuple(n_atoms if n is None else n for n in _DATASETS[name][0])
    if data.shape != (n_frames, *rest):
        raise ValueError(f"{name} has shape {data.shape}; expected {(n_frames, *rest)}")
    if data.dtype.kind not in "fiu":
        raise ValueError(f"{name} has type {data.dtype}; expected real numbers")
    _factor(data, name)


def _factor(data: Any, name: str) -> float:
    """Return what the values are multiplied with to have nm, ps or degrees."""
    known = _UNITS[_DATASETS[name][1]]
    unit = data.attrs.get("units")
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    found = known.get(text) or known.get(text.removesuffix("s"))
    if found is None:
        raise ValueError(f"{name} has units {text[:40]!r}; expected one of {', '.join(known)}")
    return found


def _topology(handle: Any) -> mdtraj.Topology:
    data = _dataset(handle, _TOPOLOGY)
    if data.size != 1 or data.dtype.kind not in "SO":
        raise ValueError(f"topology has shape {data.shape} and type {data.dtype}; expected one text")
    raw = np.asarray(data[()]).ravel()[0]
    content = json.loads(raw.decode() if isinstance(raw, bytes) else str(raw))
    return _made_topology(content)


def _made_topology(content: dict[str, Any]) -> mdtraj.Topology:
    import mdtraj
    from mdtraj.core.topology import float_to_bond_type

    made = mdtraj.Topology()
    for chain in _by_index(content["chains"]):
        new_chain = made.add_chain(chain.get("chain_id"))
        for residue in _by_index(chain["residues"]):
            new_residue = made.add_residue(
                str(residue["name"]), new_chain, residue.get("resSeq"), str(residue.get("segmentID", ""))
            )
            for atom in _by_index(residue["atoms"]):
                charge = atom.get("formal_charge")
                made.add_atom(
                    str(atom["name"]), _element(atom.get("element")), new_residue, formal_charge=charge
                )
    atoms = list(made.atoms)
    orders = content.get("bond_metadata") or [{}] * len(content["bonds"])
    for (first, second), more in zip(content["bonds"], orders, strict=True):
        if not 0 <= min(first, second) <= max(first, second) < len(atoms):
            raise ValueError(f"topology has a bond of atoms {first} and {second}; there are {len(atoms)}")
        order = more.get("order")
        kind = None if order is None else float_to_bond_type(float(order))
        made.add_bond(atoms[first], atoms[second], type=kind, order=order)
    return made


def _by_index(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: int(item["index"]))


def _element(symbol: Any) -> Any:
    from mdtraj.core import element

    try:
        return element.get_by_symbol(str(symbol))
    except KeyError:
        return element.virtual
