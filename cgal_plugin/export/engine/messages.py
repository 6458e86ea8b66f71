"""Messages and pair gradients of the feature rows that one thread owns.

A thread adds to its own rows ``lo .. hi`` only. It computes the pairs of its rows, and once more those of
lower rows with its own: ``incoming`` pairs. Each row receives its terms in ascending order of the other
row, so results do not depend on how rows are divided among threads.
"""

from __future__ import annotations

import numpy as np

from cgal_plugin.export.engine.jit import Float32s, Float64s, Int32s, Int64s, Lanes, exact_kernel, kernel
from cgal_plugin.export.engine.simd import LANES, ORDER, fma, load, splat, store, total


@kernel
def _slope_powers(t: np.float32) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Return 2t, 3t², 4t³ and 5t⁴ in every lane."""
    two, three, four, five = np.float32(2.0), np.float32(3.0), np.float32(4.0), np.float32(5.0)
    q = t * t
    return splat(two * t), splat(three * q), splat(four * q * t), splat(five * q * q)


@kernel
def _filter(table: Float32s, a: int, width: int, t: Lanes) -> Lanes:
    """Return W(t) of the channels at ``a`` in the table."""
    w = fma(load(table, a + 5 * width), t, load(table, a + 4 * width))
    w = fma(fma(w, t, load(table, a + 3 * width)), t, load(table, a + 2 * width))
    return fma(fma(w, t, load(table, a + width)), t, load(table, a))


@kernel
def gather(
    lo: int,
    hi: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    place: Float32s,
    incoming: Int32s,
    in_begin: int,
    in_end: int,
    table: Float32s,
    table_at: int,
    width: int,
    x: Float32s,
    v_at: int,
    out_at: int,
    unused: int,
) -> None:
    """Add Σ_j W_ij v_j to out_i for the own rows i, with W from the table of one block.

    v and out are in ``x`` at ``v_at`` and ``out_at``; what belongs to rows of other threads is written to
    ``unused``.
    """
    for q in range(in_begin, in_end):
        p = incoming[q, 0]
        v, out = v_at + incoming[q, 1] * width, out_at + ends[p, 0] * width
        a, t = table_at + ends[p, 1] * (ORDER * width), splat(place[p])
        for c in range(0, width, LANES):
            w = _filter(table, a + c, width, t)
            store(x, out + c, fma(w, load(x, v + c), load(x, out + c)))
    for row in range(lo, hi):
        i = row * width
        for p in range(begin[row], stop[row]):
            j = ends[p, 0] * width
            a, t = table_at + ends[p, 1] * (ORDER * width), splat(place[p])
            out_j = out_at + j if ends[p, 0] < hi else unused
            for c in range(0, width, LANES):
                w = _filter(table, a + c, width, t)
                store(x, out_at + i + c, fma(w, load(x, v_at + j + c), load(x, out_at + i + c)))
                store(x, out_j + c, fma(w, load(x, v_at + i + c), load(x, out_j + c)))


@kernel
def slopes(
    lo: int,
    hi: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    place: Float32s,
    geometry: Float64s,
    table: Float32s,
    table_at: int,
    width: int,
    x: Float32s,
    v_at: int,
    m_at: int,
    dr: Float64s,
) -> None:
    """Add Σ dW_ij/dr (m_i v_j + m_j v_i) to dr of the pairs of the own rows; m is dE/d(summed messages)."""
    for row in range(lo, hi):
        i = row * width
        for p in range(begin[row], stop[row]):
            j = ends[p, 0] * width
            a = table_at + ends[p, 1] * (ORDER * width)
            t2, t3, t4, t5 = _slope_powers(place[p])
            sum_ = splat(np.float32(0.0))
            for c in range(0, width, LANES):
                d = fma(load(table, a + 2 * width + c), t2, load(table, a + width + c))
                d = fma(load(table, a + 3 * width + c), t3, d)
                d = fma(load(table, a + 4 * width + c), t4, d)
                d = fma(load(table, a + 5 * width + c), t5, d)
                backward = load(x, m_at + j + c) * load(x, v_at + i + c)
                sum_ = fma(d, fma(load(x, m_at + i + c), load(x, v_at + j + c), backward), sum_)
            dr[p] += total(sum_) * geometry[p, 3]


@kernel
def slopes_and_gather(
    lo: int,
    hi: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    place: Float32s,
    geometry: Float64s,
    incoming: Int32s,
    in_begin: int,
    in_end: int,
    table: Float32s,
    table_at: int,
    width: int,
    x: Float32s,
    v_at: int,
    m_at: int,
    out_at: int,
    unused: int,
    dr: Float64s,
) -> None:
    """Do :func:`slopes` and :func:`gather` of m into out in one pass over the table."""
    for q in range(in_begin, in_end):
        p = incoming[q, 0]
        m, out = m_at + incoming[q, 1] * width, out_at + ends[p, 0] * width
        a, t = table_at + ends[p, 1] * (ORDER * width), splat(place[p])
        for c in range(0, width, LANES):
            w = _filter(table, a + c, width, t)
            store(x, out + c, fma(w, load(x, m + c), load(x, out + c)))
    for row in range(lo, hi):
        i = row * width
        for p in range(begin[row], stop[row]):
            j = ends[p, 0] * width
            a, t = table_at + ends[p, 1] * (ORDER * width), splat(place[p])
            out_j = out_at + j if ends[p, 0] < hi else unused
            t2, t3, t4, t5 = _slope_powers(place[p])
            sum_ = splat(np.float32(0.0))
            for c in range(0, width, LANES):
                c1, c2 = load(table, a + width + c), load(table, a + 2 * width + c)
                c3, c4 = load(table, a + 3 * width + c), load(table, a + 4 * width + c)
                c5 = load(table, a + 5 * width + c)
                w = fma(fma(fma(c5, t, c4), t, c3), t, c2)
                w = fma(fma(w, t, c1), t, load(table, a + c))
                d = fma(c5, t5, fma(c4, t4, fma(c3, t3, fma(c2, t2, c1))))
                mi, mj = load(x, m_at + i + c), load(x, m_at + j + c)
                backward = mj * load(x, v_at + i + c)
                sum_ = fma(d, fma(mi, load(x, v_at + j + c), backward), sum_)
                store(x, out_at + i + c, fma(w, mj, load(x, out_at + i + c)))
                store(x, out_j + c, fma(w, mi, load(x, out_j + c)))
            dr[p] += total(sum_) * geometry[p, 3]


@kernel
def pair_forces(
    lo: int, hi: int, begin: Int64s, stop: Int64s, geometry: Float64s, dr: Float64s, factor: float
) -> None:
    """Replace the unit vectors of the pairs of the own rows by forces: ``factor`` times the gradient."""
    for row in range(lo, hi):
        for p in range(begin[row], stop[row]):
            for c in range(3):
                geometry[p, c] *= factor * dr[p]


@exact_kernel
def push(
    lo: int,
    hi: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    geometry: Float64s,
    incoming: Int32s,
    in_begin: int,
    in_end: int,
    beads: Int64s,
    first: int,
    forces: Float64s,
) -> None:
    """Add the forces of :func:`pair_forces` on the own rows; row i is bead ``first + beads[i]``."""
    for q in range(in_begin, in_end):
        p = incoming[q, 0]
        j = first + beads[ends[p, 0]]
        for c in range(3):
            forces[j, c] += geometry[p, c]
    for row in range(lo, hi):
        i = first + beads[row]
        for p in range(begin[row], stop[row]):
            for c in range(3):
                forces[i, c] -= geometry[p, c]
            if ends[p, 0] < hi:
                j = first + beads[ends[p, 0]]
                for c in range(3):
                    forces[j, c] += geometry[p, c]
