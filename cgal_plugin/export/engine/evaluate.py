"""Energies and forces of all replicas; a few replicas at a time, so that their data stay in cache."""

from __future__ import annotations

import math

import numpy as np

from cgal_plugin.export.engine.dense import activate, product
from cgal_plugin.export.engine.jit import Float32s, Float64s, Int64s, entry, kernel
from cgal_plugin.export.engine.pairs import find_pairs, gather, push, slopes, slopes_and_gather
from cgal_plugin.export.engine.priors import angle_energy, dihedral_energy, pair_energy, series_energy
from cgal_plugin.export.engine.simd import LANES, ORDER, fma, load, splat, store, total

# indices of `sizes`
N_BEADS, N_BLOCKS, WIDTH, FILTERS, INTERVALS, KIND, N_HIDDEN, N_CHUNK = range(8)
HEAD = 8
# offsets of a block's matrices in `weights`, from sizes[HEAD + BLOCK * block]
LIN1, LIN1_BACK, LIN2, LIN2_BIAS, LIN2_BACK, LIN, LIN_BIAS, LIN_BACK, BLOCK = range(9)
# offsets of a layer of the output MLP; the last layer has width 1 and its bias is in `scalars`
OUT_WIDTH, OUT, OUT_BIAS, OUT_BACK, LAYER = range(5)
# indices of `scalars`
SCALE, SHIFT, LAST_BIAS, FACTOR = 5, 6, 7, 8


@kernel
def _finite(pos: Float64s, first: int, n: int) -> bool:
    for i in range(first, first + n):
        if not (math.isfinite(pos[i, 0]) and math.isfinite(pos[i, 1]) and math.isfinite(pos[i, 2])):
            return False
    return True


@kernel
def _fill(x: Float32s, at: int, n: int, value: np.float32) -> None:
    for c in range(at, at + n):
        x[c] = value


@kernel
def _multiply(x: Float32s, x_at: int, y: Float32s, y_at: int, n: int) -> None:
    """Multiply x by y in place."""
    for c in range(0, n, LANES):
        store(x, x_at + c, load(x, x_at + c) * load(y, y_at + c))


@kernel
def forward(
    sizes: Int64s,
    weights: Float32s,
    zeros: Float32s,
    table: Float32s,
    start: Float32s,
    first_v: Float32s,
    count: int,
    rows: Int64s,
    place: Float32s,
    n_rows: int,
    work: Float32s,
    at: Int64s,
) -> None:
    """Compute bead features; ``at`` holds the offsets of h, v, summed, slope and scratch in ``work``.

    v = lin1(h) and the activation derivatives of every block are kept for :func:`backward`.
    """
    width, filters, blocks = sizes[WIDTH], sizes[FILTERS], sizes[N_BLOCKS]
    h, v, summed, slope, scratch = at[0], at[1], at[2], at[3], at[4]
    n = n_rows * width
    for c in range(n):
        work[h + c] = start[c]
    for c in range(n_rows * filters):
        work[v + c] = first_v[c]
    for b in range(blocks):
        block = HEAD + BLOCK * b
        v_b, slope_b = v + b * n_rows * filters, slope + b * n
        if b > 0:
            product(work, h, n_rows, width, weights, sizes[block + LIN1], filters, work, v_b, zeros, 0, False)
        _fill(work, summed, n_rows * filters, np.float32(0.0))
        table_at = b * sizes[INTERVALS] * ORDER * filters
        gather(count, rows, place, table, table_at, filters, work, v_b, work, summed)
        w, bias = sizes[block + LIN2], sizes[block + LIN2_BIAS]
        product(work, summed, n_rows, filters, weights, w, width, work, slope_b, weights, bias, False)
        activate(sizes[KIND], work, slope_b, n, work, scratch, work, slope_b)
        w, bias = sizes[block + LIN], sizes[block + LIN_BIAS]
        product(work, scratch, n_rows, width, weights, w, width, work, h, weights, bias, True)


@kernel
def readout(
    sizes: Int64s,
    scalars: Float64s,
    weights: Float32s,
    zeros: Float32s,
    n_rows: int,
    work: Float32s,
    h: int,
    out: int,
    g: int,
    swap: int,
    bead_energy: Float64s,
) -> None:
    """Compute bead energies, and dE/dh at ``g``; ``out`` and ``swap`` are scratch for the output MLP."""
    hidden, x, size = sizes[N_HIDDEN], h, sizes[WIDTH]
    layers = HEAD + BLOCK * sizes[N_BLOCKS]
    place = out
    for k in range(hidden):
        layer = layers + LAYER * k
        width = sizes[layer + OUT_WIDTH]
        w, bias = sizes[layer + OUT], sizes[layer + OUT_BIAS]
        product(work, x, n_rows, size, weights, w, width, work, place, weights, bias, False)
        slope = place + n_rows * width
        activate(sizes[KIND], work, place, n_rows * width, work, place, work, slope)
        x, size, place = place, width, slope + n_rows * width
    last = sizes[layers + LAYER * hidden + OUT]
    scale = splat(np.float32(scalars[SCALE]))
    # gradients alternate between two buffers; the last one is written to g
    here, other = (swap, g) if hidden % 2 else (g, swap)
    for i in range(n_rows):
        e = splat(np.float32(0.0))
        for c in range(0, size, LANES):
            w_c = load(weights, last + c)
            e = fma(w_c, load(work, x + i * size + c), e)
            store(work, here + i * size + c, scale * w_c)
        bead_energy[i] = total(e) + scalars[LAST_BIAS]
    for k in range(hidden - 1, -1, -1):
        layer = layers + LAYER * k
        width = sizes[layer + OUT_WIDTH]
        before = sizes[WIDTH] if k == 0 else sizes[layer - LAYER + OUT_WIDTH]
        place -= n_rows * width
        _multiply(work, here, work, place, n_rows * width)
        place -= n_rows * width
        back = sizes[layer + OUT_BACK]
        product(work, here, n_rows, width, weights, back, before, work, other, zeros, 0, False)
        here, other = other, here


