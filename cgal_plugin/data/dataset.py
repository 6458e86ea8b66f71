"""Labelled frames as a TorchMD-Net data set (``dataset: CGDataset`` in its YAML)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch_geometric.data import Batch, Data, Dataset

from cgal_plugin.data.sources import read_files, read_store
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.topology import CGTopology

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.sources import FrameTable


class CGDataset(Dataset):  # type: ignore[misc]  # torch_geometric has no types
    """Frames of one molecule with forces, in memory.

    Items have ``z`` ``(n_beads,)`` bead types, ``pos`` ``(n_beads, 3)`` Å, ``neg_dy`` ``(n_beads, 3)``
    kcal/mol/Å and the tables ``bond_index`` ``(2, n)``, ``angle_index`` ``(3, n)``,
    ``dihedral_index`` ``(4, n)``, ``bridge_index`` ``(2, n)``; PyG adds offsets to them in batches.
    There is no energy: train with ``y_weight: 0`` and ``derivative: true``.

    The first ``n_frames`` items are the frames; the copies made by ``repeat`` follow. A split made by
    :func:`block_splits` keeps all copies of a frame on one side.

    Parameters
    ----------
    root
        A :class:`~cgal_plugin.data.DataStore` directory; with ``coords``, the folder of relative paths.
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
        For plain files: ``angstrom`` (default) or ``nm``; ``kcal/mol/angstrom`` (default, but it must be
        given with ``nm``) or ``kJ/mol/nm``.
    shards, sources
        Use only these shards of a store, or only shards from these sources.
    repeat
        Source (or file name) → number of times that each of its frames is used per epoch, at least 1. With
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
        root: str | os.PathLike[str],
        *,
        coords: str | Sequence[str] | None = None,
        forces: str | Sequence[str] | None = None,
        topology: str | os.PathLike[str] | CGTopology | None = None,
        mapping: Any = "CA",
        embedding: Any = None,
        temperature: float | None = None,
        length_unit: str = "angstrom",
        force_unit: str | None = None,
        shards: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        repeat: Mapping[str, float] | Literal["error"] | None = None,
        prebatch: bool = True,
        table: FrameTable | None = None,
    ) -> None:
        super().__init__()
        root = Path(root).expanduser()
        if table is not None:
            pass
        elif coords is None and forces is None:
            if topology is not None:
                raise DataError("topology is for coords and forces; a data store has its own")
            table = read_store(root, shards, sources)
            stored = table.temperature
            if temperature is not None and stored is not None and abs(temperature - stored) > 1e-6:
                raise DataError(f"store {root} has labels at {stored} K, not {temperature} K")
        elif coords is None or forces is None:
            raise DataError(
                f"{'coords' if coords is None else 'forces'} missing: give coords and forces both"
            )
        elif shards is not None or sources is not None:
            raise DataError(
                "shards and sources select from a data store; with coords and forces give the files"
            )
        else:
            table = read_files(
                root, coords, forces, topology,
                mapping=mapping, embedding=embedding, temperature=temperature,
                length_unit=length_unit, force_unit=force_unit,
            )  # fmt: skip
        self.table = table
        self.topology = table.topology
        self.temperature = table.temperature
        self.items = _repeated(table, repeat)
        self.prebatch = prebatch
        self._z = torch.tensor(table.topology.types)
        self._pos = torch.from_numpy(np.ascontiguousarray(table.positions))
        self._forces = torch.from_numpy(np.ascontiguousarray(table.forces))
        self._layout: dict[str, torch.Tensor] = {}
        self._tables = {
            name: torch.tensor(np.asarray(getattr(table.topology, name)).T.copy())
            for name in ("bond_index", "angle_index", "dihedral_index", "bridge_index")
        }

    @property
    def frames(self) -> NDArray[np.floating]:
        """``(n_frames, n_beads, 3)`` Å, each frame once."""
        return self.table.positions

    @property
    def forces(self) -> NDArray[np.floating]:
        """``(n_frames, n_beads, 3)`` kcal/mol/Å, each frame once."""
        return self.table.forces

    @property
    def n_frames(self) -> int:
        """Number of different frames."""
        return len(self.table.positions)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the frames."""
        return self.table.fingerprint

    def len(self) -> int:
        """Return the number of items, copies included."""
        return len(self.items)

    def get(self, idx: int) -> Data:
        """Return one item."""
        frame = int(self.items[idx])
        tables = {name: table.clone() for name, table in self._tables.items()}
        return Data(
            z=self._z.clone(), pos=self._pos[frame].clone(), neg_dy=self._forces[frame].clone(), **tables
        )

    def __getitems__(self, indices: Iterable[int]) -> list[Data]:
        """Return the items of one batch: a list of them, or with ``prebatch`` a list of one whole batch."""
        if isinstance(indices, np.ndarray):
            chosen = indices
        else:
            chosen = np.fromiter((int(i) for i in indices), dtype=np.int64)
        if not self.prebatch:
            return [self.get(int(i)) for i in chosen]
        frame = torch.from_numpy(self.items[chosen])
        return [
            Batch(
                pos=self._pos[frame].reshape(-1, 3),
                neg_dy=self._forces[frame].reshape(-1, 3),
                **{name: tensor.clone() for name, tensor in self._batch_layout(len(chosen)).items()},
            )
        ]

    def _batch_layout(self, n: int) -> dict[str, torch.Tensor]:
        """Return the tensors that all batches of ``n`` frames share; those of the last ``n`` are kept."""
        size = self.topology.n_beads
        if not self._layout or len(self._layout["z"]) != n * size:
            first = (torch.arange(n) * size).view(1, n, 1)
            self._layout = {
                "batch": torch.arange(n).repeat_interleave(size),
                "z": self._z.repeat(n),
                **{k: (t.unsqueeze(1) + first).flatten(1) for k, t in self._tables.items()},
            }
        return self._layout

    def __repr__(self) -> str:
        return f"CGDataset({self.topology.sequence!r}, {self.n_frames} frames, {len(self)} items)"


def _repeated(table: FrameTable, repeat: Mapping[str, float] | str | None) -> NDArray[np.int64]:
    """Return the frame of each item: every frame once, then the copies."""
    source, names = table.source, table.sources
    if isinstance(repeat, str):
        if repeat != "error":
            raise DataError(f"repeat: {repeat!r} is not known; give a number for each source, or 'error'")
        repeat = table.weights
    items = [np.arange(len(source))]
    for name, times in (repeat or {}).items():
        if name not in names:
            raise DataError(f"repeat: there are no frames from {name!r}; sources are {', '.join(names)}")
        if isinstance(times, bool) or not isinstance(times, int | float) or not 1 <= times < np.inf:
            raise DataError(f"repeat: {name!r} has {times!r}; it must be a number of at least 1")
        own = np.flatnonzero(source == names.index(name))
        whole = int(times)
        items += [own] * (whole - 1)
        further = round((times - whole) * len(own))
        items.append(own[np.arange(further) * len(own) // max(further, 1)])
    return np.concatenate(items).astype(np.int64)
