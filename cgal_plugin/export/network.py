"""The network part of an exported potential: energies and dE/dr with an analytical backward pass.

It takes any list of pairs: all pairs of a small molecule, or those of a neighbour list. Each pair occurs
once, and its filter is used in both directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgal_plugin.export.filters import ACTIVATIONS, DistanceFilters, LinearFilter, activation, bias_of
from cgal_plugin.export.modules import module_list

if TYPE_CHECKING:
    from cgal_plugin.export.tables import TableFilters
    from cgal_plugin.models.weights import BlockWeights, CGSchNetWeights, NeighborEmbeddingWeights

#: pairs whose filters are computed together: intermediate results then stay in a cache of a few MB
PAIRS_AT_A_TIME = 2048


def send(x: Tensor, source: Tensor, w: Tensor) -> Tensor:
    """Return the messages w ⊙ x along both directions, ``(2·P, G)``: from j to i, then from i to j.

    ``x`` ``(rows, G)``; ``source`` ``(2·P,)`` holds j of every pair, then i; ``w`` ``(P, G)``.
    """
    return (x.index_select(0, source).view(2, w.shape[0], w.shape[1]) * w).view(-1, w.shape[1])


def slope(dm: Tensor, y: Tensor, target: Tensor, source: Tensor, dw: Tensor) -> Tensor:
    """Return the filter contribution to dE/dr, ``(P,)``: Σ_g (dE/dm_i · y_j + dE/dm_j · y_i) dW/dr."""
    both = dm.index_select(0, target) * y.index_select(0, source)
    # multiply and sum: a batched matrix product with one column is four times slower on a CPU
    return (both.view(2, dw.shape[0], dw.shape[1]).sum(0) * dw).sum(1)


class Block(nn.Module):
    """One interaction block: forward pass, which also returns the derivative for the backward pass."""

    if TYPE_CHECKING:
        lin1: Tensor
        lin2: Tensor
        lin2_bias: Tensor
        lin: Tensor
        lin_bias: Tensor

    def __init__(self, weights: BlockWeights, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("lin1", weights.lin1.weight.clone())
        self.register_buffer("lin2", weights.lin2.weight.clone())
        self.register_buffer("lin2_bias", bias_of(weights.lin2).clone())
        self.register_buffer("lin", weights.lin.weight.clone())
        self.register_buffer("lin_bias", bias_of(weights.lin).clone())

    def forward(self, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return new features from the summed messages, and the derivative of the activation."""
        # F.linear, not addmm: torch.jit.freeze, which TorchForce calls, infers wrong shapes for addmm
        v, dv = activation(torch.nn.functional.linear(m, self.lin2, self.lin2_bias), self.kind)
        return h + torch.nn.functional.linear(v, self.lin, self.lin_bias), dv

    def backward(self, dh: Tensor, dv: Tensor) -> Tensor:
        """Return dE/dm for the summed messages m, ``(rows, G)``."""
        return torch.matmul(torch.matmul(dh, self.lin) * dv, self.lin2)


class NeighborEmbedding(nn.Module):
    """TorchMD-Net's neighbour embedding: h ← combine([h, Σ_k W_ik ⊙ embedding(z_k)])."""

    if TYPE_CHECKING:
        constant: Tensor
        combine: Tensor
        other: Tensor

    def __init__(self, weights: CGSchNetWeights, embedding: NeighborEmbeddingWeights, z: Tensor) -> None:
        super().__init__()
        h = weights.embedding.index_select(0, z)
        combine = embedding.combine.weight
        features = h.shape[1]
        constant = torch.addmm(bias_of(embedding.combine), h, combine[:, :features].t())
        self.register_buffer("constant", constant)
        self.register_buffer("combine", combine[:, features:].contiguous())
        self.register_buffer("other", embedding.embedding.index_select(0, z))
        self.filter = LinearFilter(
            embedding.distance_proj.weight,
            bias_of(embedding.distance_proj),
            weights.filter_cutoff_lower,
            weights.cutoff_upper,
        )

    def forward(self, m: Tensor, copies: int) -> Tensor:
        """Return bead features ``(rows, F)`` from the sums of W ⊙ ``other``."""
        return self.constant.repeat(copies, 1) + torch.matmul(m, self.combine.t())


