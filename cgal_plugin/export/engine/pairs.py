"""Pairs of beads: which there are, and what passes between them, both directions at once.

A pair in the list has the two rows of its beads, the interval of the filter table that its distance
falls into, the place t in [0, 1] there, the unit vector and dq/dr of the table's coordinate q.
"""

from __future__ import annotations

import math

import numpy as np

from cgal_plugin.export.engine.dense import kernel
from cgal_plugin.export.engine.simd import LANES, ORDER, fma, load, splat, store, total


@kernel
def table_coordinate(r, scalars, intervals):
    """q(r) in [0, intervals] and dq/dr; the inverse of ``tables.FilterTable.nodes``."""
    lower, span, share, decay = scalars[0], scalars[1], scalars[2], scalars[3]
    x = (r - lower) / span
    if decay == 0.0:
        return intervals * x, intervals / span
    e = math.exp(-decay * x)
    rest = (1.0 - share) / (1.0 - math.exp(-decay))
    return intervals * (share * x + rest * (1.0 - e)), intervals / span * (share + rest * decay * e)


@kernel
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


@kernel
def _slope_powers(t):
    """2t, 3t², 4t³ and 5t⁴ in every lane."""
    two, three, four, five = np.float32(2.0), np.float32(3.0), np.float32(4.0), np.float32(5.0)
    q = t * t
    return splat(two * t), splat(three * q), splat(four * q * t), splat(five * q * q)


@kernel
def gather(count, rows, place, table, table_at, width, v, v_at, out, out_at):
    """out_i += W_ij v_j and out_j += W_ij v_i over all pairs, W from the table of one block."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (ORDER * width)
        t = splat(place[p])
        for c in range(0, width, LANES):
            w = fma(load(table, a + 5 * width + c), t, load(table, a + 4 * width + c))
            w = fma(fma(w, t, load(table, a + 3 * width + c)), t, load(table, a + 2 * width + c))
            w = fma(fma(w, t, load(table, a + width + c)), t, load(table, a + c))
            store(out, out_at + i + c, fma(w, load(v, v_at + j + c), load(out, out_at + i + c)))
            store(out, out_at + j + c, fma(w, load(v, v_at + i + c), load(out, out_at + j + c)))


@kernel
def slopes(count, rows, place, geometry, table, table_at, width, v, v_at, m, m_at, dr):
    """dr += Σ dW_ij/dr (m_i v_j + m_j v_i), m the gradient by the summed messages."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (ORDER * width)
        t2, t3, t4, t5 = _slope_powers(place[p])
        sum_ = splat(np.float32(0.0))
        for c in range(0, width, LANES):
            d = fma(load(table, a + 2 * width + c), t2, load(table, a + width + c))
            d = fma(load(table, a + 3 * width + c), t3, d)
            d = fma(load(table, a + 4 * width + c), t4, d)
            d = fma(load(table, a + 5 * width + c), t5, d)
            both = fma(
                load(m, m_at + i + c),
                load(v, v_at + j + c),
                load(m, m_at + j + c) * load(v, v_at + i + c),
            )
            sum_ = fma(d, both, sum_)
        dr[p] += total(sum_) * geometry[p, 3]


@kernel
def slopes_and_gather(
    count, rows, place, geometry, table, table_at, width, v, v_at, m, m_at, out, out_at, dr
):
    """:func:`slopes`, and :func:`gather` of m into out, with one reading of the table."""
    for p in range(count):
        i, j = rows[p, 0] * width, rows[p, 1] * width
        a = table_at + rows[p, 2] * (ORDER * width)
        t = splat(place[p])
        t2, t3, t4, t5 = _slope_powers(place[p])
        sum_ = splat(np.float32(0.0))
        for c in range(0, width, LANES):
            c1, c2 = load(table, a + width + c), load(table, a + 2 * width + c)
            c3, c4 = load(table, a + 3 * width + c), load(table, a + 4 * width + c)
            c5 = load(table, a + 5 * width + c)
            w = fma(fma(fma(c5, t, c4), t, c3), t, c2)
            w = fma(fma(w, t, c1), t, load(table, a + c))
            d = fma(c5, t5, fma(c4, t4, fma(c3, t3, fma(c2, t2, c1))))
            mi, mj = load(m, m_at + i + c), load(m, m_at + j + c)
            both = fma(mi, load(v, v_at + j + c), mj * load(v, v_at + i + c))
            sum_ = fma(d, both, sum_)
            store(out, out_at + i + c, fma(w, mj, load(out, out_at + i + c)))
            store(out, out_at + j + c, fma(w, mi, load(out, out_at + j + c)))
        dr[p] += total(sum_) * geometry[p, 3]


@kernel
def push(count, rows, geometry, dr, first, factor, forces):
    """Forces of the network on the beads of a chunk, from dE/dr of its pairs."""
    for p in range(count):
        i, j = first + rows[p, 0], first + rows[p, 1]
        for c in range(3):
            f = factor * dr[p] * geometry[p, c]
            forces[i, c] -= f
            forces[j, c] += f
