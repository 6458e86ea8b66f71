"""The gradient of a batch as the sum over chunks, in a fixed order, whoever computes each chunk.

The chunks of a batch depend on the training only, not on the number of processes. Therefore weights are
bit-equal for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: product of pairs and features from which a batch is divided, and that of each of more than two chunks: a
#: chunk costs some 5 ms whatever is in it
_DIVIDED, _CHUNK = 60_000, 180_000
_MOST = 8
_TABLES = "_index"

Part = dict[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """Loss of the forces of a chunk.

    Attributes
    ----------
    name, arguments
        Function of ``torch.nn.functional`` that is a mean over components, and its keywords.
    scale
        Factor on the gradient.
    """

    name: str
    arguments: Mapping[str, Any]
    scale: float

    @property
    def function(self) -> Callable[..., Tensor]:
        """The function."""
        found: Callable[..., Tensor] = getattr(functional, self.name)
        return found


@dataclass(frozen=True)
class Gradient:
    """Loss of a chunk, weighted by its share of the batch, and its gradient; None: no part of the loss."""

    loss: Tensor
    parts: tuple[Tensor | None, ...]


def n_chunks(batch_size: int, n_beads: float, features: int) -> int:
    """Return the number of chunks of a batch of molecules with (on average) ``n_beads`` beads."""
    work = batch_size * n_beads * (n_beads - 1) / 2 * features
    if work < _DIVIDED or batch_size < 2:
        return 1
    return int(min(max(2, work // _CHUNK), _MOST, batch_size))


def split(batch: Any, n: int) -> list[Part]:
    """Return at most ``n`` parts with equal numbers of molecules, give or take one.

    The tensors are copies: results of torch can depend on the alignment in memory.
    """
    molecule = batch.batch
    count = int(molecule[-1]) + 1
    edges = [count * k // n for k in range(n + 1)]
    edges = sorted(set(edges))
    beads = torch.searchsorted(molecule, torch.tensor(edges)).tolist()
    tensors = {k: v for k, v in batch.to_dict().items() if isinstance(v, Tensor)}
    parts = []
    for k, first in enumerate(edges[:-1]):
        lo, hi = beads[k], beads[k + 1]
        part = {}
        for name, value in tensors.items():
            if name.endswith(_TABLES):
                mine = (value[0] >= lo) & (value[0] < hi)
                part[name] = value[:, mine] - lo
            else:
                part[name] = value[lo:hi].clone()
        part["batch"] -= first
        parts.append(part)
    return parts


def chunk_gradient(
    model: nn.Module, parameters: Sequence[nn.Parameter], part: Part, total: int, loss: Loss
) -> Gradient:
    """Return loss and gradient of a chunk of a batch with ``total`` beads.

    With ``prior_forces`` ``(n_beads, 3)`` in ``part``, only the network is evaluated.
    """
    priors = part.get("prior_forces")
    if priors is not None:
        network: Callable[..., tuple[Tensor, Tensor]] = getattr(model, "network")  # noqa: B009  of CGNet
        y, forces = network(part["z"], part["pos"], part["batch"])
        forces = forces + priors
    else:
        extra = {k: v for k, v in part.items() if k not in ("z", "pos", "batch", "neg_dy")}
        y, forces = model(part["z"], part["pos"], batch=part["batch"], extra_args=extra)
    forces = forces + y.sum() * 0  # as LNNP: parameters of the energy alone have a gradient of zero
    value = loss.function(forces, part["neg_dy"], **loss.arguments) * (len(forces) / total)
    gradient = torch.autograd.grad(value * loss.scale, parameters, allow_unused=True)
    return Gradient(value.detach(), tuple(gradient))


def total_gradient(gradients: Sequence[Gradient]) -> Gradient:
    """Return the sum, in the given order."""
    loss = gradients[0].loss
    parts = list(gradients[0].parts)
    for each in gradients[1:]:
        loss = loss + each.loss
        for i, part in enumerate(each.parts):
            mine = parts[i]
            parts[i] = part if mine is None else mine if part is None else mine + part
    return Gradient(loss, tuple(parts))
