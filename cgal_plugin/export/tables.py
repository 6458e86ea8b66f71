"""Filters of a CGSchNet as interpolation tables over the distance.

Quintic Hermite interpolation (value, first and second derivative at the nodes) in a coordinate q(r) that
is denser at short distances, where the exponential radial basis functions are narrow:
q = K (s x + (1 − s)(1 − e^{−ax})/(1 − e^{−a})) with x = (r − lo)/(hi − lo) and a = α (hi − lo). 64 to 96
intervals give a force error of 1e-6. Cubic interpolation in the same coordinate needs 1000 intervals, and
twice as many in r. The tables of all blocks therefore almost fit into the cache of one core. The tabulated
derivative is the exact derivative of the tabulated value and continuously differentiable, so forces are
the gradient of an energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cgal_plugin.errors import ExportError
from cgal_plugin.export.filters import activation

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: fraction of the intervals that is distributed evenly in r
EVEN_SHARE = 0.25
_INTERVALS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class FilterTable:
    """Coefficients ``(blocks, intervals, 6, G)`` float64 of polynomials in t ∈ [0, 1] within an interval.

    Attributes
    ----------
    lower, upper
        Å; filters are zero outside.
    decay
        a; with 0, q is linear in r.
    """

    coefficients: NDArray[np.float64]
    lower: float
    upper: float
    decay: float

    @property
    def intervals(self) -> int:
        """Number of intervals K."""
        return int(self.coefficients.shape[1])

    @classmethod
    def build(cls, filters: Any, intervals: int) -> FilterTable:
        """Tabulate a float64 ``DistanceFilters`` (scripted or not)."""
        lower, upper = float(filters.filter_lower), float(filters.upper)
        decay = float(filters.alpha) * (upper - lower) if filters.expnorm else 0.0
        ends = lower, upper, decay
        nodes = _nodes(intervals, lower, upper, decay)
        # one-sided derivatives at both ends, from inside the range
        inside = np.clip(nodes, lower + 1e-9, upper - 1e-9)
        w, dw, ddw = _derivatives(filters, inside)
        _, q1, q2 = (x if np.ndim(x) == 0 else x[:, None] for x in _coordinate(nodes, intervals, *ends))
        m = dw / q1
        s = (ddw - m * q2) / q1**2
        m0, m1, s0, s1 = m[:, :-1], m[:, 1:], s[:, :-1], s[:, 1:]
        rise = w[:, 1:] - w[:, :-1]
        quintic = [
            w[:, :-1],
            m0,
            0.5 * s0,
            10.0 * rise - 6.0 * m0 - 4.0 * m1 - 1.5 * s0 + 0.5 * s1,
            -15.0 * rise + 8.0 * m0 + 7.0 * m1 + 1.5 * s0 - s1,
            6.0 * rise - 3.0 * m0 - 3.0 * m1 - 0.5 * s0 + 0.5 * s1,
        ]
        return cls(np.stack(quintic, axis=2), lower, upper, decay)


def _derivatives(filters: Any, r: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return W and its first and second derivative, ``(blocks, m, G)``.

    The second derivative is forward-mode: differentiate a vector-Jacobian product with respect to its
    vector.
    """
    x = torch.from_numpy(r).requires_grad_(True)
    w, dw = filters(x)
    factor = torch.zeros_like(dw, requires_grad=True)
    (pulled,) = torch.autograd.grad(dw, x, factor, create_graph=True)
    (ddw,) = torch.autograd.grad(pulled.sum(), factor)
    return w.detach().numpy(), dw.detach().numpy(), ddw.numpy()