class OutputLayer(nn.Module):
    """A linear layer of the output MLP; a missing bias is zero."""

    if TYPE_CHECKING:
        weight: Tensor
        bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", weight.new_zeros(weight.shape[0]) if bias is None else bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Network(nn.Module):
    """``forward(r (P,) Å, ends (2, P), copies) -> energy (copies,), dE/dr (P,)``, kcal/mol and Å.

    ``copies`` molecules are concatenated; ``ends`` are the rows of the two beads of each pair. Bead energies
    are summed in float64.

    Parameters
    ----------
    weights
        Parameters of the model, in the dtype of the computation.
    types
        ``(N,)`` int64, bead types of one molecule.
    """

    if TYPE_CHECKING:
        h: Tensor
        first: Tensor

    def __init__(self, weights: CGSchNetWeights, types: Tensor) -> None:
        super().__init__()
        n = types.shape[0]
        self.n_beads = n
        kind = ACTIVATIONS[weights.activation]
        self.kind = kind
        h = weights.embedding.index_select(0, types)
        self.register_buffer("h", h)
        self.register_buffer("first", torch.matmul(h, weights.blocks[0].lin1.weight.t()))
        self.filters: DistanceFilters | TableFilters = DistanceFilters(weights)
        #: the filters that tables were built from; the fast engine builds its own tables from them
        self.exact: DistanceFilters | None = None
        self.blocks = module_list(Block(b, kind) for b in weights.blocks)
        self.embedding: NeighborEmbedding | None = None
        if weights.neighbor_embedding is not None:
            self.embedding = NeighborEmbedding(weights, weights.neighbor_embedding, types)
        self.output = module_list(OutputLayer(o.weight, o.bias) for o in weights.output)
        # the same modules in reverse order: TorchScript accepts self.blocks[::-1] but does not reverse it
        self.blocks_reversed = module_list(list(self.blocks)[::-1])
        self.output_reversed = module_list(list(self.output)[::-1])
        # TorchMD-Net's mean also counts its initial zero: it divides by n + 1
        per_bead = weights.std / (n + 1 if weights.reduce_op == "mean" else 1)
        self.scale, self.shift = float(per_bead), float(weights.mean)
        self.at_a_time = PAIRS_AT_A_TIME

    def readout(self, h: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Return the energy of each copy ``(copies,)``, float64, and dE/dh ``(rows, F)``."""
        slopes: list[Tensor] = []
        x = h
        last = len(self.output) - 1
        for k, layer in enumerate(self.output):
            x = layer(x)
            if k < last:
                x, dx = activation(x, self.kind)
                slopes.append(dx)
        energy = x.to(torch.float64).view(copies, self.n_beads).sum(1) * self.scale + self.shift
        dh = torch.full_like(x, self.scale)
        for k, layer in enumerate(self.output_reversed):
            if k > 0:
                dh = dh * slopes[last - k]
            dh = torch.matmul(dh, layer.weight)
        return energy, dh

    def forward(self, r: Tensor, ends: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Return energies and dE/dr; see the class."""
        h, y = self.h, self.first
        if copies > 1:
            h, y = h.repeat(copies, 1), y.repeat(copies, 1)
        n = r.shape[0]
        # lists over chunks of pairs; a small system has one chunk, which may be empty
        size = n if r.is_cuda else self.at_a_time
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        ws: list[Tensor] = []
        dws: list[Tensor] = []
        parts: list[Tensor] = []
        for lo in range(0, max(n, 1), max(size, 1)):
            part = ends[:, lo : lo + size]
            targets.append(part.reshape(-1))
            sources.append(part.flip(0).reshape(-1))
            parts.append(r[lo : lo + size])
            w, dw = self.filters(parts[-1])
            ws.append(w)
            dws.append(dw)
        des: list[Tensor] = []
        if self.embedding is not None:
            m = torch.zeros_like(h)
            other = self.embedding.other.repeat(copies, 1)
            for c, distance in enumerate(parts):
                column = distance.unsqueeze(1)
                # a network with neighbour embedding has no tables
                rbf, drbf = self.filters.basis(column)  # type: ignore[operator]
                w, dw = self.embedding.filter(column, rbf, drbf)
                m.index_add_(0, targets[c], send(other, sources[c], w))
                des.append(dw)
            h = self.embedding(m, copies)
        ys: list[Tensor] = []
        dvs: list[Tensor] = []
        for b, block in enumerate(self.blocks):
            if b > 0 or self.embedding is not None:
                y = torch.matmul(h, block.lin1.t())
            m = torch.zeros_like(y)
            for c, w in enumerate(ws):
                m.index_add_(0, targets[c], send(y, sources[c], w[b]))
            h, dv = block(h, m)
            ys.append(y)
            dvs.append(dv)
        energy, dh = self.readout(h, copies)
        flows = [torch.zeros_like(part) for part in parts]
        last = len(self.blocks) - 1
        for k, block in enumerate(self.blocks_reversed):
            b = last - k
            dm = block.backward(dh, dvs[b])
            for c, dw in enumerate(dws):
                flows[c] += slope(dm, ys[b], targets[c], sources[c], dw[b])
            if b > 0 or self.embedding is not None:
                dy = torch.zeros_like(dm)
                for c, w in enumerate(ws):
                    dy.index_add_(0, targets[c], send(dm, sources[c], w[b]))
                dh = dh + torch.matmul(dy, block.lin1)
        if self.embedding is not None:
            pull = torch.matmul(dh, self.embedding.combine)
            other = self.embedding.other.repeat(copies, 1)
            for c, dw in enumerate(des):
                flows[c] += slope(pull, other, targets[c], sources[c], dw)
        return energy, flows[0] if len(flows) == 1 else torch.cat(flows)
