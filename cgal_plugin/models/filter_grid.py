"""Interpolate filters from a grid of distances: an approximation that makes training steps faster.

A filter is a function of one distance. A batch has many thousand pairs, so it is cheaper to evaluate the
network of the filter on a few hundred grid points and to interpolate, by polynomials of degree 5 through the
six nearest grid points. W and dW/dr are interpolated separately, so that the spacing of the grid does not
amplify rounding. Gradients are exactly those of the interpolated filters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["POINTS", "Stencils", "grid"]

#: grid points per interpolated value
POINTS = 6


def grid(lo: float, hi: float, n: int, like: Tensor) -> Tensor:
    """Return ``(n,)`` distances from ``lo`` to ``hi``, both included, with dtype and device of ``like``."""
    return torch.linspace(lo, hi, n, dtype=torch.float64, device=like.device).to(like.dtype)


class Stencils:
    """Grid points and weights of the interpolation at each distance.

    Parameters
    ----------
    r
        ``(n_pairs,)`` Å, from ``lo`` to ``hi``.
    lo, hi, n
        Arguments of :func:`grid`; n is at least :data:`POINTS`.
    """

    def __init__(self, r: Tensor, lo: float, hi: float, n: int) -> None:
        place = (r.double() - lo) * ((n - 1) / (hi - lo))
        # near the ends the stencil is one-sided, so that it stays within the cutoffs
        first = (place.floor().long() - (POINTS // 2 - 1)).clamp(0, n - POINTS)
        points = torch.arange(POINTS, device=r.device)
        self.weights = _lagrange(place - first).to(r.dtype)
        self.index = first.unsqueeze(1) + points
        # for the gradient, the same entries sorted by grid point: the pairs that use each point
        flat = self.index.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=n)
        self.start = counts.cumsum(0) - counts
        self.pair = order.div(POINTS, rounding_mode="floor")
        self.pair_weights = self.weights.reshape(-1).index_select(0, order)

    def __call__(self, table: Tensor) -> Tensor:
        """Interpolate values on the grid ``(n, G)`` to ``(n_pairs, G)``; differentiable once."""
        return _interpolate(table, self)


def _lagrange(u: Tensor) -> Tensor:
    """Return the weights ``(n, POINTS)`` of values at 0, 1, ... in the polynomial's value at u ``(n,)``."""
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


#: torch does not annotate ``apply``
_interpolate: Callable[[Tensor, Stencils], Tensor] = _Interpolate.apply
