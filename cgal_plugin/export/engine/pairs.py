"""Pairs of beads: which there are, and what passes between them, both directions at once.

A pair in the list has the two rows of its beads, the interval of the filter table that its distance
falls into, the place t in [0, 1] there, the unit vector and dq/dr of the table's coordinate q.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cgal_plugin.export.engine.dense import FLAGS
from cgal_plugin.export.engine.simd import LANES, fma, load, splat, store, total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def table_coordinate(r, scalars, intervals):
    """q(r) in [0, intervals] and dq/dr; the inverse of ``tables.FilterTable.nodes``."""
    lower, span, share, decay = scalars[0], scalars[1], scalars[2], scalars[3]
    x = (r - lower) / span
    if decay == 0.0:
        return intervals * x, intervals / span
    e = math.exp(-decay * x)
    rest = (1.0 - share) / (1.0 - math.exp(-decay))
    return intervals * (share * x + rest * (1.0 - e)), intervals / span * (share + rest * decay * e)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def find_pairs(pos, first, n, row, count, scalars, intervals, rows, place, geometry):
    """Append the pairs within the cutoffs of one molecule, beads ``first`` … of ``pos`` (nm, float64).

    ``row`` is its first row among the features. Returns the new number of pairs.
    """
    lower, upper, unit = scalars[0], scalars[0] + scalars[1], scalars[4]
    reach = (upper / unit) ** 2
    for i in range(n):
        x, y, z = pos[first + i, 0], pos[first + i, 1], pos[first + i, 2]
        for j in range(i + 1, n):
            dx, dy, dz = x - pos[first + j, 0], y - pos[first + j, 1], z - pos[first + j, 2]
            square = dx * dx + dy * dy + dz * dz
            if square > reach:
                continue
            # coincident beads: 1e-6 Å, as in the exported potential
            r = math.sqrt(max(square * unit * unit, 1e-12))
            if r >= upper or r <= lower:
                continue
            q, dq = table_coordinate(r, scalars, intervals)
            k = min(int(q), intervals - 1)
            rows[count, 0], rows[count, 1], rows[count, 2] = row + i, row + j, k
            place[count] = q - k
            geometry[count, 0], geometry[count, 1] = dx * unit / r, dy * unit / r
            geometry[count, 2], geometry[count, 3] = dz * unit / r, dq
            count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def gather(count, rows, place, table, table_at, width, v, v_at, out, out_at):
    """out_i += W_ij v_j and out_j += W_ij v_i over all pairs, W from the table of one block."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (4 * width)
        t = splat(place[p])
        for c in range(0, width, LANES):
            w = fma(load(table, a + 3 * width + c), t, load(table, a + 2 * width + c))
            w = fma(fma(w, t, load(table, a + width + c)), t, load(table, a + c))
            store(out, out_at + i + c, fma(w, load(v, v_at + j + c), load(out, out_at + i + c)))
            store(out, out_at + j + c, fma(w, load(v, v_at + i + c), load(out, out_at + j + c)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def slopes(count, rows, place, geometry, table, table_at, width, v, v_at, m, m_at, dr):
    """dr += Σ dW_ij/dr (m_i v_j + m_j v_i), m the gradient by the summed messages."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (4 * width)
        t2, t3 = splat(np.float32(2.0) * place[p]), splat(np.float32(3.0) * place[p] * place[p])
        sum_ = splat(np.float32(0.0))
        for c in range(0, width, LANES):
            d = fma(load(table, a + 3 * width + c), t3, load(table, a + width + c))
            d = fma(load(table, a + 2 * width + c), t2, d)
            both = fma(
                load(m, m_at + i + c),
                load(v, v_at + j + c),
                load(m, m_at + j + c) * load(v, v_at + i + c),
            )
            sum_ = fma(d, both, sum_)
        dr[p] += total(sum_) * geometry[p, 3]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def slopes_and_gather(
    count, rows, place, geometry, table, table_at, width, v, v_at, m, m_at, out, out_at, dr
):
    """:func:`slopes`, and :func:`gather` of m into out, with one reading of the table."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (4 * width)
        t = splat(place[p])
        t2, t3 = splat(np.float32(2.0) * place[p]), splat(np.float32(3.0) * place[p] * place[p])
        sum_ = splat(np.float32(0.0))
        for c in range(0, width, LANES):
            c1, c2, c3 = load(table, a + width + c), load(table, a + 2 * width + c), load(table, a + 3 * width + c)
            w = fma(fma(fma(c3, t, c2), t, c1), t, load(table, a + c))
            d = fma(c2, t2, fma(c3, t3, c1))
            mi, mj = load(m, m_at + i + c), load(m, m_at + j + c)
            both = fma(mi, load(v, v_at + j + c), mj * load(v, v_at + i + c))
            sum_ = fma(d, both, sum_)
            store(out, out_at + i + c, fma(w, mj, load(out, out_at + i + c)))
            store(out, out_at + j + c, fma(w, mi, load(out, out_at + j + c)))
        dr[p] += total(sum_) * geometry[p, 3]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def push(count, rows, geometry, dr, first, factor, forces):
    """Forces of the network on the beads of a chunk, from dE/dr of its pairs."""
    for p in range(count):
        i, j = first + rows[p, 0], first + rows[p, 1]
        for c in range(3):
            f = factor * dr[p] * geometry[p, c]
            forces[i, c] -= f
            forces[j, c] += f