@kernel
def backward(
    sizes: Int64s,
    weights: Float32s,
    zeros: Float32s,
    table: Float32s,
    count: int,
    rows: Int64s,
    place: Float32s,
    geometry: Float64s,
    n_rows: int,
    work: Float32s,
    at: Int64s,
    g: int,
    dr: Float64s,
) -> None:
    """Compute dE/dr of every pair from dE/dh at ``g``, which is overwritten."""
    width, filters = sizes[WIDTH], sizes[FILTERS]
    v, out, slope, scratch, m = at[1], at[2], at[3], at[4], at[5]
    n = n_rows * width
    for b in range(sizes[N_BLOCKS] - 1, -1, -1):
        block = HEAD + BLOCK * b
        v_b = v + b * n_rows * filters
        back = sizes[block + LIN_BACK]
        product(work, g, n_rows, width, weights, back, width, work, scratch, zeros, 0, False)
        _multiply(work, scratch, work, slope + b * n, n)
        back = sizes[block + LIN2_BACK]
        product(work, scratch, n_rows, width, weights, back, filters, work, m, zeros, 0, False)
        t = b * sizes[INTERVALS] * ORDER * filters
        if b == 0:
            slopes(count, rows, place, geometry, table, t, filters, work, v_b, work, m, dr)
            return
        _fill(work, out, n_rows * filters, np.float32(0.0))
        slopes_and_gather(count, rows, place, geometry, table, t, filters, work, v_b, work, m, work, out, dr)
        back = sizes[block + LIN1_BACK]
        product(work, out, n_rows, filters, weights, back, width, work, g, zeros, 0, True)


@entry
def evaluate(
    pos: Float64s,
    sizes: Int64s,
    scalars: Float64s,
    weights: Float32s,
    zeros: Float32s,
    table: Float32s,
    start: Float32s,
    first_v: Float32s,
    pair_index: Int64s,
    pair_value: Float64s,
    series_index: Int64s,
    series_value: Float64s,
    angle_index: Int64s,
    angle_value: Float64s,
    dihedral_index: Int64s,
    dihedral_value: Float64s,
    work: Float32s,
    at: Int64s,
    rows: Int64s,
    place: Float32s,
    geometry: Float64s,
    dr: Float64s,
    bead_energy: Float64s,
    energies: Float64s,
    forces: Float64s,
) -> None:
    """Compute energies ``(R,)`` kJ/mol and forces ``(R·N, 3)`` kJ/mol/nm of ``pos`` ``(R·N, 3)`` nm.

    :func:`cgal_plugin.export.engine.layout.arguments` makes the arguments between ``pos`` and ``energies``.
    A replica with non-finite positions gets NaN and does not affect the others.
    """
    n, chunk, unit, factor = sizes[N_BEADS], sizes[N_CHUNK], scalars[4], scalars[FACTOR]
    replicas = energies.shape[0]
    for begin in range(0, replicas, chunk):
        size = min(chunk, replicas - begin)
        count, n_rows = 0, size * n
        for r in range(size):
            first = (begin + r) * n
            forces[first : first + n] = 0.0
            energies[begin + r] = scalars[SHIFT]
            if not _finite(pos, first, n):
                forces[first : first + n] = np.nan
                energies[begin + r] = np.nan
                continue
            count = find_pairs(pos, first, n, r * n, count, scalars, sizes[INTERVALS], rows, place, geometry)
            e = pair_energy(pos, first, unit, factor * unit, pair_index, pair_value, forces)
            e += series_energy(pos, first, unit, factor * unit, series_index, series_value, forces)
            e += angle_energy(pos, first, unit, factor * unit, angle_index, angle_value, forces)
            e += dihedral_energy(pos, first, unit, factor * unit, dihedral_index, dihedral_value, forces)
            energies[begin + r] += e
        dr[:count] = 0.0
        forward(sizes, weights, zeros, table, start, first_v, count, rows, place, n_rows, work, at)
        readout(sizes, scalars, weights, zeros, n_rows, work, at[0], at[6], at[7], at[8], bead_energy)
        backward(sizes, weights, zeros, table, count, rows, place, geometry, n_rows, work, at, at[7], dr)
        push(count, rows, geometry, dr, begin * n, factor * unit, forces)
        for r in range(size):
            e = 0.0
            for i in range(r * n, r * n + n):
                e += bead_energy[i]
            energies[begin + r] = (energies[begin + r] + e * scalars[SCALE]) * factor
