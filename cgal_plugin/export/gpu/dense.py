"""Matrix products of the network with their epilogues: bias, activation, product with a derivative.

y = x W with x ``(rows, size)`` inside rows of ``x_stride`` values and W ``(size, width)``, all float32 and
``size`` and ``width`` multiples of :data:`GROUP`. Two kernels with the same arguments: ``product_split``
for few rows (a warp computes 32 columns of one row and splits the sum in four, so that one molecule
occupies many SMs for a short time), ``product_blocked`` for many (8 rows × 4 columns per thread:
32 multiply-adds per 12 loaded values, which reach L1 as 24 wavefronts per 32 FMA cycles).
"""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

from __future__ import annotations

import warp as wp

from cgal_plugin.export.gpu.native import load4, place_of, product_of_rows, store4, sum_parts

wp.set_module_options({"enable_backward": False})

# epilogues
LINEAR, ACTIVATE, MULTIPLY = 0, 1, 2
_LINEAR, _ACTIVATE = wp.constant(LINEAR), wp.constant(ACTIVATE)


@wp.func
def activation(x: wp.float32, kind: wp.int32):
    """Return activation and derivative; kinds as in ``export.filters.ACTIVATIONS``."""
    value = wp.float32(0.0)
    slope = wp.float32(0.0)
    if kind == 1:
        value = wp.tanh(x)
        slope = 1.0 - value * value
    else:
        e = wp.exp(-wp.abs(x))
        s = 1.0 / (1.0 + e)
        if x < 0.0:
            s = e / (1.0 + e)
        if kind == 0:
            value = x * s
            slope = s + value * (1.0 - s)
        elif kind == 3:
            value = s
            slope = s * (1.0 - s)
        else:
            soft = wp.max(x, 0.0) + wp.log(1.0 + e)
            if kind == 2:
                # TorchMD-Net's shift is ln 2 rounded to float32
                value = soft - 0.6931471824645996
                slope = s
            else:
                t = wp.tanh(soft)
                value = x * t
                slope = t + x * (1.0 - t * t) * s
    return value, slope


@wp.func
def finish(
    sums: wp.vec4f,
    row: wp.int32,
    column: wp.int32,
    mode: wp.int32,
    kind: wp.int32,
    width: wp.int32,
    bias: wp.array(dtype=wp.float32),
    bias_rows: wp.int32,
    gain: wp.array(dtype=wp.float32),
    other: wp.array(dtype=wp.float32),
    other_stride: wp.int32,
    other_at: wp.int32,
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
    y_at: wp.int32,
):
    """Store four columns of a row.

    LINEAR: y = sums + bias. ACTIVATE: y = act(sums + bias), other = act'·gain. MULTIPLY: y = sums·other.
    """
    to = row * y_stride + y_at + column
    at = row * other_stride + other_at + column
    if mode == 2:
        store4(y, to, wp.cw_mul(sums, load4(other, at)))
    else:
        z = sums + load4(bias, (row % bias_rows) * width + column)
        if mode == 1:
            value = wp.vec4f()
            slope = wp.vec4f()
            for c in range(4):
                a, d = activation(z[c], kind)
                value[c] = a
                slope[c] = d
            store4(y, to, value)
            store4(other, at, wp.cw_mul(slope, load4(gain, column)))
        else:
            store4(y, to, z)


@wp.kernel
def product_split(
    x: wp.array(dtype=wp.float32),
    x_stride: wp.int32,
    x_at: wp.int32,
    w: wp.array(dtype=wp.float32),
    rows: wp.int32,
    size: wp.int32,
    width: wp.int32,
    mode: wp.int32,
    kind: wp.int32,
    bias: wp.array(dtype=wp.float32),
    bias_rows: wp.int32,
    gain: wp.array(dtype=wp.float32),
    other: wp.array(dtype=wp.float32),
    other_stride: wp.int32,
    other_at: wp.int32,
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
    y_at: wp.int32,
    lanes: wp.int32,
    parts: wp.int32,
):
    """Launch with rows · (width / 32) · lanes · parts threads, in this order."""
    row, group, thread = place_of(wp.tid(), width // 32, lanes * parts)
    part = thread // lanes
    for lane in range(thread % lanes, 8, lanes):
        column = group * 32 + lane * 4
        sums = wp.vec4f()
        for k in range(part * 8, size, parts * 8):
            at = row * x_stride + x_at + k
            a = load4(x, at)
            b = load4(x, at + 4)
            for m in range(4):
                sums += a[m] * load4(w, (k + m) * width + column)
            for m in range(4):
                sums += b[m] * load4(w, (k + 4 + m) * width + column)
        sums = sum_parts(sums)
        if part == 0:
            finish(
                sums, row, column, mode, kind, width, bias, bias_rows, gain,
                other, other_stride, other_at, y, y_stride, y_at,
            )  # fmt: skip


@wp.kernel
def product_blocked(
    x: wp.array(dtype=wp.float32),
    x_stride: wp.int32,
    x_at: wp.int32,
    w: wp.array(dtype=wp.float32),
    rows: wp.int32,
    size: wp.int32,
    width: wp.int32,
    mode: wp.int32,
    kind: wp.int32,
    bias: wp.array(dtype=wp.float32),
    bias_rows: wp.int32,
    gain: wp.array(dtype=wp.float32),
    other: wp.array(dtype=wp.float32),
    other_stride: wp.int32,
    other_at: wp.int32,
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
    y_at: wp.int32,
    lanes: wp.int32,
    parts: wp.int32,
):
    """Launch with ceil(rows / 8) · (width / 4) threads, in this order."""
    thread = wp.tid()
    block = thread // (width // 4)
    quad = thread % (width // 4)
    # the sums of 32 values take all registers: they are stored, and the epilogue takes one row at a time
    product_of_rows(
        x, x_at, x_stride, block * 8, rows, size, w, quad * 4, width, y, y_stride, y_at + quad * 4
    )
    for row in range(block * 8, wp.min(block * 8 + 8, rows)):
        finish(
            load4(y, row * y_stride + y_at + quad * 4),
            row, quad * 4, mode, kind, width, bias, bias_rows, gain,
            other, other_stride, other_at, y, y_stride, y_at,
        )  # fmt: skip