def _coordinate(r: Any, intervals: int, lower: float, upper: float, decay: float) -> tuple[Any, Any, Any]:
    """Return q(r), dq/dr and d²q/dr²."""
    span = upper - lower
    x = (r - lower) / span
    if decay == 0.0:
        return intervals * x, intervals / span, 0.0
    e = np.exp(-decay * x)
    rest = (1.0 - EVEN_SHARE) / (1.0 - math.exp(-decay))
    q = intervals * (EVEN_SHARE * x + rest * (1.0 - e))
    first = intervals / span * (EVEN_SHARE + rest * decay * e)
    return q, first, -intervals / span**2 * rest * decay**2 * e


def _nodes(intervals: int, lower: float, upper: float, decay: float) -> NDArray[np.float64]:
    """Return the distances at which q is an integer, by Newton's method from an interpolated guess."""
    grid = np.linspace(lower, upper, 100_001)
    whole = np.arange(intervals + 1, dtype=np.float64)
    r = np.interp(whole, _coordinate(grid, intervals, lower, upper, decay)[0], grid)
    for _ in range(3):
        q, dq, _ = _coordinate(r, intervals, lower, upper, decay)
        r = np.clip(r - (q - whole) / dq, lower, upper)
    return r


class TableFilters(nn.Module):
    """A :class:`FilterTable` with the interface of ``DistanceFilters``: ``forward(r (m,) Å) -> W, dW/dr``.

    Plain aten operations; both results are ``(blocks, m, G)``. The two polynomials of a distance are
    weighted sums of the same six rows, which ``embedding_bag`` computes in one pass.
    """

    if TYPE_CHECKING:
        rows: Tensor
        place: Tensor
        power: Tensor
        factor: Tensor

    def __init__(self, table: FilterTable, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_blocks, self.intervals, _, self.width = table.coefficients.shape
        # six rows per interval; the coefficients of all blocks are concatenated in a row
        rows = np.ascontiguousarray(table.coefficients.transpose(1, 2, 0, 3))
        self.register_buffer("rows", torch.from_numpy(rows.reshape(6 * self.intervals, -1)).to(dtype))
        powers = torch.arange(6)
        self.register_buffer("place", powers.repeat(2))
        # t^k, and k t^(k-1)
        self.register_buffer("power", torch.cat([powers, (powers - 1).clamp_min(0)]).to(dtype))
        self.register_buffer("factor", torch.cat([torch.ones(6), powers]).to(dtype))
        self.lower, self.upper, self.decay = table.lower, table.upper, table.decay
        self.share = EVEN_SHARE
        self.rest = (1.0 - EVEN_SHARE) / (1.0 - math.exp(-table.decay)) if table.decay else 0.0

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and dW/dr; zero outside the cutoffs."""
        span, n = self.upper - self.lower, r.shape[0]
        # in float64: q is large, and its rounding error is an error of t within the interval
        x = ((r.double() - self.lower) / span).clamp(0.0, 1.0)
        if self.decay == 0.0:
            q, dq = self.intervals * x, torch.full_like(x, self.intervals / span)
        else:
            e = torch.exp(-self.decay * x)
            q = self.intervals * (self.share * x + self.rest * (1.0 - e))
            dq = (self.share + self.rest * self.decay * e) * (self.intervals / span)
        k = q.to(torch.long).clamp(0, self.intervals - 1)
        inside = ((r < self.upper) & (r > self.lower)).to(r.dtype)
        t = (q - k).to(r.dtype).unsqueeze(1)
        each = torch.stack([inside, inside * dq.to(r.dtype)], 1).unsqueeze(2)
        weights = torch.pow(t, self.power).mul(self.factor).view(n, 2, 6) * each
        at = (6 * k).unsqueeze(1) + self.place
        starts = torch.arange(0, 12 * n, 6, device=r.device)
        found = torch.embedding_bag(self.rows, at.view(-1), starts, False, 0, False, weights.view(-1), False)[
            0
        ]
        both = found.view(n, 2, self.n_blocks, self.width)
        return both[:, 0].transpose(0, 1), both[:, 1].transpose(0, 1)


def stored_table(network: Any) -> FilterTable | None:
    """Return the table that an exported network uses, in the precision of its dtype; None if it has none."""
    filters = network.filters
    if not hasattr(filters, "rows"):
        return None
    rows = filters.rows.detach().double().cpu().numpy()
    shape = (int(filters.intervals), 6, int(filters.n_blocks), int(filters.width))
    coefficients = np.ascontiguousarray(rows.reshape(shape).transpose(2, 0, 1, 3))
    return FilterTable(coefficients, float(filters.lower), float(filters.upper), float(filters.decay))


def exact_filters(network: Any) -> Any:
    """Return the exact filters of an exported network, also if it uses tables."""
    exact = getattr(network, "exact", None)
    return network.filters if exact is None else exact


def reference_forces(network: Any, filters: Callable[[Tensor], Any], frame: NDArray[np.float64]) -> Any:
    """Return forces of the network in float64 by autograd, kcal/mol/Å.

    ``network`` is that of an exported potential; the beads of the frame use its first embeddings.
    ``filters`` returns W for distances. Independent of the analytical backward pass that it validates.
    """
    n = len(frame)
    pos = torch.from_numpy(np.array(frame, dtype=np.float64)).requires_grad_(True)
    i, j = torch.triu_indices(n, n, 1)
    r = (pos[i] - pos[j]).square().sum(1).clamp_min(1e-12).sqrt()
    w = filters(r)[0]
    h = network.h[:n]
    for block, w_b in zip(network.blocks.children(), w, strict=True):
        y = h @ block.lin1.T
        m = torch.zeros_like(y).index_add(0, i, w_b * y[j]).index_add(0, j, w_b * y[i])
        u = activation(m @ block.lin2.T + block.lin2_bias, network.kind)[0]
        h = h + u @ block.lin.T + block.lin_bias
    layers = list(network.output.children())
    for k, layer in enumerate(layers):
        h = h @ layer.weight.T + layer.bias
        if k < len(layers) - 1:
            h = activation(h, network.kind)[0]
    return -torch.autograd.grad(h.sum() * network.scale, pos)[0].numpy()


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest difference divided by the largest expected value."""
    largest = float(np.abs(expected).max())
    return float(np.abs(found - expected).max()) / largest if largest > 0.0 else float(np.abs(found).max())


def check_tolerance(tolerance: float) -> None:
    """Validate an error bound.

    Raises
    ------
    ExportError
        ``tolerance`` is not between 0 and 0.1.
    """
    if not (math.isfinite(tolerance) and 0.0 < tolerance < 0.1):
        raise ExportError(f"tolerance is {tolerance!r}; it must be between 0 and 0.1 (default 1e-6)")


def choose_table(
    network: Any,
    tolerance: float,
    frames: NDArray[np.float64],
    build: Callable[[Any, int], FilterTable] = FilterTable.build,
) -> tuple[FilterTable, float]:
    """Return the smallest table that reproduces the forces of the network, and its error.

    Parameters
    ----------
    network
        Network of an exported potential, float64.
    tolerance
        Largest error of a force component in a frame, relative to the largest component.
    frames
        :func:`~cgal_plugin.export.probes.probe_frames` of the potential, Å.
    build
        Makes the table of filters for a number of intervals.

    Raises
    ------
    ExportError
        ``tolerance`` is out of range, or 2048 intervals are not enough.
    """
    check_tolerance(tolerance)
    exact = exact_filters(network)
    expected = [reference_forces(network, exact, frame) for frame in frames]
    error = math.inf
    for intervals in _INTERVALS:
        table = build(exact, intervals)
        filters = TableFilters(table, torch.float64)
        found = [reference_forces(network, filters, frame) for frame in frames]
        error = max(relative_error(f, e) for f, e in zip(found, expected, strict=True))
        if error < tolerance:
            return table, error
    raise ExportError(
        f"a table of {_INTERVALS[-1]} intervals has a force error of {error:.1e}, not below {tolerance:.1e}; "
        "raise tolerance"
    )
