"""Operations on pairs of beads in a training step, with explicit derivatives.

A force loss needs dE/dr of every pair as a function of the weights. A filter W(r) depends on one number, so
forward differentiation of the filter's network gives W and dW/dr together (:class:`Filters`). Then
dE/dr_p = Σ_f W'_pf (g_i h_j + g_j h_i)_f, with g = dE/dm at the messages m_i = Σ_j W_ij ⊙ h_j
(:class:`Convolution`). No distance is differentiated twice, so one backward pass through the filter's network
is enough, with value and slope stacked into one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cgal_plugin.errors import TrainingError

__all__ = ["Stage", "convolution", "derivatives", "filters"]

#: log 2 in single precision, as in TorchMD-Net's activation
_SHIFT = torch.log(torch.tensor(2.0, dtype=torch.float32)).item()

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # three times faster than torch.tanh on CPUs; the error is one rounding of numbers up to 1
    f = torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)
    first = torch.addcmul(x.new_ones(()), f, f, value=-1.0)
    return f, first, (f * first).mul_(-2.0)


def _silu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(x)
    f = x * s
    first = torch.addcmul(s, f, 1.0 - s)
    second = (s * (1.0 - s)).mul_(2.0 + x * (1.0 - 2.0 * s))
    return f, first, second


def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f = torch.sigmoid(x)
    first = f * (1.0 - f)
    return f, first, first * (1.0 - 2.0 * f)


def _shifted_softplus(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f, first, _ = _sigmoid(x)
    return nn.functional.softplus(x) - _SHIFT, f, first


_DERIVATIVES: dict[str, Derivatives] = {
    "tanh": _tanh,
    "silu": _silu,
    "swish": _silu,
    "sigmoid": _sigmoid,
    "ssp": _shifted_softplus,
}


def derivatives(activation: str) -> Derivatives | None:
    """Return the function ``x -> (f, f', f'')`` of an activation, or None if there is none (``mish``)."""
    return _DERIVATIVES.get(activation)


class Filters(torch.autograd.Function):
    """Filter and slope of every pair: ``(W, dW/dr)``, each ``(n_pairs, G)``.

    W = (act(rbf w1ᵀ + b1) w2ᵀ + b2)·C. Differentiable once, with respect to the radial basis and
    the weights but not the cutoff function. Arguments: ``rbf`` and its slope ``(n_pairs, K)``, C and
    its slope ``(n_pairs, 1)``, ``w1 (G, K)``, ``b1 (G,)``, ``w2 (G, G)``, ``b2 (G,)`` or None, and
    the activation's :func:`derivatives`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rbf: Tensor,
        slope: Tensor,
        cutoff: Tensor,
        cutoff_slope: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor | None,
        act: Derivatives,
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        n = rbf.shape[0]
        f, first, second = act(torch.addmm(b1, rbf, w1.t()))
        inner = slope @ w1.t()
        # value and slope of the hidden layer, times the cutoff, in one matrix
        hidden = rbf.new_empty(2 * n, w1.shape[0])
        torch.mul(f, cutoff, out=hidden[:n])
        torch.mul(first, inner, out=hidden[n:])
        hidden[n:].mul_(cutoff).addcmul_(f, cutoff_slope)
        both = hidden @ w2.t()
        if b2 is not None:
            both[:n].addcmul_(cutoff, b2)
            both[n:].addcmul_(cutoff_slope, b2)
        ctx.save_for_backward(rbf, slope, cutoff, cutoff_slope, w1, w2, first, second, inner, hidden)
        ctx.has_bias = b2 is not None
        return both[:n], both[n:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_value: Tensor, g_slope: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the radial basis, its slope, and the weights."""
        rbf, slope, cutoff, cutoff_slope, w1, w2, first, second, inner, hidden = ctx.saved_tensors
        n = rbf.shape[0]
        g = torch.cat([g_value, g_slope])
        g_w2 = g.t() @ hidden
        g_b2 = None
        if ctx.has_bias:
            g_b2 = (torch.cat([cutoff, cutoff_slope]).t() @ g).squeeze(0)
        g_hidden = g @ w2
        upper, lower = g_hidden[:n], g_hidden[n:]
        g_f = torch.addcmul(upper * cutoff, lower, cutoff_slope)
        g_product = lower * cutoff
        g_x = g_f.mul_(first).addcmul_(g_product * inner, second)
        g_inner = g_product.mul_(first)
        g_w1 = torch.addmm(g_x.t() @ rbf, g_inner.t(), slope)
        g_rbf = g_x @ w1 if ctx.needs_input_grad[0] else None
        g_rbf_slope = g_inner @ w1 if ctx.needs_input_grad[1] else None
        return g_rbf, g_rbf_slope, None, None, g_w1, g_x.sum(0), g_w2, g_b2, None


class Stage:
    """Flag that is set during the backward pass that computes forces."""

    def __init__(self) -> None:
        self.forces = False


def _ends(x: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Return x of both beads of every pair."""
    return x.index_select(0, i), x.index_select(0, j)


def _spread(x: Tensor, i: Tensor, j: Tensor, to_i: Tensor, to_j: Tensor) -> Tensor:
    """Return the sums over the pairs of each bead, with the shape of ``x``."""
    return torch.zeros_like(x).index_add_(0, i, to_i).index_add_(0, j, to_j)


class Convolution(torch.autograd.Function):
    """Messages m_i = Σ_j W_ij ⊙ h_j, ``(n_beads, G)``, over unordered pairs.

    Arguments: ``h (n_beads, G)``, the filters and their slopes ``(n_pairs, G)``, a tensor ``r``
    ``(n_pairs,)`` in place of the distances (its values are not read; its gradient is dE/dr), ``i``, ``j``
    ``(n_pairs,)`` and the :class:`Stage`. While ``stage.forces`` is set, the backward pass gives the
    gradients of h and r, which can be differentiated again. Otherwise it gives those of h and the filters,
    which cannot.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, w: Tensor, slope: Tensor, r: Tensor, i: Tensor, j: Tensor, stage: Stage
    ) -> Tensor:
        """See the class."""
        ctx.save_for_backward(h, w, slope, i, j)
        ctx.stage = stage
        hi, hj = _ends(h, i, j)
        return _spread(h, i, j, hj.mul_(w), hi.mul_(w))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        h, w, slope, i, j = ctx.saved_tensors
        if ctx.stage.forces:
            g_h, g_r = _convolution_gradient(g, h, w, slope, i, j)
            return g_h, None, None, g_r, None, None, None
        if torch.is_grad_enabled() and (g.requires_grad or h.requires_grad):
            raise TrainingError(
                "energies and forces of a model in training mode can be differentiated once; for higher "
                "derivatives call it with positions that require a gradient"
            )
        (gi, gj), (hi, hj) = _ends(g, i, j), _ends(h, i, j)
        g_w = hi.mul_(gj).addcmul_(hj, gi)
        return _spread(h, i, j, gj.mul_(w), gi.mul_(w)), g_w, None, None, None, None, None


class _ConvolutionGradient(torch.autograd.Function):
    """Gradients of :class:`Convolution` with respect to h and r, from g = dE/dm."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, h: Tensor, w: Tensor, slope: Tensor, i: Tensor, j: Tensor
    ) -> tuple[Tensor, Tensor]:
        (gi, gj), (hi, hj) = _ends(g, i, j), _ends(h, i, j)
        # the gradient of Σ g ⊙ m with respect to the filters
        cross = hj.mul_(gi).addcmul_(hi, gj)
        ctx.save_for_backward(g, h, w, slope, i, j, cross)
        ctx.set_materialize_grads(False)
        return _spread(h, i, j, gj.mul_(w), gi.mul_(w)), torch.linalg.vecdot(cross, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
        g, h, w, slope, i, j, cross = ctx.saved_tensors
        g_h = g_w = g_slope = None
        to_i = to_j = None
        gi, gj = _ends(g, i, j)
        if a is not None:
            ai, aj = _ends(a, i, j)
            g_w = torch.addcmul(gi * aj, gj, ai)
            to_i, to_j = aj.mul_(w), ai.mul_(w)
        if b is not None:
            b = b.unsqueeze(1)
            g_slope = cross * b
            scaled = slope * b
            hi, hj = _ends(h, i, j)
            to_i = hj.mul_(scaled) if to_i is None else to_i.addcmul_(hj, scaled)
            to_j = hi.mul_(scaled) if to_j is None else to_j.addcmul_(hi, scaled)
            g_h = _spread(h, i, j, gj.mul_(scaled), gi.mul_(scaled))
        g_g = None if to_i is None or to_j is None else _spread(g, i, j, to_i, to_j)
        return g_g, g_h, g_w, g_slope, None, None


# torch does not annotate ``apply``
filters: Callable[..., tuple[Tensor, Tensor]] = Filters.apply
convolution: Callable[..., Tensor] = Convolution.apply
_convolution_gradient: Callable[..., tuple[Tensor, Tensor]] = _ConvolutionGradient.apply
