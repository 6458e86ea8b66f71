"""Labelled frames as a TorchMD-Net data set (``dataset: CGDataset`` in its YAML)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch_geometric.data import Data, Dataset

from cgal_plugin.data.flat import FlatFrames
from cgal_plugin.data.several import Root, read_stores, store_paths
from cgal_plugin.data.sources import read_files
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import hash_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.sources import FrameTable


class CGDataset(Dataset):  # type: ignore[misc]  # torch_geometric has no types
    """Frames of one or more molecules with forces: of one store in memory, of several in a file on disk.

    Items have ``z`` ``(n_beads,)`` bead types, ``pos`` ``(n_beads, 3)`` Å, ``neg_dy`` ``(n_beads, 3)``
    kcal/mol/Å and the tables ``bond_index`` ``(2, n)``, ``angle_index`` ``(3, n)``,
    ``dihedral_index`` ``(4, n)``, ``bridge_index`` ``(2, n)``; PyG adds offsets to them in batches.
    There is no energy: train with ``y_weight: 0`` and ``derivative: true``.

    The first ``n_frames`` items are the frames; the copies made by ``repeat`` follow. A split made by
    :func:`block_splits` keeps all copies of a frame on one side.

    Parameters
    ----------
    root
        A :class:`~cgal_plugin.data.DataStore` directory, or a list of them. They may be of different
        molecules, which are then mixed in a batch. Temperatures and embeddings must be equal, and for stores
        of one molecule the force maps. With ``coords`` or ``stores``, the folder of relative paths.
    stores
        A list of stores, in place of a list as ``root``.
    coords, forces
        Plain files instead of a store: glob patterns (or lists of them) of ``.npy`` files
        ``(n_frames, n_beads, 3)``, or ``.npz`` files with arrays ``coords`` and ``forces``. They are paired
        by name and number (``coords_001.npy`` with ``forces_1.npy``); what is doubtful is refused.
    topology, mapping
        For plain files: a structure file (with the mapping) or a saved ``CGTopology`` (``.json``).
    embedding
        For plain files: the embedding that numbers the bead types (default: that of the topology, ``cgal``
        for a structure file).
    temperature
        K, for plain files; needed to fit priors. A store has its own temperature; another value is an
        error.
    length_unit, force_unit
        For plain files: ``angstrom`` (default) or ``nm``; one of :data:`~cgal_plugin.units.FORCE_UNITS`
        (default: ``kcal/mol/angstrom``, but it must be given with ``nm``).
    shards, sources
        Use only these shards of a store, or only shards from these sources. With several stores, ``shards``
        is one list per store.
    repeat
        Source (or file name) → number of times that each of its frames is used per epoch, at least 1. With
        several stores, ``seed`` means the source of this name in each of them, ``chignolin/seed`` that of one
        store. With
        2.5, each frame is used twice and every second frame a third time. ``"error"``: from the force
        errors in the store, so that averaged forces count more than those of single frames
        (:func:`~cgal_plugin.data.error_weights.source_weights`).
    prebatch
        Pass whole batches to the loader (default), which is 10 times faster. They have the same tensors as
        PyG's own batches, without ``ptr``. See
        :func:`~cgal_plugin.data.loader.batch_loader`.
    table
        Frames in memory (:func:`~cgal_plugin.data.sources.read_store`), used instead of ``root``; the options
        that select and read frames have no effect.

    Raises
    ------
    DataError
        Files or shards are missing, shapes differ, or values are not finite.
    """

    def __init__(
        self,
        root: Root,
        *,
        stores: Sequence[str | os.PathLike[str]] | None = None,
        coords: str | Sequence[str] | None = None,
        forces: str | Sequence[str] | None = None,
        topology: str | os.PathLike[str] | CGTopology | None = None,
        mapping: Any = "CA",
        embedding: Any = None,
        temperature: float | None = None,
        length_unit: str = "angstrom",
        force_unit: str | None = None,
        shards: Sequence[str] | Sequence[Sequence[str]] | None = None,
        sources: Sequence[str] | None = None,
        repeat: Mapping[str, float] | Literal["error"] | None = None,
        prebatch: bool = True,
        table: FrameTable | None = None,
    ) -> None:
        super().__init__()
        tables: Iterable[FrameTable]
        folder: Path | None = None
        if table is not None:
            tables = (table,)
        elif coords is None and forces is None:
            if topology is not None:
                raise DataError("topology is for coords and forces; a data store has its own")
            paths = store_paths(root, stores)
            tables, folder = read_stores(paths, shards, sources), paths[0]
        elif coords is None or forces is None:
            raise DataError(
                f"{'coords' if coords is None else 'forces'} missing: give coords and forces both"
            )
        elif shards is not None or sources is not None or stores is not None:
            raise DataError(
                "shards and sources select from a data store, and stores lists several; with coords and "
                "forces give the files"
            )
        elif not isinstance(root, str | os.PathLike):
            raise DataError("coords and forces are for one molecule: give one folder as the root")
        else:
            read = read_files(
                Path(root).expanduser(), coords, forces, topology,
                mapping=mapping, embedding=embedding, temperature=temperature,
                length_unit=length_unit, force_unit=force_unit,
            )  # fmt: skip
            tables = (read,)
        self._flat = FlatFrames(tables, folder)
        self.tables = self._flat.tables
        self.topologies = self._flat.topologies
        self.temperature = self.tables[0].temperature
        stored = self.temperature
        given = temperature if table is None else None
        if given is not None and stored is not None and abs(given - stored) > 1e-6:
            raise DataError(f"store {root} has labels at {stored} K, not {given} K")
        self.items = _repeated(self.tables, repeat)
        self.prebatch = prebatch

    @property
    def topology(self) -> CGTopology | None:
        """CG topology of the frames; None if they are of different molecules (``topologies``)."""
        return self.topologies[0] if len(self.topologies) == 1 else None

    @property
    def embedding(self) -> str:
        """Name of the embedding that numbers the bead types of all molecules."""
        return self.topologies[0].embedding

    @property
    def molecule(self) -> NDArray[np.int64]:
        """``(n_frames,)``: the molecule of each frame, an index into ``topologies``."""
        return self._flat.molecule

    @property
    def block(self) -> NDArray[np.int64]:
        """``(n_frames,)``: number of the correlated block of each frame."""
        sizes = [int(t.block.max(initial=-1)) + 1 for t in self.tables]
        first = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([lo + t.block for lo, t in zip(first, self.tables, strict=True)])

    @property
    def weights(self) -> dict[str, float]:
        """Source → weight of its frames relative to the noisiest source of the same store."""
        return {source: weight for table in self.tables for source, weight in table.weights.items()}

    @property
    def frames(self) -> NDArray[np.floating]:
        """``(n_frames, n_beads, 3)`` Å, each frame once. Those of different molecules are in ``tables``."""
        return self._of_one_molecule(self._flat.positions)

    @property
    def forces(self) -> NDArray[np.floating]:
        """``(n_frames, n_beads, 3)`` kcal/mol/Å, each frame once; see :attr:`frames`."""
        return self._of_one_molecule(self._flat.forces)

    def _of_one_molecule(self, beads: NDArray[np.floating]) -> NDArray[np.floating]:
        if self.topology is None:
            raise DataError(
                f"the data set has {len(self.topologies)} molecules of different shapes: use dataset.tables"
            )
        return beads.reshape(-1, self.topology.n_beads, 3)

    @property
    def n_frames(self) -> int:
        """Number of different frames."""
        return len(self.molecule)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the frames."""
        found = [table.fingerprint for table in self.tables]
        return found[0] if len(found) == 1 else hash_object(found)

    def len(self) -> int:
        """Return the number of items, copies included."""
        return len(self.items)

    def get(self, idx: int) -> Data:
        """Return one item."""
        return self._flat.item(int(self.items[idx]))

    def __getitems__(self, indices: Iterable[int]) -> list[Data]:
        """Return the items of one batch: a list of them, or with ``prebatch`` a list of one whole batch."""
        if isinstance(indices, np.ndarray):
            chosen = indices
        else:
            chosen = np.fromiter((int(i) for i in indices), dtype=np.int64)
        if not self.prebatch:
            return [self.get(int(i)) for i in chosen]
        return [self._flat.batch(torch.from_numpy(self.items[chosen]))]

    def frames_as_batch(self, frames: torch.Tensor) -> Data:
        """Return frames ``(n,)`` (not items) as one batch."""
        return self._flat.batch(frames)

    def keep_prior_forces(self, parts: Iterable[torch.Tensor]) -> None:
        """Keep forces of priors on all beads, in parts ``(n, 3)`` kcal/mol/Å: ``prior_forces`` of batches."""
        self._flat.keep_prior_forces(parts)

    def __repr__(self) -> str:
        sequences = ", ".join(repr(t.sequence) for t in self.topologies)
        return f"CGDataset({sequences}, {self.n_frames} frames, {len(self)} items)"


