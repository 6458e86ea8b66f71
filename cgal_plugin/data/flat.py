"""Frames of molecules of different sizes in one tensor of beads, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

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
        Frames of one molecule each. Those of several tables are copied to one array, table by table.

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

    def __init__(self, tables: Iterable[FrameTable]) -> None:
        self.tables, positions, forces = _joined(tables)
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


def _joined(tables: Iterable[FrameTable]) -> tuple[tuple[FrameTable, ...], _Frames, _Frames]:
    """Return the tables as views of one array of positions and one of forces, and these ``(n_beads, 3)``.

    The arrays of a table are released when they are copied, unless the caller keeps them.
    """
    rest = list(tables)
    if len(rest) == 1:
        (table,) = rest
        return (table,), table.positions.reshape(-1, 3), table.forces.reshape(-1, 3)
    n = sum(t.positions.size // 3 for t in rest)
    # float32, as in a store; pages of an empty array take memory when they are written
    positions, forces = np.empty((n, 3), dtype=np.float32), np.empty((n, 3), dtype=np.float32)
    done, lo = [], 0
    while rest:
        table = rest.pop(0)
        shape, part = table.positions.shape, slice(lo, lo + table.positions.size // 3)
        positions[part], forces[part] = table.positions.reshape(-1, 3), table.forces.reshape(-1, 3)
        views = positions[part].reshape(shape), forces[part].reshape(shape)
        done.append(replace(table, positions=views[0], forces=views[1]))
        lo = part.stop
    return tuple(done), positions, forces
