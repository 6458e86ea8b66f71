"""Filters of a CGSchNet and their derivatives with respect to distance, as a TorchScript module.

A filter depends on one distance only, so this module hides how filters are computed:
``forward(r) -> (W, dW/dr)`` for all blocks at once. The derivative is computed together with the value
(forward mode), so the backward pass of the network does not run the filter MLPs again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgal_plugin.errors import ExportError

if TYPE_CHECKING:
    from cgal_plugin.models.weights import CGSchNetWeights, LinearWeights

ACTIVATIONS = {"silu": 0, "swish": 0, "tanh": 1, "ssp": 2, "sigmoid": 3, "mish": 4}


def activation(x: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Return an activation and its derivative; ``kind`` is a value of :data:`ACTIVATIONS`."""
    if kind == 0:
        s = torch.sigmoid(x)
        a = x * s
        return a, s + a * (1.0 - s)
    if kind == 1:
        a = torch.tanh(x)
        return a, 1.0 - a * a
    if kind == 2:
        # TorchMD-Net's shift is ln 2 rounded to float32
        return torch.nn.functional.softplus(x) - 0.6931471824645996, torch.sigmoid(x)
    if kind == 3:
        s = torch.sigmoid(x)
        return s, s * (1.0 - s)
    t = torch.tanh(torch.nn.functional.softplus(x))
    return x * t, t + x * (1.0 - t * t) * torch.sigmoid(x)


def cosine_cutoff(r: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
    """Return TorchMD-Net's cosine cutoff and its derivative, with the same strict inequalities.

    ½(cos(πr/hi) + 1) below hi, or for lo > 0 ½(cos(π(2(r−lo)/(hi−lo) + 1)) + 1) between lo and hi.
    """
    if lower > 0.0:
        slope = 2.0 * math.pi / (upper - lower)
        phase = slope * (r - lower) + math.pi
        inside = ((r < upper) & (r > lower)).to(r.dtype)
    else:
        slope = math.pi / upper
        phase = slope * r
        inside = (r < upper).to(r.dtype)
    half = 0.5 * inside
    return half * (torch.cos(phase) + 1.0), (-slope) * half * torch.sin(phase)


class DistanceFilters(nn.Module):
    """The filters of all blocks: ``forward(r (m,) Å) -> W, dW/dr``, each ``(n_filters, m, G)``.

    The filter of a neighbour embedding is a separate module, :class:`LinearFilter`, on the same radial
    basis.
    """

    if TYPE_CHECKING:
        centers: Tensor
        widths: Tensor
        w_in: Tensor
        b_in: Tensor
        w_out: Tensor
        b_out: Tensor

    def __init__(self, weights: CGSchNetWeights) -> None:
        super().__init__()
        if weights.rbf_type not in ("expnorm", "gauss"):
            raise ExportError(f"radial basis {weights.rbf_type!r} is not known; use expnorm or gauss")
        if weights.activation not in ACTIVATIONS:
            raise ExportError(
                f"activation {weights.activation!r} is not known; use one of {sorted(ACTIVATIONS)}"
            )
        self.kind = ACTIVATIONS[weights.activation]
        self.expnorm = weights.rbf_type == "expnorm"
        self.alpha = float(weights.rbf_alpha)
        self.lower = float(weights.cutoff_lower)
        self.upper = float(weights.cutoff_upper)
        self.filter_lower = float(weights.filter_cutoff_lower)
        self.register_buffer("centers", weights.rbf_centers.clone())
        self.register_buffer("widths", weights.rbf_widths.clone())
        blocks = weights.blocks
        self.register_buffer("w_in", torch.stack([b.filter_in.weight.T for b in blocks]))
        self.register_buffer("b_in", torch.stack([bias_of(b.filter_in) for b in blocks]).unsqueeze(1))
        self.register_buffer("w_out", torch.stack([b.filter_out.weight.T for b in blocks]))
        self.register_buffer("b_out", torch.stack([bias_of(b.filter_out) for b in blocks]).unsqueeze(1))

    def basis(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the radial basis and its derivative, ``(m, K)`` each, for ``r (m, 1)``."""
        if self.expnorm:
            c, dc = cosine_cutoff(r, 0.0, self.upper)
            e = torch.exp(self.alpha * (self.lower - r))
            t = e - self.centers
            wt = self.widths * t
            g = torch.exp(-wt * t)
            rbf = c * g
            return rbf, dc * g + rbf * wt * (2.0 * self.alpha * e)
        t = r - self.centers
        wt = self.widths * t
        g = torch.exp(wt * t)
        return g, 2.0 * g * wt

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and dW/dr, ``(n_filters, m, G)``, for ``r (m,)``."""
        m = r.shape[0]
        r = r.unsqueeze(1)
        rbf, drbf = self.basis(r)
        c, dc = cosine_cutoff(r, self.filter_lower, self.upper)
        first = torch.matmul(torch.cat([rbf, drbf]), self.w_in)
        a, da = activation(first[:, :m] + self.b_in, self.kind)
        second = torch.matmul(torch.cat([a, da * first[:, m:]], 1), self.w_out)
        w = second[:, :m] + self.b_out
        return w * c, second[:, m:] * c + w * dc


class LinearFilter(nn.Module):
    """The filter of TorchMD-Net's neighbour embedding, ``proj(rbf(r))·C(r)``, and its derivative."""

    if TYPE_CHECKING:
        weight: Tensor
        bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, lower: float, upper: float) -> None:
        super().__init__()
        self.lower, self.upper = float(lower), float(upper)
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("bias", bias.clone())

    def forward(self, r: Tensor, rbf: Tensor, drbf: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and dW/dr, ``(m, F)``, for ``r (m, 1)`` and its basis."""
        c, dc = cosine_cutoff(r, self.lower, self.upper)
        w = torch.matmul(rbf, self.weight) + self.bias
        return w * c, torch.matmul(drbf, self.weight) * c + w * dc


def bias_of(layer: LinearWeights) -> Tensor:
    """Return the bias of a layer, zeros if it has none."""
    return layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