def _repeated(tables: Sequence[FrameTable], repeat: Mapping[str, float] | str | None) -> NDArray[np.int64]:
    """Return the frame of each item: every frame once, then the copies."""
    if isinstance(repeat, str):
        if repeat != "error":
            raise DataError(f"repeat: {repeat!r} is not known; give a number for each source, or 'error'")
        repeat = {source: weight for table in tables for source, weight in table.weights.items()}
    counts = [len(table.source) for table in tables]
    first = np.cumsum([0, *counts[:-1]])
    items = [np.arange(sum(counts))]
    for name, times in (repeat or {}).items():
        # of several stores, "seed" means "a/seed" and "b/seed"
        own = [
            lo + np.flatnonzero(table.source == number)
            for lo, table in zip(first, tables, strict=True)
            for number, source in enumerate(table.sources)
            if source == name or (len(tables) > 1 and source.rpartition("/")[2] == name)
        ]
        if not own:
            known = ", ".join(source for table in tables for source in table.sources)
            raise DataError(f"repeat: there are no frames from {name!r}; sources are {known}")
        if isinstance(times, bool) or not isinstance(times, int | float) or not 1 <= times < np.inf:
            raise DataError(f"repeat: {name!r} has {times!r}; it must be a number of at least 1")
        whole = int(times)
        for frames in own:
            items += [frames] * (whole - 1)
            further = round((times - whole) * len(frames))
            items.append(frames[np.arange(further) * len(frames) // max(further, 1)])
    return np.concatenate(items).astype(np.int64)
