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


class CGDataset(Dataset):
    """Frames of one molecule with forces, held in memory.

    Items have ``z`` ``(n_beads,)`` bead types, ``pos`` ``(n_beads, 3)`` Å, ``neg_dy`` ``(n_beads, 3)``
    kcal/mol/Å and the tables ``bond_index`` ``(2, n)``, ``angle_index`` ``(3, n)``,
    ``dihedral_index`` ``(4, n)``, which PyG offsets when it batches. There is no energy: train with
    ``y_weight: 0`` and ``derivative: true``.

    The first ``n_frames`` items are the frames; copies made by ``repeat`` follow, so that a split
    made by :func:`block_splits` can keep all copies of a frame on one side.

    Parameters
    ----------
    root
        A :class:`~cgal_plugin.data.DataStore` directory; with ``coords``, the folder that relative
        paths start from.
    coords, forces
        Plain files instead of a store: glob patterns (or lists of them) of ``.npy`` files
        ``(n_frames, n_beads, 3)``, paired in sorted order.
    topology, mapping
        Of the plain files: a structure file (with the mapping) or a saved ``CGTopology`` (``.json``).
    temperature
        K, of the plain files; priors fitted from this data set need it. A store has its own, and
        another value given here is refused.
    length_unit, force_unit
        Of the plain files: ``angstrom`` or ``nm``; ``kcal/mol/angstrom`` or ``kJ/mol/nm``.
    shards, sources
        Use only these shards, or shards from these sources, of a store.
    repeat
        Source (or file name) → how often each of its frames is seen in an epoch, at least 1. With
        2.5, every frame twice and every other one a third time. Use it to weigh newer data. ``"error"``:
        what the errors in a store say, so that averaged forces count for more than those of one frame
        (:func:`~cgal_plugin.data.error_weights.source_weights`).
    prebatch
        Give PyG's loader whole batches (default). The batches have the same tensors as PyG's own,
        without ``ptr``, and count as one graph in ``num_graphs``; making them is 10 times faster.

    Raises
    ------
    DataError
        Files or shards are missing, shapes do not agree, values are not finite, ...
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        coords: str | Sequence[str] | None = None,
        forces: str | Sequence[str] | None = None,
        topology: str | os.PathLike[str] | CGTopology | None = None,
        mapping: Any = "CA",
        temperature: float | None = None,
        length_unit: str = "angstrom",
        force_unit: str = "kcal/mol/angstrom",
        shards: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        repeat: Mapping[str, float] | Literal["error"] | None = None,
        prebatch: bool = True,
    ) -> None:
        super().__init__()
        root = Path(root).expanduser()
        if coords is None and forces is None:
            if topology is not None:
                raise DataError("topology goes with coords and forces; a data store has its own")
            table = read_store(root, shards, sources)
            if temperature is not None and abs(temperature - table.temperature) > 1e-6:
                raise DataError(f"store {root} holds labels at {table.temperature} K, not {temperature} K")
        elif coords is None or forces is None:
            raise DataError(
                f"{'coords' if coords is None else 'forces'} missing: give coords and forces both"
            )
        elif shards is not None or sources is not None:
            raise DataError(
                "shards and sources choose from a data store; with coords and forces give the files"
            )
        else:
            table = read_files(
                root, coords, forces, topology,
                mapping=mapping, temperature=temperature, length_unit=length_unit, force_unit=force_unit,
            )  # fmt: skip
        self.table = table
        self.topology = table.topology
        self.temperature = table.temperature
        self.items = _repeated(table, repeat)
        self.prebatch = prebatch
        self._z = torch.tensor(table.topology.types)
        self._pos = torch.from_numpy(np.ascontiguousarray(table.positions))
        self._forces = torch.from_numpy(np.ascontiguousarray(table.forces))
        self._tables = {
            name: torch.tensor(np.asarray(getattr(table.topology, name)).T.copy())
            for name in ("bond_index", "angle_index", "dihedral_index")
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
        """SHA-256 that changes with any frame."""
        return self.table.fingerprint

    def len(self) -> int:
        """Number of items, copies included."""
        return len(self.items)

    def get(self, idx: int) -> Data:
        """One item."""
        frame = int(self.items[idx])
        tables = {name: table.clone() for name, table in self._tables.items()}
        return Data(
            z=self._z.clone(), pos=self._pos[frame].clone(), neg_dy=self._forces[frame].clone(), **tables
        )

    def __getitems__(self, indices: Iterable[int]) -> list[Data]:
        """Items for one batch: a list of them, or with ``prebatch`` a list of one whole batch."""
        chosen = np.fromiter((int(i) for i in indices), dtype=np.int64)
        if not self.prebatch:
            return [self.get(int(i)) for i in chosen]
        frame = torch.from_numpy(self.items[chosen])
        n, size = len(chosen), self.topology.n_beads
        first = torch.arange(n) * size
        tables = {
            name: (table.unsqueeze(1) + first.view(1, n, 1)).reshape(table.shape[0], -1)
            for name, table in self._tables.items()
        }
        return [
            Batch(
                batch=torch.arange(n).repeat_interleave(size),
                z=self._z.repeat(n),
                pos=self._pos[frame].reshape(-1, 3),
                neg_dy=self._forces[frame].reshape(-1, 3),
                **tables,
            )
        ]

    def __repr__(self) -> str:
        return f"CGDataset({self.topology.sequence!r}, {self.n_frames} frames, {len(self)} items)"


def _repeated(table: FrameTable, repeat: Mapping[str, float] | str | None) -> NDArray[np.int64]:
    """Frame of each item: every frame once, then the copies."""
    source, names = table.source, table.sources
    if isinstance(repeat, str):
        if repeat != "error":
            raise DataError(f"repeat: {repeat!r} is not known; give a number for each source, or 'error'")
        repeat = table.weights
    items = [np.arange(len(source))]
    for name, times in (repeat or {}).items():
        if name not in names:
            raise DataError(f"repeat: there are no frames from {name!r}; there are {', '.join(names)}")
        if isinstance(times, bool) or not isinstance(times, int | float) or not 1 <= times < np.inf:
            raise DataError(f"repeat: {name!r} has {times!r}; it must be a number of at least 1")
        own = np.flatnonzero(source == names.index(name))
        whole = int(times)
        items += [own] * (whole - 1)
        further = round((times - whole) * len(own))
        items.append(own[np.arange(further) * len(own) // max(further, 1)])
    return np.concatenate(items).astype(np.int64)


def block_splits(
    dataset: CGDataset,
    path: str | os.PathLike[str],
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Path:
    """Split by correlated blocks, and write it as the ``.npz`` that TorchMD-Net's key ``splits`` takes.

    Neighbouring frames of one trajectory are nearly the same, so a random split of frames tests on
    what was trained on. Here whole blocks go to one side; a block longer than half of the smallest
    share is first cut into consecutive pieces. Copies made by ``repeat`` go with their frame, and
    only the first of them into validation and test.

    Parameters
    ----------
    dataset
        The data set that the split is for, with the same options.
    path
        File to write.
    val_fraction, test_fraction
        Shares of the frames, each 0 to below 1, together below 1.
    seed
        Of the draw.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    DataError
        The fractions are not allowed, or there are too few frames to fill every side.
    """
    from cgal_plugin.provenance import atomic_write

    shares = {"val": val_fraction, "test": test_fraction}
    if not all(0 <= s < 1 for s in shares.values()) or sum(shares.values()) >= 1:
        raise DataError(f"splits of {val_fraction} and {test_fraction}: needed are 0 <= each, sum < 1")
    n = dataset.n_frames
    pieces = _pieces(
        dataset.table.block, max(1, int(n * min((s for s in shares.values() if s), default=1) / 2))
    )
    order = np.random.default_rng(seed).permutation(len(pieces))
    side = np.zeros(n, dtype=np.int64)
    position = 0
    for number, share in enumerate(shares.values(), start=1):
        filled = 0
        while filled < share * n and position < len(order):
            chosen = pieces[order[position]]
            # a piece that would overshoot the share by more than it is short of it stays out
            if filled and filled + len(chosen) - share * n > share * n - filled:
                break
            side[chosen] = number
            filled += len(chosen)
            position += 1
    counts = np.bincount(side, minlength=3)
    if counts[0] == 0 or any(s > 0 and counts[k] == 0 for k, s in enumerate(shares.values(), start=1)):
        raise DataError(
            f"{n} frames in {len(pieces)} blocks are too few for validation {val_fraction} "
            f"and test {test_fraction}"
        )
    of_item = side[dataset.items]
    first = np.arange(len(dataset.items)) < n
    with atomic_write(path) as handle:
        np.savez(
            handle,
            idx_train=np.flatnonzero(of_item == 0),
            idx_val=np.flatnonzero((of_item == 1) & first),
            idx_test=np.flatnonzero((of_item == 2) & first),
        )
    return Path(path)


def _pieces(block: NDArray[np.int64], longest: int) -> list[NDArray[np.int64]]:
    """Frames of each block, blocks longer than ``longest`` cut into consecutive pieces."""
    order = np.argsort(block, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
    return [piece for group in groups for piece in np.array_split(group, -(-len(group) // longest))]
