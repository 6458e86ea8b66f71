"""The pairs of beads of the network, and its output head."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchmdnet.models.output_modules import OutputModel
from torchmdnet.models.utils import act_class_mapping


def molecule_pairs(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return each unordered pair of different beads of one molecule, once.

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
    # each bead forms pairs with the beads of its molecule that come before it in the sorted order
    before = place - start
    i = torch.repeat_interleave(place, before)
    shift = start - (before.cumsum(0) - before)
    j = torch.arange(i.shape[0], device=batch.device) + torch.repeat_interleave(shift, before)
    return order.index_select(0, i), order.index_select(0, j)


class EnergyHead(OutputModel):  # type: ignore[misc]  # torchmdnet has no types
    """An MLP from bead features to one energy per bead, with any widths and an optional last bias.

    ``output_network.layers[0, 2, ...]`` are the linear layers, as in TorchMD-Net's ``Scalar``. With one
    hidden layer of width F//2 and a last bias, both are equal.

    Parameters
    ----------
    hidden_channels
        Size F of the bead features.
    widths
        Widths of the hidden layers; ``(128, 64)`` in mlcg. An empty tuple gives a linear head.
    activation
        Name of a TorchMD-Net activation.
    last_bias
        Whether the last layer has a bias.
    reduce_op
        ``"sum"``/``"add"`` or ``"mean"`` over the beads of a molecule.
    dtype
        Dtype of the parameters.
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
        """Draw Xavier-uniform weights and set biases to zero."""
        for layer in self._layers():
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
        """Return the energy of each bead, ``(n_beads, 1)``."""
        energy: Tensor = self._layers()(x)
        return energy

    def _layers(self) -> nn.Sequential:
        return cast(nn.Sequential, self.output_network.layers)
