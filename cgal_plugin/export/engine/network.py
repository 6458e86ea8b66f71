"""The network on the feature rows that one thread owns; a few rows at a time, so that they stay in cache."""

from __future__ import annotations

import numpy as np

from cgal_plugin.export.engine.arrays import (
    BLOCK,
    FILTERS,
    HEAD,
    HIDDEN,
    KIND,
    LAST_BIAS,
    LAYER,
    LIN,
    LIN1,
    LIN1_BACK,
    LIN2,
    LIN2_BACK,
    LIN2_BIAS,
    LIN_BACK,
    LIN_BIAS,
    N_BEADS,
    N_BLOCKS,
    N_HIDDEN,
    N_ROWS,
    OUT,
    OUT_BACK,
    OUT_BIAS,
    OUT_WIDTH,
    SCALE,
    SCRATCH,
    SLOPE,
    SUMMED,
    SWAP,
    SWAP_ODD,
    WIDEST,
    WIDTH,
    ZEROS,
    G,
    H,
    M,
    V,
)
from cgal_plugin.export.engine.dense import activate, product
from cgal_plugin.export.engine.jit import Float32s, Float64s, Int64s, kernel
from cgal_plugin.export.engine.simd import LANES, fma, load, splat, store, total

#: rows that are evaluated together
_ROWS = 120


@kernel
def fill(x: Float32s, at: int, n: int, value: np.float32) -> None:
    """Set ``n`` values."""
    for c in range(at, at + n):
        x[c] = value


@kernel
def _multiply(x: Float32s, x_at: int, y_at: int, n: int) -> None:
    """Multiply the values at ``x_at`` by those at ``y_at``."""
    for c in range(0, n, LANES):
        store(x, x_at + c, load(x, x_at + c) * load(x, y_at + c))


@kernel
def _layer(
    work: Float32s,
    row: int,
    rows: int,
    x: int,
    size: int,
    weights: Float32s,
    w: int,
    bias: int,
    y: int,
    width: int,
    add: np.int64,
) -> None:
    """Multiply ``rows`` rows from ``row`` of the buffer ``x`` by a matrix into the buffer ``y``."""
    product(work, x + row * size, rows, size, weights, w, width, y + row * width, bias, add)


@kernel
def first_features(
    sizes: Int64s,
    start: Float32s,
    first_v: Float32s,
    beads: Int64s,
    lo: int,
    hi: int,
    work: Float32s,
    at: Int64s,
) -> None:
    """Set h and v of the first block for rows ``lo .. hi``, from those of their beads."""
    width, filters, n = sizes[WIDTH], sizes[FILTERS], sizes[N_BEADS]
    for row in range(lo, hi):
        bead = beads[row] % n
        for c in range(0, width, LANES):
            store(work, at[H] + row * width + c, load(start, bead * width + c))
        for c in range(0, filters, LANES):
            store(work, at[V] + row * filters + c, load(first_v, bead * filters + c))


@kernel
def update(
    sizes: Int64s, weights: Float32s, block: int, lo: int, hi: int, work: Float32s, at: Int64s
) -> None:
    """Update h from the summed messages of a block; compute v = lin1(h) of the next one.

    v and the activation derivatives of every block are kept for :func:`backward`.
    """
    width, filters, offsets = sizes[WIDTH], sizes[FILTERS], HEAD + BLOCK * block
    slope = at[SLOPE] + block * at[N_ROWS] * width
    v = at[V] + (block + 1) * at[N_ROWS] * filters
    yes, no = np.int64(1), np.int64(0)
    for row in range(lo, hi, _ROWS):
        rows = min(_ROWS, hi - row)
        w, bias = sizes[offsets + LIN2], sizes[offsets + LIN2_BIAS]
        _layer(work, row, rows, at[SUMMED], filters, weights, w, bias, slope, width, no)
        here, scratch = slope + row * width, at[SCRATCH] + row * width
        activate(sizes[KIND], work, here, rows * width, scratch, here)
        w, bias = sizes[offsets + LIN], sizes[offsets + LIN_BIAS]
        _layer(work, row, rows, at[SCRATCH], width, weights, w, bias, at[H], width, yes)
        if block + 1 < sizes[N_BLOCKS]:
            w = sizes[offsets + BLOCK + LIN1]
            _layer(work, row, rows, at[H], width, weights, w, at[ZEROS], v, filters, no)


