"""Functions of a distance and their derivatives: cutoff and radial basis of :class:`CGSchNet`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cgal_plugin.models.cgschnet import CGSchNet


def cosine_cutoff(r: Tensor, lo: float, hi: float) -> tuple[Tensor, Tensor]:
    """Return C(r; lo, hi) of TorchMD-Net's ``CosineCutoff`` and dC/dr, both with the shape of ``r`` (Å)."""
    if lo > 0:
        rate = 2.0 * math.pi / (hi - lo)
        phase = rate * (r - lo) + math.pi
        inside = ((r < hi) & (r > lo)).to(r.dtype)
    else:
        rate = math.pi / hi
        phase = rate * r
        inside = (r < hi).to(r.dtype)
    return 0.5 * (torch.cos(phase) + 1.0) * inside, -0.5 * rate * torch.sin(phase) * inside


def radial_basis(net: CGSchNet, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return the radial basis and its derivative, each ``(n, num_rbf)``, at ``r`` ``(n,)`` Å."""
    basis, r = net.distance_expansion, r.unsqueeze(1)
    if net.rbf_type == "gauss":
        away = r - basis.offset
        value = torch.exp(basis.coeff * away.square())
        return value, 2.0 * basis.coeff * away * value
    cutoff, cutoff_slope = cosine_cutoff(r, 0.0, net.cutoff_upper)
    u = torch.exp(basis.alpha * (net.cutoff_lower - r))
    away = u - basis.means
    bell = torch.exp(-basis.betas * away.square())
    slope = cutoff_slope + cutoff * (2.0 * basis.alpha * basis.betas * u * away)
    return cutoff * bell, slope * bell
