"""The pairs of beads that the network works on, and the output head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmdnet.models.output_modules import OutputModel
from torchmdnet.models.utils import act_class_mapping


def molecule_pairs(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Every unordered pair of different beads of one molecule, once.

    Parameters
    ----------
    batch
        ``(n_beads,)`` int64 molecule of each bead, in any order.

    Returns
    -------
    i, j : ``(n_pairs,)`` int64
    """
    n = batch.shape[0]
    order = torch.argsort(batch, stable=True)
    molecule = batch.index_select(0, order)
    counts = torch.bincount(batch)
    start = (counts.cumsum(0) - counts).index_select(0, molecule)
    place = torch.arange(n, device=batch.device)
    # the bead at each sorted place pairs with those of its molecule before it
    before = place - start
    i = torch.repeat_interleave(place, before)
    shift = start - (before.cumsum(0) - before)
    j = torch.arange(i.shape[0], device=batch.device) + torch.repeat_interleave(shift, before)
    return order.index_select(0, i), order.index_select(0, j)


class EnergyHead(OutputModel):
    """An MLP from bead features to one energy a bead: any widths, last layer with or without bias.

    ``output_network.layers[0, 2, ...]`` are the linear layers, as in TorchMD-Net's ``Scalar``, which
    this equals for one hidden layer of F//2 and a bias in the last.

    Parameters
    ----------
    hidden_channels
        Size F of the bead features.
    widths
        Of the hidden layers; ``(128, 64)`` in mlcg. None at all makes the head linear.
    activation
        Name of a TorchMD-Net activation.
    last_bias
        Whether the last layer has a bias.
    reduce_op
        ``"sum"``/``"add"`` or ``"mean"`` over the beads of a molecule.
    dtype
        Of the parameters.
    """

    def __init__(
        self,
        hidden_channels: int,
        widths: tuple[int, ...] = (128, 64),
        activation: str = "tanh",
        last_bias: bool = False,
        reduce_op: str = "sum",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(allow_prior_model=True, reduce_op=reduce_op)
        layers: list[nn.Module] = []
        size = hidden_channels
        for width in widths:
            layers += [nn.Linear(size, width, dtype=dtype), act_class_mapping[activation]()]
            size = width
        layers.append(nn.Linear(size, 1, bias=last_bias, dtype=dtype))
        self.output_network = nn.Module()
        self.output_network.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases."""
        for layer in self.output_network.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def pre_reduce(
        self,
        x: Tensor,
        v: Tensor | None,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        box: Tensor | None = None,
    ) -> Tensor:
        """Energy of each bead, ``(n_beads, 1)``."""
        return self.output_network.layers(x)