@kernel
def readout(
    sizes: Int64s,
    scalars: Float64s,
    weights: Float32s,
    lo: int,
    hi: int,
    work: Float32s,
    at: Int64s,
    bead_energy: Float64s,
) -> None:
    """Compute the bead energies of rows ``lo .. hi``, and dE/dh at ``at[G]``."""
    hidden, layers, no = sizes[N_HIDDEN], HEAD + BLOCK * sizes[N_BLOCKS], np.int64(0)
    last = sizes[layers + LAYER * hidden + OUT]
    scale = splat(np.float32(scalars[SCALE]))
    for row in range(lo, hi, _ROWS):
        rows = min(_ROWS, hi - row)
        x, size, place = at[H], sizes[WIDTH], at[HIDDEN]
        for k in range(hidden):
            layer = layers + LAYER * k
            width = sizes[layer + OUT_WIDTH]
            w, bias = sizes[layer + OUT], sizes[layer + OUT_BIAS]
            _layer(work, row, rows, x, size, weights, w, bias, place, width, no)
            slope = place + at[N_ROWS] * width
            here = place + row * width
            activate(sizes[KIND], work, here, rows * width, here, slope + row * width)
            x, size, place = place, width, slope + at[N_ROWS] * width
        # gradients alternate between two buffers, in which rows of any width start at the widest: these rows
        # must not reach those of another width; the last gradient is written to G
        here, other = at[SWAP] + row * at[WIDEST], at[SWAP_ODD] + row * at[WIDEST]
        if hidden == 0:
            here = at[G] + row * size
        for i in range(rows):
            e = splat(np.float32(0.0))
            for c in range(0, size, LANES):
                w_c = load(weights, last + c)
                e = fma(w_c, load(work, x + (row + i) * size + c), e)
                store(work, here + i * size + c, scale * w_c)
            bead_energy[row + i] = total(e) + scalars[LAST_BIAS]
        for k in range(hidden - 1, -1, -1):
            layer = layers + LAYER * k
            width = sizes[layer + OUT_WIDTH]
            before = sizes[WIDTH] if k == 0 else sizes[layer - LAYER + OUT_WIDTH]
            if k == 0:
                other = at[G] + row * before
            place -= at[N_ROWS] * width
            _multiply(work, here, place + row * width, rows * width)
            place -= at[N_ROWS] * width
            back = sizes[layer + OUT_BACK]
            product(work, here, rows, width, weights, back, before, other, at[ZEROS], no)
            here, other = other, here


@kernel
def backward(
    sizes: Int64s, weights: Float32s, block: int, lo: int, hi: int, work: Float32s, at: Int64s
) -> None:
    """Compute m = dE/d(summed messages) of a block from dE/dh at ``at[G]``.

    dE/dh is first completed by dE/dv of the next block, which is in the buffer of the summed messages.
    """
    width, filters, offsets = sizes[WIDTH], sizes[FILTERS], HEAD + BLOCK * block
    slope = at[SLOPE] + block * at[N_ROWS] * width
    yes, no = np.int64(1), np.int64(0)
    for row in range(lo, hi, _ROWS):
        rows = min(_ROWS, hi - row)
        if block + 1 < sizes[N_BLOCKS]:
            back = sizes[offsets + BLOCK + LIN1_BACK]
            _layer(work, row, rows, at[SUMMED], filters, weights, back, at[ZEROS], at[G], width, yes)
        back = sizes[offsets + LIN_BACK]
        _layer(work, row, rows, at[G], width, weights, back, at[ZEROS], at[SCRATCH], width, no)
        _multiply(work, at[SCRATCH] + row * width, slope + row * width, rows * width)
        back = sizes[offsets + LIN2_BACK]
        m = at[M + block % 2]
        _layer(work, row, rows, at[SCRATCH], width, weights, back, at[ZEROS], m, filters, no)
