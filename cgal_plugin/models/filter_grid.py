"""Filters from a grid of distances: an approximation that makes training steps cheaper.

A filter is a function of one distance. With a few hundred distances on a grid, and many thousand
pairs in a batch, it is cheaper to evaluate the filter's network on the grid and to interpolate, by
polynomials of degree 5 through the six nearest grid points. W and dW/dr are interpolated alike, so
that rounding is not amplified by the grid's spacing. Gradients are those of what is computed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["POINTS", "Stencils", "grid"]

#: grid points that one value is interpolated from
POINTS = 6


def grid(lo: float, hi: float, n: int, like: Tensor) -> Tensor:
    """``(n,)`` distances from ``lo`` to ``hi``, both included, with dtype and device of ``like``."""
    return torch.linspace(lo, hi, n, dtype=torch.float64, device=like.device).to(like.dtype)


class Stencils:
    """Which grid points each distance takes its value from, with which weights.

    Parameters
    ----------
    r
        ``(n_pairs,)`` Å, from ``lo`` to ``hi``.
    lo, hi, n
        Of the :func:`grid`; n at least :data:`POINTS`.
    """

    def __init__(self, r: Tensor, lo: float, hi: float, n: int) -> None:
        place = (r.double() - lo) * ((n - 1) / (hi - lo))
        # near the ends the stencil is one-sided, so that it never looks beyond the cutoffs
        first = (place.floor().long() - (POINTS // 2 - 1)).clamp(0, n - POINTS)
        points = torch.arange(POINTS, device=r.device)
        self.weights = _lagrange(place - first).to(r.dtype)
        self.index = first.unsqueeze(1) + points
        # the same sorted by grid point, for the gradient: which pairs each point gave to
        flat = self.index.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=n)
        self.start = counts.cumsum(0) - counts
        self.pair = order.div(POINTS, rounding_mode="floor")
        self.pair_weights = self.weights.reshape(-1).index_select(0, order)

    def __call__(self, table: Tensor) -> Tensor:
        """Values ``(n_pairs, G)`` from those on the grid, ``(n, G)``; differentiable once."""
        return _Interpolate.apply(table, self)


def _lagrange(u: Tensor) -> Tensor:
    """Weights ``(n, POINTS)`` of values at 0, 1, ... for the polynomial's value at u ``(n,)``."""
    columns = []
    for k in range(POINTS):
        others = [m for m in range(POINTS) if m != k]
        column = (u - others[0]) / math.prod(k - m for m in others)
        for m in others[1:]:
            column = column * (u - m)
        columns.append(column)
    return torch.stack(columns, dim=1)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, stencils: Stencils) -> Tensor:
        ctx.stencils = stencils
        return torch.nn.functional.embedding_bag(
            stencils.index, table, mode="sum", per_sample_weights=stencils.weights
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        s = ctx.stencils
        gradient = torch.nn.functional.embedding_bag(
            s.pair, g.contiguous(), s.start, mode="sum", per_sample_weights=s.pair_weights
        )
        return gradient, None
