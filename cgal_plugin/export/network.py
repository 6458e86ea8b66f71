"""The network part of an exported potential: energies and dE/dr with a backward pass by hand.

Beads see each other through one dense list: in every replica each bead i has the N − 1 others as
neighbours k. Filters exist once a pair and are copied to both directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgal_plugin.export.filters import ACTIVATIONS, DistanceFilters, LinearFilter, activation

if TYPE_CHECKING:
    from cgal_plugin.models.weights import BlockWeights, CGSchNetWeights


def pair_tables(n_beads: int, n_replicas: int) -> dict[str, Tensor]:
    """Index tables of the dense pair list.

    Returns
    -------
    dict
        ``pair`` ``(P,)``: flat position i·N + j of each pair i < j in an N×N matrix.
        ``pair_of`` ``(N·N,)``: pair of each matrix element (diagonal: 0).
        ``row`` ``(R·N·(N−1),)``: row, in R·P, of each directed pair; ``neighbor``: its bead, in R·N.
        ``forward``, ``backward`` ``(R·P,)``: the directed pairs i→j and j→i of each pair.
    """
    i, j = torch.triu_indices(n_beads, n_beads, 1)
    n_pairs = i.shape[0]
    matrix = torch.zeros(n_beads, n_beads, dtype=torch.long)
    matrix[i, j] = torch.arange(n_pairs)
    matrix[j, i] = torch.arange(n_pairs)
    off = ~torch.eye(n_beads, dtype=torch.bool)
    beads = torch.arange(n_beads).expand(n_beads, n_beads)
    replica = torch.arange(n_replicas).unsqueeze(1)
    # position of neighbour k in the row of bead i, which leaves out i itself
    directed = n_beads * (n_beads - 1)
    forward = i * (n_beads - 1) + (j - 1)
    backward = j * (n_beads - 1) + i
    return {
        "pair": i * n_beads + j,
        "pair_of": matrix.reshape(-1),
        "row": (matrix[off].unsqueeze(0) + replica * n_pairs).reshape(-1),
        "neighbor": (beads[off].unsqueeze(0) + replica * n_beads).reshape(-1),
        "forward": (forward.unsqueeze(0) + replica * directed).reshape(-1),
        "backward": (backward.unsqueeze(0) + replica * directed).reshape(-1),
    }


class Block(nn.Module):
    """One interaction block: forward with what backward needs, and backward."""

    def __init__(self, weights: BlockWeights, kind: int, n_neighbors: int) -> None:
        super().__init__()
        self.kind, self.n_neighbors = kind, n_neighbors
        self.register_buffer("lin1", weights.lin1.weight.clone())
        self.register_buffer("lin2", weights.lin2.weight.clone())
        self.register_buffer("lin2_bias", weights.lin2.bias.clone())
        self.register_buffer("lin", weights.lin.weight.clone())
        self.register_buffer("lin_bias", weights.lin.bias.clone())

    def gather(self, w: Tensor, y: Tensor, neighbor: Tensor) -> Tensor:
        """Σ_k w_ik ⊙ y_k for every bead, ``(R·N, G)``; ``w`` ``(R·N, N−1, G)``, ``y`` ``(R·N, G)``."""
        y_k = y.index_select(0, neighbor).view(-1, self.n_neighbors, y.shape[1])
        return (w * y_k).sum(1)

    def forward(self, h: Tensor, w: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New features, y = lin1(h), and the activation's derivative."""
        y = torch.matmul(h, self.lin1.t())
        # F.linear, not addmm: torch.jit.freeze (TorchForce calls it) gets the shapes of addmm wrong
        u = torch.nn.functional.linear(self.gather(w, y, neighbor), self.lin2, self.lin2_bias)
        v, dv = activation(u, self.kind)
        return h + torch.nn.functional.linear(v, self.lin, self.lin_bias), y, dv

    def backward(self, dh: Tensor, dv: Tensor) -> Tensor:
        """dE/dm of the summed messages m, ``(R·N, G)``."""
        return torch.matmul(torch.matmul(dh, self.lin) * dv, self.lin2)

    def slope(self, dm: Tensor, dw: Tensor, y: Tensor, neighbor: Tensor) -> Tensor:
        """Σ_g dE/dm_i · y_k · dW_ik/dr, ``(R·N, N−1)``: share of dE/dr that flows through i ← k."""
        y_k = y.index_select(0, neighbor).view(-1, self.n_neighbors, y.shape[1])
        # a product and a sum: a batched product with one column is four times as slow on a CPU
        return (dw * y_k * dm.unsqueeze(1)).sum(2)


