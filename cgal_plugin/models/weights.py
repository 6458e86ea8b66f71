"""The parameters of a CGSchNet, or of TorchMD-Net's graph-network, as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchmdnet.models.model import TorchMD_Net


@dataclass(frozen=True, eq=False)
class LinearWeights:
    """One linear layer: ``weight (out, in)``, ``bias (out,)`` or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """One interaction block, F features, G filters, K radial basis functions.

    W = (filter_out(act(filter_in(rbf(r)))))·C(r); h ← h + lin(act(lin2(Σ_j lin1(h_j) ⊙ W_ij))).

    ``filter_in`` (G, K) with bias; ``filter_out`` (G, G), bias None in form "mlcg"; ``lin1`` (G, F)
    without bias; ``lin2`` (F, G) and ``lin`` (F, F) with bias.
    """

    filter_in: LinearWeights
    filter_out: LinearWeights
    lin1: LinearWeights
    lin2: LinearWeights
    lin: LinearWeights


@dataclass(frozen=True, eq=False)
class NeighborEmbeddingWeights:
    """TorchMD-Net's neighbour embedding: h ← combine([h, Σ_j proj(rbf(r))·C(r) ⊙ embedding(z_j)])."""

    embedding: Tensor
    distance_proj: LinearWeights
    combine: LinearWeights


@dataclass(frozen=True, eq=False)
class CGSchNetWeights:
    """All parameters of the network part of a model (no priors), detached copies. Lengths in Å.

    Attributes
    ----------
    form
        ``"majewski"`` or ``"mlcg"``.
    activation
        TorchMD-Net's name (``silu``, ``tanh``, ``ssp``, ``sigmoid``, ``swish``, ``mish``).
    cutoff_lower, cutoff_upper
        lo and hi of the radial basis.
    filter_cutoff_lower
        lo of the filter's cosine cutoff, below which pairs are ignored: ``cutoff_lower`` in
        "majewski", 0 in "mlcg".
    rbf_type
        ``"expnorm"``: C(r; 0, hi)·exp(−rbf_widths (e^{rbf_alpha (lo−r)} − rbf_centers)²), or
        ``"gauss"``: exp(rbf_widths (r − rbf_centers)²), rbf_widths negative, no cutoff.
    rbf_centers, rbf_widths
        (K,) and (K,): ``means`` and ``betas``, or ``offset`` and ``coeff`` (expanded to K).
    rbf_alpha
        1/Å; 0 in "gauss".
    embedding
        (max_z, F).
    neighbor_embedding
        Neighbour embedding, or None.
    blocks
        Interaction blocks in order.
    aggr
        ``"add"`` (usual), ``"mean"`` or ``"max"`` over neighbours, as in TorchMD-Net's ``scatter``.
    output
        Linear layers of the output MLP, activation between them; the last gives one energy per bead.
    reduce_op
        ``"add"``/``"sum"`` or ``"mean"`` over beads.
    mean, std
        E = std·Σ_beads + mean, kcal/mol.
    periodic
        Whether the model has its own box vectors.
    """

    form: str
    activation: str
    cutoff_lower: float
    cutoff_upper: float
    filter_cutoff_lower: float
    rbf_type: str
    rbf_centers: Tensor
    rbf_widths: Tensor
    rbf_alpha: float
    embedding: Tensor
    neighbor_embedding: NeighborEmbeddingWeights | None
    blocks: tuple[BlockWeights, ...]
    aggr: str
    output: tuple[LinearWeights, ...]
    reduce_op: str
    mean: float
    std: float
    periodic: bool


def model_parameters(model: TorchMD_Net) -> CGSchNetWeights:
    """Return the parameters of a ``TorchMD_Net`` with CGSchNet or TorchMD-Net's graph-network.

    Raises
    ------
    ConfigError
        The model is of another kind.
    """
    from torch import nn
    from torchmdnet.models.torchmd_gn import TorchMD_GN

    from cgal_plugin.models.cgschnet import CGSchNet

    net = getattr(model, "representation_model", None)
    if not isinstance(net, CGSchNet | TorchMD_GN):
        kind = type(model if net is None else net).__name__
        raise ConfigError(f"the model is {kind}; a TorchMD_Net with cgschnet or graph-network is needed")
    layers = getattr(getattr(model.output_model, "output_network", None), "layers", None)
    if layers is None or not hasattr(model.output_model, "reduce_op"):
        raise ConfigError(
            f"output model {type(model.output_model).__name__} is not a scalar energy: use Scalar"
        )
    form = net.form if isinstance(net, CGSchNet) else "majewski"
    expansion = net.distance_expansion
    expnorm = hasattr(expansion, "means")
    centers = _copy(expansion.means if expnorm else expansion.offset)
    widths = _copy(expansion.betas if expnorm else expansion.coeff)
    return CGSchNetWeights(
        form=form,
        activation=net.activation,
        cutoff_lower=float(net.cutoff_lower),
        cutoff_upper=float(net.cutoff_upper),
        filter_cutoff_lower=float(net.cutoff_lower) if form == "majewski" else 0.0,
        rbf_type="expnorm" if expnorm else "gauss",
        rbf_centers=centers,
        rbf_widths=widths if expnorm else widths.expand_as(centers).clone(),
        rbf_alpha=float(expansion.alpha) if expnorm else 0.0,
        embedding=_copy(net.embedding.weight),
        neighbor_embedding=_neighbor_embedding(net.neighbor_embedding),
        blocks=tuple(_block(b) for b in net.interactions),
        aggr=net.aggr,
        output=tuple(_linear(m) for m in layers if isinstance(m, nn.Linear)),
        reduce_op=model.output_model.reduce_op,
        mean=float(model.mean),
        std=float(model.std),
        periodic=bool(net.distance.use_periodic),
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _linear(layer: nn.Linear) -> LinearWeights:
    return LinearWeights(_copy(layer.weight), None if layer.bias is None else _copy(layer.bias))


def _block(block: Any) -> BlockWeights:
    conv = getattr(block, "conv", block)
    return BlockWeights(
        filter_in=_linear(block.mlp[0]),
        filter_out=_linear(block.mlp[2]),
        lin1=_linear(conv.lin1),
        lin2=_linear(conv.lin2),
        lin=_linear(block.lin),
    )


def _neighbor_embedding(module: Any) -> NeighborEmbeddingWeights | None:
    if module is None:
        return None
    return NeighborEmbeddingWeights(
        embedding=_copy(module.embedding.weight),
        distance_proj=_linear(module.distance_proj),
        combine=_linear(module.combine),
    )
