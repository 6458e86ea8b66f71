"""Matrix products and activations of the fast engine, on flat float32 arrays with offsets.

Feature rows are padded to multiples of :data:`LANES`. A matrix is packed in panels of ``LANES`` columns,
``(width / LANES, size, LANES)``, so that the inner loop reads it sequentially.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.export.engine.jit import Float32s, Lanes, kernel
from cgal_plugin.export.engine.simd import (
    LANES,
    absolute,
    fma,
    load,
    make_tile,
    power_of_two,
    rounded,
    splat,
    store,
    where_less,
)

_f = np.float32
_tile1, _tile2, _tile3, _tile4, _tile5, _tile6 = (make_tile(rows) for rows in range(1, 7))


def pack(matrix: NDArray[np.floating]) -> Float32s:
    """Return a ``(size, width)`` matrix, both multiples of LANES, in panels; flat float32."""
    size, width = matrix.shape
    panels = matrix.astype(np.float32).reshape(size, width // LANES, LANES).transpose(1, 0, 2)
    return np.ascontiguousarray(panels).ravel()


@kernel
def product(
    x: Float32s,
    x_at: int,
    rows: int,
    size: int,
    w: Float32s,
    w_at: int,
    width: int,
    y_at: int,
    bias_at: int,
    add: np.int64,
) -> None:
    """Compute y ``(rows, width)`` = x ``(rows, size)`` w + bias, or add it to y if ``add`` is 1.

    x and y are in the same array; w and bias too.
    """
    tiles = (rows + 5) // 6
    for c in range(0, width, LANES):
        at_w, at_b, r = w_at + c * size, bias_at + c, 0
        for t in range(tiles):
            n = (rows - r) // (tiles - t)
            at_x, at_y = x_at + r * size, y_at + r * width + c
            if n == 6:
                _tile6(x, at_x, size, w, at_w, at_y, width, at_b, add)
            elif n == 5:
                _tile5(x, at_x, size, w, at_w, at_y, width, at_b, add)
            elif n == 4:
                _tile4(x, at_x, size, w, at_w, at_y, width, at_b, add)
            elif n == 3:
                _tile3(x, at_x, size, w, at_w, at_y, width, at_b, add)
            elif n == 2:
                _tile2(x, at_x, size, w, at_w, at_y, width, at_b, add)
            else:
                _tile1(x, at_x, size, w, at_w, at_y, width, at_b, add)
            r += n


@kernel
def exponential(x: Lanes) -> Lanes:
    """Return eˣ to float32 rounding: 2ⁿ times a polynomial on |r| ≤ ½ ln 2; x is clamped to ±87."""
    x = where_less(x, splat(_f(-87.0)), splat(_f(-87.0)), x)
    x = where_less(splat(_f(87.0)), x, splat(_f(87.0)), x)
    n = rounded(x * splat(_f(1.4426950408889634)))
    # ln 2 in two parts; the first has few digits, so its product with n is exact
    r = fma(n, splat(_f(-0.693359375)), x)
    r = fma(n, splat(_f(2.12194440e-4)), r)
    p = splat(_f(1.0 / 5040.0))
    p = fma(p, r, splat(_f(1.0 / 720.0)))
    p = fma(p, r, splat(_f(1.0 / 120.0)))
    p = fma(p, r, splat(_f(1.0 / 24.0)))
    p = fma(p, r, splat(_f(1.0 / 6.0)))
    p = fma(p, r, splat(_f(0.5)))
    p = fma(p, r, splat(_f(1.0)))
    p = fma(p, r, splat(_f(1.0)))
    return p * power_of_two(n)


@kernel
def hyperbolic_tangent(x: Lanes) -> Lanes:
    """Return tanh x from e^−2|x|, and from its series near 0, where that would lose digits."""
    one = splat(_f(1.0))
    e = exponential(splat(_f(-2.0)) * absolute(x))
    large = (one - e) / (one + e)
    large = where_less(x, splat(_f(0.0)), splat(_f(0.0)) - large, large)
    q = x * x
    p = splat(_f(62.0 / 2835.0))
    p = fma(p, q, splat(_f(-17.0 / 315.0)))
    p = fma(p, q, splat(_f(2.0 / 15.0)))
    p = fma(p, q, splat(_f(-1.0 / 3.0)))
    small = fma(p * q, x, x)
    return where_less(absolute(x), splat(_f(0.25)), small, large)


@kernel
def activate(
    kind: int,
    x: Float32s,
    x_at: int,
    n: int,
    value_at: int,
    slope_at: int,
) -> None:
    """Compute activation and derivative of ``n`` values; kinds as in ``export.filters.ACTIVATIONS``.

    Values and derivatives are stored in the same array, at ``value_at`` and ``slope_at``; one of them may be
    ``x_at``.
    """
    one = splat(_f(1.0))
    if kind == 0:
        for c in range(0, n, LANES):
            u = load(x, x_at + c)
            s = one / (one + exponential(splat(_f(0.0)) - u))
            a = u * s
            store(x, value_at + c, a)
            store(x, slope_at + c, fma(a, one - s, s))
    elif kind == 1:
        for c in range(0, n, LANES):
            t = hyperbolic_tangent(load(x, x_at + c))
            store(x, value_at + c, t)
            store(x, slope_at + c, one - t * t)
    elif kind == 3:
        for c in range(0, n, LANES):
            s = one / (one + exponential(splat(_f(0.0)) - load(x, x_at + c)))
            store(x, value_at + c, s)
            store(x, slope_at + c, s * (one - s))
    else:
        for c in range(n):
            input_ = float(x[x_at + c])
            e = math.exp(-abs(input_))
            sigmoid = 1.0 / (1.0 + e) if input_ >= 0.0 else e / (1.0 + e)
            soft = max(input_, 0.0) + math.log1p(e)
            if kind == 2:
                # TorchMD-Net's shift is ln 2 rounded to float32
                x[value_at + c] = soft - 0.6931471824645996
                x[slope_at + c] = sigmoid
            else:
                tanh = math.tanh(soft)
                x[value_at + c] = input_ * tanh
                x[slope_at + c] = tanh + input_ * (1.0 - tanh * tanh) * sigmoid
