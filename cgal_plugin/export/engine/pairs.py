"""Pair list, messages and pair gradients; each pair is processed once for both directions.

Per pair: ``rows`` holds the rows of its beads and the interval of the filter table, ``place`` the position
t in [0, 1] within the interval, ``geometry`` the unit vector and dq/dr of the table coordinate q.
"""

from __future__ import annotations

import math

import numpy as np

from cgal_plugin.export.engine.jit import Float32s, Float64s, Int64s, Lanes, kernel
from cgal_plugin.export.engine.simd import LANES, ORDER, fma, load, splat, store, total


@kernel
def table_coordinate(r: float, scalars: Float64s, intervals: int) -> tuple[float, float]:
    """Return q(r) in [0, intervals] and dq/dr, as in :mod:`cgal_plugin.export.tables`."""
    lower, span, share, decay = scalars[0], scalars[1], scalars[2], scalars[3]
    x = (r - lower) / span
    if decay == 0.0:
        return intervals * x, intervals / span
    e = math.exp(-decay * x)
    rest = (1.0 - share) / (1.0 - math.exp(-decay))
    return intervals * (share * x + rest * (1.0 - e)), intervals / span * (share + rest * decay * e)


@kernel
def find_pairs(
    pos: Float64s,
    first: int,
    n: int,
    row: int,
    count: int,
    scalars: Float64s,
    intervals: int,
    rows: Int64s,
    place: Float32s,
    geometry: Float64s,
) -> int:
    """Append the pairs within the cutoffs of one molecule, the ``n`` beads from ``first`` in ``pos`` (nm).

    ``row`` is the first feature row of the molecule. Return the new number of pairs.
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
            # the distance of coincident beads is 1e-6 Å, as in the exported potential
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
def _slope_powers(t: np.float32) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Return 2t, 3t², 4t³ and 5t⁴ in every lane."""
    two, three, four, five = np.float32(2.0), np.float32(3.0), np.float32(4.0), np.float32(5.0)
    q = t * t
    return splat(two * t), splat(three * q), splat(four * q * t), splat(five * q * q)


@kernel
def gather(
    count: int,
    rows: Int64s,
    place: Float32s,
    table: Float32s,
    table_at: int,
    width: int,
    v: Float32s,
    v_at: int,
    out: Float32s,
    out_at: int,
) -> None:
    """Add W_ij v_j to out_i and W_ij v_i to out_j for all pairs, with W from the table of one block."""
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
def slopes(
    count: int,
    rows: Int64s,
    place: Float32s,
    geometry: Float64s,
    table: Float32s,
    table_at: int,
    width: int,
    v: Float32s,
    v_at: int,
    m: Float32s,
    m_at: int,
    dr: Float64s,
) -> None:
    """Add Σ dW_ij/dr (m_i v_j + m_j v_i) to dr, where m is dE/d(summed messages)."""
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
    count: int,
    rows: Int64s,
    place: Float32s,
    geometry: Float64s,
    table: Float32s,
    table_at: int,
    width: int,
    v: Float32s,
    v_at: int,
    m: Float32s,
    m_at: int,
    out: Float32s,
    out_at: int,
    dr: Float64s,
) -> None:
    """Do :func:`slopes` and :func:`gather` of m into out in one pass over the table."""
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
def push(
    count: int,
    rows: Int64s,
    geometry: Float64s,
    dr: Float64s,
    first: int,
    factor: float,
    forces: Float64s,
) -> None:
    """Add the network forces on the beads of a chunk, from dE/dr of its pairs."""
    for p in range(count):
        i, j = first + rows[p, 0], first + rows[p, 1]
        for c in range(3):
            f = factor * dr[p] * geometry[p, c]
            forces[i, c] -= f
            forces[j, c] += f
