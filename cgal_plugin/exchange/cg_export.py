"""Write data stores in the layouts of torchmd-cg and mlcg; ``import_data`` reads them back unchanged."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data import DataStore
from cgal_plugin.data.hdf5_layout import COORDS, DELTA, FORCES, h5py_module, write_molecule
from cgal_plugin.data.raw_data import LABELS
from cgal_plugin.data.several import store_names, store_paths
from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.exchange.cg_data import added_forces
from cgal_plugin.mapping.embedding import CGAL, resolve_embedding
from cgal_plugin.provenance import atomic_path, atomic_write, hash_file, versions, write_sealed
from cgal_plugin.runs.layout import FORCE_MAP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.mapping.embedding import Embedding
    from cgal_plugin.priors import PriorSet

EXPORT_LAYOUTS = ("npy", "hdf5")


@dataclass(frozen=True)
class _Export:
    """A store to be written under a name."""

    name: str
    store: DataStore
    topology: CGTopology
    priors: PriorSet | None
    shared: Embedding | None = None

    @property
    def types(self) -> NDArray[np.int64]:
        """Return the numbers of the bead types that are written."""
        if self.shared is None:
            return self.topology.types
        return np.array(self.shared.numbers(self.topology.type_names))

    @property
    def n_frames(self) -> int:
        return sum(int(self.store.record(name)["n_frames"]) for name in self.store.names())

    def record(self) -> dict[str, Any]:
        """Return what the arrays do not contain."""
        records = [self.store.record(name) for name in self.store.names()]
        keys = ("name", "source", "n_frames", "metadata", "quarantined", "facts")
        return {
            **({} if self.shared is None else {"embedding": self.shared.name}),
            "topology": self.topology.to_dict(),
            "temperature": self.store.temperature,
            "force_map_hash": self.store.force_map_hash,
            "units": {"positions": "angstrom", "forces": "kcal/mol/angstrom"},
            "shards": [{key: record[key] for key in keys} for record in records],
            "versions": versions(),
        }

    def labels(self) -> dict[str, NDArray[Any]]:
        """Return the arrays :data:`LABELS` of all frames."""
        parts: dict[str, list[NDArray[Any]]] = {key: [] for key in LABELS}
        for _, frames in self.store:
            for key, values in parts.items():
                values.append(np.array(getattr(frames, key)))
        return {key: np.concatenate(values) for key, values in parts.items()}

    def force_map(self) -> bytes | None:
        """Return the content of the file of the force map, if the store has one."""
        path = self.store.root / FORCE_MAP
        return path.read_bytes() if path.is_file() else None

    def fill(self, coords: Any, forces: Any, delta: Any) -> None:
        """Write the frames to arrays, shard by shard; ``delta`` may be None."""
        lo = 0
        for _, frames in self.store:
            rows = slice(lo, lo + len(frames))
            coords[rows], forces[rows] = frames.positions, frames.forces
            if self.priors is not None and delta is not None:
                delta[rows] = frames.forces - added_forces(self.priors, frames.positions)
            lo = rows.stop


def export_data(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    layout: str,
    *,
    embedding: Any = None,
    priors: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write data stores in a layout of other programs.

    Total forces are written, in kcal/mol/Å, and coordinates in Å. Temperature, topology, blocks and sources
    are written beside the arrays, so that :func:`~cgal_plugin.exchange.cg_data.import_data` gives equal
    stores.

    Parameters
    ----------
    stores
        Data stores; the names of the files are the shortest ends of their paths that differ.
    out
        ``npy``: folder of ``NAME_coords.npy``, ``NAME_forces.npy``, ``NAME_embeddings.npy``. ``hdf5``: file
        with groups ``/cgal/NAME``, as mlcg reads them.
    layout
        ``npy`` or ``hdf5``.
    embedding
        Embedding that numbers the bead types; default: that of each store.
    priors
        File of priors: delta forces (forces minus those of the priors) are written as well.

    Returns
    -------
    The written files.

    Raises
    ------
    ConfigError
        The layout is not known, h5py is missing, or the priors do not fit a store.
    DataError
        A store is damaged or empty, or a file exists.
    MappingError
        The embedding has no number for a bead type.
    """
    if layout not in EXPORT_LAYOUTS:
        raise ConfigError(f"format {layout!r} cannot be written; use one of {', '.join(EXPORT_LAYOUTS)}")
    paths = store_paths([Path(s) for s in stores])
    exports = []
    for path, name in zip(paths, store_names(paths), strict=True):
        store = DataStore(path)
        if not store.names():
            raise DataError(f"data store {path} has no frames yet")
        named = None if embedding is None else resolve_embedding(embedding)
        shared = named if named is not None and named.shares else None
        own = store.topology if named is None else store.topology.with_embedding(CGAL if shared else named)
        export = _Export(_plain(name), store, own, _priors(priors, store), shared)
        if shared is not None:
            shared.numbers(own.type_names)
        exports.append(export)
    root = Path(out)
    return _write_hdf5(exports, root) if layout == "hdf5" else _write_npy(exports, root)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)


