"""CGSchNet: a SchNet for coarse-grained beads, as a TorchMD-Net representation.

The argument ``form`` of :class:`CGSchNet` selects one of two functional forms. With
C(r; lo, hi) the cosine cutoff, h₀ = embedding[z] and W_ij the filter of pair i–j, each block computes
``h ← h + lin(act(lin2(Σ_j lin1(h_j) ⊙ W_ij)))``:

``"majewski"``
    TorchMD-Net's ``graph-network`` (Majewski et al., Nat. Commun. 14, 5739, 2023).
    W = mlp(rbf(r))·C(r; lo, hi), both layers of ``mlp`` with bias; pairs closer than lo are ignored.
``"mlcg"``
    The SchNet of the ``mlcg`` package (Charron et al., Nat. Chem. 2025).
    W = mlp(rbf(r))·C(r; 0, hi), second layer of ``mlp`` without bias; lo is used in the radial basis only.

Radial basis (both): ``expnorm``, C(r; 0, hi)·exp(−β_k (e^{α(lo−r)} − μ_k)²) with α = 5/(hi−lo), or
``gauss``, exp(coeff·(r − offset_k)²).

Parameter layout (F ``hidden_channels``, G ``num_filters``, K ``num_rbf``); all lengths Å::

    embedding.weight                          (max_z, F)
    distance_expansion.{means,betas}          (K,), (K,)     expnorm; .alpha is a float attribute
    distance_expansion.{offset,coeff}         (K,), ()       gauss
    neighbor_embedding                        torchmdnet's NeighborEmbedding, or None
    interactions[n].mlp[0].{weight,bias}      (G, K), (G,)   filter, first layer, then the activation
    interactions[n].mlp[2].{weight[,bias]}    (G, G), (G,)   filter, second layer; no bias in "mlcg"
    interactions[n].lin1.weight               (G, F)         no bias
    interactions[n].lin2.{weight,bias}        (F, G), (F,)
    interactions[n].lin.{weight,bias}         (F, F), (F,)
    distance.box                              (3, 3)         buffer required by TorchMD-Net's load_model

Attributes: ``form, hidden_channels, num_filters, num_layers, num_rbf, rbf_type, trainable_rbf,
activation, cutoff_lower, cutoff_upper, max_z, aggr``. Energies come from the output model's MLP,
whose ``output_network.layers[0, 2, 4, ...]`` are the linear layers with the same activation between
them; the sum over beads is multiplied by ``std`` and shifted by ``mean`` of the TorchMD_Net.

:func:`cgal_plugin.models.model_parameters` returns all parameters as plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torchmdnet.models.utils import (
    CosineCutoff,
    NeighborEmbedding,
    OptimizedDistance,
    act_class_mapping,
    rbf_class_mapping,
    scatter,
)

from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.models.pairs import EnergyHead, molecule_pairs

__all__ = ["AGGREGATIONS", "FORMS", "CGSchNet", "EnergyHead", "InteractionBlock"]

FORMS = ("majewski", "mlcg")
AGGREGATIONS = ("add", "mean", "max")
#: with more candidate pairs, TorchMD-Net's neighbour list with its fixed buffer is used
_MAX_DIRECT_PAIRS = 4_000_000


def _choose(name: str, value: str, allowed: Iterable[str]) -> None:
    names = sorted(allowed)
    if value not in names:
        raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(names)}")


class InteractionBlock(nn.Module):
    """One interaction block: computes the update of the bead features."""

    def __init__(
        self,
        hidden_channels: int,
        num_filters: int,
        num_rbf: int,
        activation: str,
        filter_bias: bool,
        aggr: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        act = act_class_mapping[activation]
        self.mlp = nn.Sequential(
            nn.Linear(num_rbf, num_filters, dtype=dtype),
            act(),
            nn.Linear(num_filters, num_filters, bias=filter_bias, dtype=dtype),
        )
        self.lin1 = nn.Linear(hidden_channels, num_filters, bias=False, dtype=dtype)
        self.lin2 = nn.Linear(num_filters, hidden_channels, dtype=dtype)
        self.act = act()
        self.lin = nn.Linear(hidden_channels, hidden_channels, dtype=dtype)
        self.aggr = aggr
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights and set biases to zero."""
        for layer in (self.mlp[0], self.mlp[2], self.lin1, self.lin2, self.lin):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, i: Tensor, j: Tensor, rbf: Tensor, cutoff: Tensor) -> Tensor:
        """Return the update ``(n_beads, F)`` from unordered pairs ``i``, ``j`` ``(n_pairs,)``.

        ``rbf`` ``(n_pairs, K)`` and ``cutoff`` ``(n_pairs, 1)`` depend on the distance only, so both
        directions of a pair share one filter.
        """
        w = self.mlp(rbf) * cutoff
        h = self.lin1(x)
        to_i, to_j = w * h.index_select(0, j), w * h.index_select(0, i)
        if self.aggr == "add":
            # under autocast the dtype of the products may differ from that of lin1's output
            summed = torch.zeros_like(h, dtype=to_i.dtype).index_add(0, i, to_i).index_add(0, j, to_j)
        else:
            summed = scatter(torch.cat([to_i, to_j]), torch.cat([i, j]), 0, x.shape[0], self.aggr)
        update: Tensor = self.lin(self.act(self.lin2(summed)))
        return update


