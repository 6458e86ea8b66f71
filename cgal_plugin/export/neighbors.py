"""A Verlet neighbour list with skin for an exported potential, in plain aten operations.

The list holds every pair within cutoff + skin. It stays valid until a bead has moved more than skin/2
since the list was built: before that no pair outside the list can be within the cutoff. Each call uses
the pairs of the list that are within the cutoff now, ordered by bead index. These depend on the positions
only, so results do not depend on when the list was built, to the last bit, and a restarted simulation is
reproducible.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

#: cells on each side of the centre of a molecule. Beads farther out share the outermost cells, which keeps
#: the list correct and cell indices small
_CELLS = 500
#: beads whose candidate pairs are tested together
_BEADS_AT_A_TIME = 4096
#: coordinate that replaces a non-finite one
_NOWHERE = 1e30


class NeighborList(nn.Module):
    """The pairs within the cutoff: ``forward(x (R, N, 3) Å, float64) -> i (P,), j (P,), d (P, 3)``.

    Both beads of a pair belong to one replica. i < j are rows of R·N, in ascending order; ``d`` points from
    i to j, Å. Beads with non-finite coordinates have no pairs. The module stores the list, also after
    ``torch.jit.freeze``.

    Parameters
    ----------
    cutoff, skin
        Å.
    """

    if TYPE_CHECKING:
        pairs: Tensor
        built: Tensor

    def __init__(self, cutoff: float, skin: float) -> None:
        super().__init__()
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.reach = self.cutoff + self.skin
        # a margin for rounding of the displacements
        self.limit = (0.5 * self.skin * (1.0 - 1e-6)) ** 2
        # module.to(dtype) casts this buffer only before the first call; the list is always float64
        self.register_buffer("pairs", torch.zeros(2, 0, dtype=torch.long))
        self.register_buffer("built", torch.zeros(0, 3, dtype=torch.float64))
        self.nowhere, self.cells, self.at_a_time = _NOWHERE, _CELLS, _BEADS_AT_A_TIME
        self.side = side = 2 * _CELLS + 3
        # half of the 26 neighbouring cells, as columns along z: (dx, dy) with dz = -1, 0, 1 each
        self.columns = [side, side * side - side, side * side, side * side + side]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs within the cutoff; see the class."""
        flat = x.reshape(-1, 3)
        known = torch.nan_to_num(flat, self.nowhere, self.nowhere, self.nowhere)
        stale = self.built.shape[0] != flat.shape[0]
        if not stale:
            stale = bool((known - self.built).square().sum(1).max() > self.limit)
        if stale:
            self.pairs = self.find(flat, known, x.shape[1])
            self.built = known.clone()
        i, j = self.pairs[0], self.pairs[1]
        d = flat.index_select(0, j) - flat.index_select(0, i)
        near = torch.nonzero(d.square().sum(1) < self.cutoff * self.cutoff).view(-1)
        return i.index_select(0, near), j.index_select(0, near), d.index_select(0, near)

    def find(self, flat: Tensor, known: Tensor, n_beads: int) -> Tensor:
        """Return all pairs within cutoff + skin, ``(2, L)``, by a cell list of that cell width."""
        n = flat.shape[0]
        bead = torch.arange(n, device=flat.device)
        cell = torch.floor(known / self.reach).clamp(-self.cells, self.cells).to(torch.long)
        cell = cell + (self.cells + 1)
        # a layer of empty cells around each replica separates the replicas
        key = torch.div(bead, n_beads, rounding_mode="floor")
        for axis in range(3):
            key = key * self.side + cell[:, axis]
        key, order = torch.sort(key, stable=True)
        found: list[Tensor] = []
        for lo in range(0, n, self.at_a_time):
            own, at = key[lo : lo + self.at_a_time], bead[lo : lo + self.at_a_time]
            # later beads in the same cell and in the next cell along z, then the other columns
            begins = [at + 1]
            ends = [torch.searchsorted(key, own + 1, right=True)]
            for column in self.columns:
                begins.append(torch.searchsorted(key, own + (column - 1)))
                ends.append(torch.searchsorted(key, own + (column + 1), right=True))
            begin, end = torch.cat(begins), torch.cat(ends)
            counts = end - begin
            first = torch.repeat_interleave(at.repeat(len(begins)), counts)
            before = torch.cumsum(counts, 0) - counts
            count = first.shape[0]
            place = torch.arange(count, device=flat.device) - torch.repeat_interleave(before, counts)
            a = order.index_select(0, first)
            b = order.index_select(0, torch.repeat_interleave(begin, counts) + place)
            d = flat.index_select(0, b) - flat.index_select(0, a)
            # comparisons with NaN are false, so non-finite beads have no pairs
            near = torch.nonzero(d.square().sum(1) < self.reach * self.reach).view(-1)
            a, b = a.index_select(0, near), b.index_select(0, near)
            found.append(torch.minimum(a, b) * n + torch.maximum(a, b))
        pairs = torch.sort(torch.cat(found))[0]
        return torch.stack([torch.div(pairs, n, rounding_mode="floor"), pairs % n])


def check_skin(skin: float) -> bool:
    """Return whether ``skin`` (Å) is a positive, finite number."""
    return isinstance(skin, int | float) and math.isfinite(skin) and skin > 0.0