def _priors(path: str | os.PathLike[str] | None, store: DataStore) -> PriorSet | None:
    if path is None:
        return None
    from cgal_plugin.priors import PriorSet

    # terms are evaluated with the numbers of the store
    return PriorSet.load(path).for_topology(store.topology, store.temperature, source=f"the priors in {path}")


def _refuse(path: Path) -> None:
    if path.exists():
        raise DataError(f"{path} already exists; choose another name for --out")


def _write_hdf5(exports: Sequence[_Export], path: Path) -> list[Path]:
    _refuse(path)
    h5py = h5py_module()

    def write(name: str) -> None:
        with h5py.File(name, "w") as file:
            metaset = file.create_group("cgal")
            for export in exports:

                def fill(arrays: Mapping[str, Any], export: _Export = export) -> None:
                    export.fill(arrays[COORDS], arrays[FORCES], arrays.get(DELTA))

                write_molecule(
                    metaset,
                    export.name,
                    (export.n_frames, export.topology.n_beads, 3),
                    export.types,
                    fill,
                    record=export.record(),
                    labels=export.labels(),
                    force_map=export.force_map(),
                    delta=export.priors is not None,
                )

    atomic_path(path, write)
    return [path]


def _write_npy(exports: Sequence[_Export], folder: Path) -> list[Path]:
    written: list[Path] = []
    for export in exports:
        _refuse(folder / f"{export.name}_coords.npy")
    folder.mkdir(parents=True, exist_ok=True)
    for export in exports:
        names = ["coords", "forces"] if export.priors is None else ["coords", "forces", "deltaforces"]
        paths = [folder / f"{export.name}_{name}.npy" for name in names]
        shape = (export.n_frames, export.topology.n_beads, 3)
        parts = [path.with_name(f".{path.name}.part") for path in paths]
        try:
            arrays = [
                np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape) for part in parts
            ]
            export.fill(*arrays, *[None] * (3 - len(arrays)))
            for array, part, path in zip(arrays, parts, paths, strict=True):
                array.flush()
                os.replace(part, path)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        embeds = folder / f"{export.name}_embeddings.npy"
        with atomic_write(embeds) as handle:
            np.save(handle, export.types)
        paths.append(embeds)
        labels = folder / f"{export.name}_labels.npz"
        arrays_of: dict[str, Any] = export.labels()
        with atomic_write(labels) as handle:
            np.savez(handle, **arrays_of)
        paths.append(labels)
        force_map = export.force_map()
        if force_map is not None:
            paths.append(folder / f"{export.name}_{FORCE_MAP}")
            with atomic_write(paths[-1]) as handle:
                handle.write(force_map)
        record = folder / f"{export.name}_cgal.json"
        # the last: without it, the arrays are those of another program
        write_sealed(record, {**export.record(), "files": {path.name: hash_file(path) for path in paths}})
        written += [*paths, record]
    return written