class NeighborEmbedding(nn.Module):
    """TorchMD-Net's neighbour embedding: h ← combine([h, Σ_k W_ik ⊙ embedding(z_k)])."""

    def __init__(self, weights: CGSchNetWeights, z: Tensor, neighbor: Tensor) -> None:
        super().__init__()
        embedding = weights.neighbor_embedding
        h = weights.embedding.index_select(0, z)
        n_neighbors, features = neighbor.shape[0] // h.shape[0], h.shape[1]
        other = embedding.embedding.index_select(0, z).index_select(0, neighbor)
        combine = embedding.combine.weight
        self.n_neighbors = n_neighbors
        self.register_buffer("constant", torch.addmm(embedding.combine.bias, h, combine[:, :features].t()))
        self.register_buffer("combine", combine[:, features:].contiguous())
        self.register_buffer("other", other.view(-1, n_neighbors, features))
        self.filter = LinearFilter(
            embedding.distance_proj.weight,
            embedding.distance_proj.bias,
            weights.filter_cutoff_lower,
            weights.cutoff_upper,
        )

    def forward(self, r: Tensor, rbf: Tensor, drbf: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Bead features ``(R·N, F)`` and dW/dr ``(R·N, N−1, F)`` from the radial basis of the pairs."""
        w, dw = self.filter(r, rbf, drbf)
        w = w.index_select(0, row).view(-1, self.n_neighbors, w.shape[1])
        dw = dw.index_select(0, row).view(-1, self.n_neighbors, dw.shape[1])
        return self.constant + torch.matmul((w * self.other).sum(1), self.combine.t()), dw

    def slope(self, dh: Tensor, dw: Tensor) -> Tensor:
        """Share of dE/dr, ``(R·N, N−1)``."""
        return (dw * self.other * torch.matmul(dh, self.combine).unsqueeze(1)).sum(2)


class OutputLayer(nn.Module):
    """A linear layer of the output MLP, bias zero where it has none."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", weight.new_zeros(weight.shape[0]) if bias is None else bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Network(nn.Module):
    """``forward(r (R, P) Å) -> energy (R,), dE/dr (R, P)`` in kcal/mol and kcal/mol/Å.

    Parameters
    ----------
    weights
        Of the model, in the dtype to compute in.
    types
        ``(N,)`` int64, bead types of one replica.
    n_replicas
        R.
    """

    def __init__(self, weights: CGSchNetWeights, types: Tensor, n_replicas: int) -> None:
        super().__init__()
        n = types.shape[0]
        self.n_beads, self.n_replicas, self.n_neighbors = n, n_replicas, n - 1
        kind = ACTIVATIONS[weights.activation]
        self.kind = kind
        tables = pair_tables(n, n_replicas)
        for name in ("row", "neighbor", "forward", "backward"):
            self.register_buffer(f"index_{name}", tables[name])
        z = types.repeat(n_replicas)
        self.register_buffer("h", weights.embedding.index_select(0, z))
        self.filters = DistanceFilters(weights)
        self.blocks = nn.ModuleList(Block(b, kind, n - 1) for b in weights.blocks)
        self.embedding: NeighborEmbedding | None = None
        if weights.neighbor_embedding is not None:
            self.embedding = NeighborEmbedding(weights, z, tables["neighbor"])
        self.output = nn.ModuleList(OutputLayer(o.weight, o.bias) for o in weights.output)
        # the same modules backwards: TorchScript accepts self.blocks[::-1] but does not reverse it
        self.blocks_reversed = nn.ModuleList(list(self.blocks)[::-1])
        self.output_reversed = nn.ModuleList(list(self.output)[::-1])
        # TorchMD-Net's mean counts the zero that it starts from: it divides by n + 1
        per_bead = weights.std / (n + 1 if weights.reduce_op == "mean" else 1)
        self.scale, self.shift = float(per_bead), float(weights.mean)

    def readout(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each replica ``(R,)`` and dE/dh ``(R·N, F)``."""
        slopes: list[Tensor] = []
        x = h
        last = len(self.output) - 1
        for k, layer in enumerate(self.output):
            x = layer(x)
            if k < last:
                x, dx = activation(x, self.kind)
                slopes.append(dx)
        energy = x.view(self.n_replicas, self.n_beads).sum(1) * self.scale + self.shift
        dh = torch.full_like(x, self.scale)
        for k, layer in enumerate(self.output_reversed):
            if k > 0:
                dh = dh * slopes[last - k]
            dh = torch.matmul(dh, layer.weight)
        return energy, dh

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Energy ``(R,)`` and dE/dr ``(R, P)`` of ``r (R, P)``."""
        flat = r.reshape(-1)
        w, dw = self.filters(flat)
        shape = (w.shape[0], -1, self.n_neighbors, w.shape[2])
        w = w.index_select(1, self.index_row).view(shape)
        dw = dw.index_select(1, self.index_row).view(shape)
        h, de = self.h, flat
        if self.embedding is not None:
            column = flat.unsqueeze(1)
            rbf, drbf = self.filters.basis(column)
            h, de = self.embedding(column, rbf, drbf, self.index_row)
        ys: list[Tensor] = []
        dvs: list[Tensor] = []
        for k, block in enumerate(self.blocks):
            h, y, dv = block(h, w[k], self.index_neighbor)
            ys.append(y)
            dvs.append(dv)
        energy, dh = self.readout(h)
        slopes: list[Tensor] = []
        n = len(self.blocks)
        for k, block in enumerate(self.blocks_reversed):
            b = n - 1 - k
            dm = block.backward(dh, dvs[b])
            slopes.append(block.slope(dm, dw[b], ys[b], self.index_neighbor))
            if b > 0 or self.embedding is not None:
                dh = dh + torch.matmul(block.gather(w[b], dm, self.index_neighbor), block.lin1)
        if self.embedding is not None:
            slopes.append(self.embedding.slope(dh, de))
        flow = torch.stack(slopes).sum(0).view(-1)
        both = flow.index_select(0, self.index_forward) + flow.index_select(0, self.index_backward)
        return energy, both.view(self.n_replicas, -1)