class CGSchNet(nn.Module):
    """SchNet representation of beads; the module docstring defines the two forms.

    Parameters
    ----------
    form
        ``"majewski"`` or ``"mlcg"``.
    hidden_channels, num_filters
        Size of the bead features and of the filters (default of ``num_filters``: ``hidden_channels``).
    num_layers
        Number of interaction blocks.
    num_rbf, rbf_type, trainable_rbf
        Radial basis: size, ``"expnorm"`` or ``"gauss"``, trained or fixed.
    activation
        One of TorchMD-Net's activations (``silu``, ``tanh``, ``ssp``, ``sigmoid``, ``swish``, ``mish``).
    cutoff_lower, cutoff_upper
        Å.
    max_z
        Size of the embedding table; bead types are 0 ... max_z − 1.
    max_num_neighbors
        Capacity per bead of TorchMD-Net's neighbour list, which is used with a periodic box and for very
        large systems. In other systems all pairs are considered.
    neighbor_embedding
        Whether to use TorchMD-Net's neighbour embedding before the first block.
    aggr
        ``"add"``, ``"mean"`` or ``"max"`` over neighbours.
    dtype
        Dtype of the parameters.
    box_vecs
        ``(3, 3)`` Å, or None for no periodic box.
    filter_grid
        Number of grid points of the filters in a training step of :mod:`cgal_plugin.models.network`, or
        None for exact filters. :meth:`forward` is exact.

    Raises
    ------
    ConfigError
        A value is not allowed.
    """

    def __init__(
        self,
        *,
        form: str = "majewski",
        hidden_channels: int = 128,
        num_filters: int | None = None,
        num_layers: int = 4,
        num_rbf: int = 18,
        rbf_type: str = "expnorm",
        trainable_rbf: bool = False,
        activation: str = "tanh",
        cutoff_lower: float = 0.0,
        cutoff_upper: float = 12.0,
        max_z: int = 100,
        max_num_neighbors: int = 128,
        neighbor_embedding: bool = False,
        aggr: str = "add",
        dtype: torch.dtype = torch.float32,
        box_vecs: Tensor | None = None,
        filter_grid: int | None = None,
    ) -> None:
        super().__init__()
        _choose("cgschnet.form", form, FORMS)
        _choose("activation", activation, act_class_mapping)
        _choose("rbf_type", rbf_type, rbf_class_mapping)
        _choose("aggr", aggr, AGGREGATIONS)
        if not 0 <= cutoff_lower < cutoff_upper:
            raise ConfigError(
                f"cutoffs are {cutoff_lower} to {cutoff_upper} Å; required: 0 <= cutoff_lower < cutoff_upper"
            )
        self.form = form
        self.hidden_channels = hidden_channels
        self.num_filters = hidden_channels if num_filters is None else num_filters
        self.num_layers = num_layers
        self.num_rbf = num_rbf
        self.rbf_type = rbf_type
        self.trainable_rbf = trainable_rbf
        self.activation = activation
        self.cutoff_lower = float(cutoff_lower)
        self.cutoff_upper = float(cutoff_upper)
        self.max_z = max_z
        self.aggr = aggr
        self.filter_grid = filter_grid

        self.embedding = nn.Embedding(max_z, hidden_channels, dtype=dtype)
        nearest = self.cutoff_lower if form == "majewski" else 0.0
        self.distance = OptimizedDistance(
            nearest,
            self.cutoff_upper,
            max_num_pairs=-max_num_neighbors,
            include_transpose=False,
            box=box_vecs,
            long_edge_index=True,
        )
        self.cutoff = CosineCutoff(nearest, self.cutoff_upper)
        self.distance_expansion = rbf_class_mapping[rbf_type](
            self.cutoff_lower, self.cutoff_upper, num_rbf, trainable_rbf, dtype=dtype
        )
        self.neighbor_embedding = (
            NeighborEmbedding(hidden_channels, num_rbf, nearest, self.cutoff_upper, max_z, dtype=dtype)
            if neighbor_embedding
            else None
        )
        self.interactions = nn.ModuleList(
            InteractionBlock(
                hidden_channels, self.num_filters, num_rbf, activation, form == "majewski", aggr, dtype
            )
            for _ in range(num_layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights and reset the radial basis."""
        self.embedding.reset_parameters()
        self.distance_expansion.reset_parameters()
        if self.neighbor_embedding is not None:
            self.neighbor_embedding.reset_parameters()
        for block in self.blocks():
            block.reset_parameters()

    def blocks(self) -> list[InteractionBlock]:
        """Return the interaction blocks in order."""
        return [cast(InteractionBlock, block) for block in self.interactions]

    def pairs(self, pos: Tensor, batch: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return each pair of beads of one molecule within the cutoffs, once.

        Parameters
        ----------
        pos
            ``(n_beads, 3)`` Å.
        batch
            ``(n_beads,)`` molecule of each bead, in any order.
        box
            ``(3, 3)`` Å or None.

        Returns
        -------
        i, j : ``(n_pairs,)`` int64
        r : ``(n_pairs,)`` Å

        Raises
        ------
        DataError
            With a box or in a very large system: more neighbours than ``max_num_neighbors``.
        """
        if box is None and not self.distance.use_periodic:
            i, j = molecule_pairs(batch)
            if i.shape[0] <= _MAX_DIRECT_PAIRS:
                return self._within_cutoffs(pos, i, j)
        try:
            edge_index, r, _ = self.distance(pos, batch, box)
        except RuntimeError as error:
            if "max_num_pairs" not in str(error):
                raise
            room = -self.distance.max_num_pairs
            raise DataError(
                f"more neighbours within {self.cutoff_upper} Å than max_num_neighbors = {room} allows; "
                "increase max_num_neighbors"
            ) from error
        return edge_index[0], edge_index[1], r

    def _within_cutoffs(self, pos: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lo, hi = self.distance.cutoff_lower, self.distance.cutoff_upper
        with torch.no_grad():
            square = (pos.index_select(0, i) - pos.index_select(0, j)).square().sum(1)
            inside = torch.nonzero((square < hi * hi) & (square >= lo * lo)).squeeze(1)
            i, j = i.index_select(0, inside), j.index_select(0, inside)
        square = (pos.index_select(0, i) - pos.index_select(0, j)).square().sum(1)
        # the gradient of the distance of coincident beads is undefined and would give NaN
        return i, j, square.clamp_min(1e-12).sqrt()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Tensor | None = None,
        q: Tensor | None = None,
        s: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """Return bead features.

        Parameters
        ----------
        z
            ``(n_beads,)`` int64 bead types.
        pos
            ``(n_beads, 3)`` Å.
        batch
            ``(n_beads,)`` int64 molecule of each bead.
        box
            ``(3, 3)`` Å or None.
        q, s
            Charges and spins of TorchMD-Net's interface. Not used.

        Returns
        -------
        tuple
            ``(n_beads, F)`` features, None, and the arguments z, pos, batch.
        """
        x = self.embedding(z)
        i, j, r = self.pairs(pos, batch, box)
        rbf = self.distance_expansion(r)
        if self.neighbor_embedding is not None:
            both = torch.stack([torch.cat([i, j]), torch.cat([j, i])])
            x = self.neighbor_embedding(z, x, both, torch.cat([r, r]), torch.cat([rbf, rbf]))
        cutoff = self.cutoff(r).unsqueeze(1)
        for block in self.blocks():
            x = x + block(x, i, j, rbf, cutoff)
        return x, None, z, pos, batch

    def __repr__(self) -> str:
        return (
            f"CGSchNet(form={self.form!r}, hidden_channels={self.hidden_channels}, "
            f"num_filters={self.num_filters}, num_layers={self.num_layers}, num_rbf={self.num_rbf}, "
            f"rbf_type={self.rbf_type!r}, activation={self.activation!r}, "
            f"cutoff={self.cutoff_lower}-{self.cutoff_upper} Å)"
        )
