"""Frames of molecules of different sizes in one tensor of beads, and batches of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from cgal_plugin.data.scratch import ScratchFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.sources import FrameTable
    from cgal_plugin.mapping.topology import CGTopology

    _Frames: TypeAlias = NDArray[np.floating]

_TABLES = ("bond_index", "angle_index", "dihedral_index", "bridge_index")


class FlatFrames:
    """All frames of a data set, one after the other, and the bead types and index tables of their molecules.

    Parameters
    ----------
    tables
        Frames of one molecule each. Those of several tables are copied to files, table by table.
    folder
        Folder of these files.

    Attributes
    ----------
    tables
        The tables; their arrays are views of the array of all frames.
    topologies
        The different molecules.
    molecule
        ``(n_frames,)`` int64, index into ``topologies``.
    positions, forces
        ``(n_beads of all frames, 3)`` Å and kcal/mol/Å.
    """

    def __init__(self, tables: Iterable[FrameTable], folder: Path | None = None) -> None:
        self.folder = folder
        self.tables, positions, forces = _joined(tables, folder)
        self.topologies: tuple[CGTopology, ...] = tuple(dict.fromkeys(t.topology for t in self.tables))
        number = {topology: i for i, topology in enumerate(self.topologies)}
        of_table = [number[t.topology] for t in self.tables]
        counts = [len(t.positions) for t in self.tables]
        self.molecule: NDArray[np.int64] = np.repeat(np.array(of_table, dtype=np.int64), counts)
        self.positions, self.forces = positions, forces
        self._pos = torch.from_numpy(np.ascontiguousarray(positions))
        self._neg_dy = torch.from_numpy(np.ascontiguousarray(forces))
        self._types = [torch.tensor(t.types) for t in self.topologies]
        self._index = {
            name: [torch.tensor(np.asarray(getattr(t, name)).T.copy()) for t in self.topologies]
            for name in _TABLES
        }
        size = torch.tensor([t.n_beads for t in self.topologies])
        self._size = size
        #: values of each bead that a batch has, kcal/mol/Å
        self.prior_forces: Tensor | None = None
        self._of_frame = torch.from_numpy(self.molecule)
        of_frame = size[self._of_frame]
        self._first = of_frame.cumsum(0) - of_frame
        self._layout: dict[str, Tensor] = {}
        # columns of all molecules, and the first of each
        self._columns = {name: torch.cat(parts, dim=1) for name, parts in self._index.items()}
        self._columns["z"] = torch.cat(self._types).unsqueeze(0)
        self._count = {name: torch.tensor([p.shape[1] for p in parts]) for name, parts in self._index.items()}
        self._count["z"] = size

    def keep_prior_forces(self, parts: Iterable[Tensor]) -> None:
        """Keep values of each bead ``(n, 3)``, in the order of the frames; on disk if the frames are."""
        if len(self.tables) == 1:
            self.prior_forces = torch.cat(list(parts))
            return
        file: ScratchFile | None = None
        for part in parts:
            values = part.detach().cpu().numpy()
            file = file or ScratchFile(self.folder, values.dtype)
            file.append(values)
        assert file is not None  # a data set has frames
        self.prior_forces = torch.from_numpy(file.array())

    def item(self, frame: int) -> Data:
        """Return one frame."""
        molecule = int(self.molecule[frame])
        first = int(self._first[frame])
        beads = slice(first, first + int(self._size[molecule]))
        tables = {name: parts[molecule].clone() for name, parts in self._index.items()}
        z = self._types[molecule].clone()
        return Data(z=z, pos=self._pos[beads].clone(), neg_dy=self._neg_dy[beads].clone(), **tables)

    def batch(self, frames: Tensor) -> Batch:
        """Return the frames ``(n,)`` as one batch, with the tensors of PyG's own batches, without ``ptr``."""
        if len(self.topologies) > 1:
            return self._mixed(frames)
        size = self.topologies[0].n_beads
        return Batch(
            pos=self._pos.view(-1, size, 3)[frames].reshape(-1, 3),
            neg_dy=self._neg_dy.view(-1, size, 3)[frames].reshape(-1, 3),
            **self._further(lambda values: values.view(-1, size, 3)[frames].reshape(-1, 3)),
            **{name: tensor.clone() for name, tensor in self._same(len(frames)).items()},
        )

    def _same(self, n: int) -> dict[str, Tensor]:
        """Return the tensors that all batches of ``n`` frames share; those of the last ``n`` are kept."""
        size = self.topologies[0].n_beads
        if not self._layout or len(self._layout["z"]) != n * size:
            first = (torch.arange(n) * size).view(1, n, 1)
            self._layout = {
                "batch": torch.arange(n).repeat_interleave(size),
                "z": self._types[0].repeat(n),
                **{k: (t[0].unsqueeze(1) + first).flatten(1) for k, t in self._index.items()},
            }
        return self._layout

    def _mixed(self, frames: Tensor) -> Batch:
        molecule = self._of_frame[frames]
        size = self._size[molecule]
        first = size.cumsum(0) - size
        batch, z = self._gather("z", molecule)
        beads = torch.arange(len(batch)) + (self._first[frames] - first)[batch]
        values = {"batch": batch, "z": z[0]}
        for name in _TABLES:
            graph, columns = self._gather(name, molecule)
            values[name] = columns + first[graph]
        values |= self._further(lambda further: further[beads])
        return Batch(pos=self._pos[beads], neg_dy=self._neg_dy[beads], **values)

    def _further(self, of_batch: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {} if self.prior_forces is None else {"prior_forces": of_batch(self.prior_forces)}

    def _gather(self, name: str, molecule: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of some molecules, one after the other, and the place of each one's molecule."""
        count = self._count[name]
        start = (count.cumsum(0) - count)[molecule]
        count = count[molecule]
        place = torch.arange(len(molecule)).repeat_interleave(count)
        column = torch.arange(len(place)) + (start - (count.cumsum(0) - count))[place]
        return place, self._columns[name][:, column]


def _joined(
    tables: Iterable[FrameTable], folder: Path | None
) -> tuple[tuple[FrameTable, ...], _Frames, _Frames]:
    """Return the tables as views of one array of positions and one of forces, and these ``(n_beads, 3)``.

    Several tables are written to disk one after the other, so that only one of them is in memory.
    """
    reading = iter(tables)
    first, second = next(reading), next(reading, None)
    if second is None:
        return (first,), first.positions.reshape(-1, 3), first.forces.reshape(-1, 3)
    files = ScratchFile(folder), ScratchFile(folder)
    empty = np.empty((0, 3), dtype=np.float32)
    written: list[tuple[FrameTable, tuple[int, ...], slice]] = []
    rest = itertools.chain((first, second), reading)
    del first, second
    for table in rest:
        rows = files[0].append(table.positions)
        files[1].append(table.forces)
        written.append((replace(table, positions=empty, forces=empty), table.positions.shape, rows))
        del table
    positions, forces = (file.array() for file in files)
    done = (
        replace(table, positions=positions[rows].reshape(shape), forces=forces[rows].reshape(shape))
        for table, shape, rows in written
    )
    return tuple(done), positions, forces
