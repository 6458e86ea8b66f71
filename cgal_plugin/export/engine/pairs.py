"""Pair list: every pair within the cutoffs once, with its place in the filter table.

Pairs are sorted by their rows i < j: those of row i are ``begin[i] .. stop[i]``. ``ends[p]`` holds j and the
interval of the filter table, ``place[p]`` the position t in [0, 1] within the interval, ``geometry[p]`` the
unit vector and dq/dr of the table coordinate q.
"""

from __future__ import annotations

import math

from cgal_plugin.export.engine.jit import Float32s, Float64s, Int32s, Int64s, kernel
from cgal_plugin.export.engine.tree import near_leaves


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
def _scan(
    x: Float64s,
    i: int,
    start: int,
    end: int,
    shift: int,
    count: int,
    most: int,
    scalars: Float64s,
    intervals: int,
    ends: Int32s,
    place: Float32s,
    geometry: Float64s,
) -> int:
    """Append the pairs of row ``i`` with rows ``start .. end`` of ``x`` (nm); return the new ``count``.

    ``shift`` is added to rows. Pairs from number ``most`` on are counted and not stored.
    """
    lower, upper, unit = scalars[0], scalars[0] + scalars[1], scalars[4]
    reach = (upper / unit) ** 2
    x_i, y_i, z_i = x[i, 0], x[i, 1], x[i, 2]
    for j in range(start, end):
        dx, dy, dz = x_i - x[j, 0], y_i - x[j, 1], z_i - x[j, 2]
        square = dx * dx + dy * dy + dz * dz
        if square > reach:
            continue
        # the distance of coincident beads is 1e-6 Å, as in the exported potential
        r = math.sqrt(max(square * unit * unit, 1e-12))
        if r >= upper or r <= lower:
            continue
        if count < most:
            q, dq = table_coordinate(r, scalars, intervals)
            k = min(int(q), intervals - 1)
            ends[count, 0], ends[count, 1] = j + shift, k
            place[count] = q - k
            geometry[count, 0], geometry[count, 1] = dx * unit / r, dy * unit / r
            geometry[count, 2], geometry[count, 3] = dz * unit / r, dq
        count += 1
    return count


@kernel
def find_pairs(
    pos: Float64s,
    first: int,
    n: int,
    row: int,
    own_begin: int,
    own_end: int,
    count: int,
    most: int,
    scalars: Float64s,
    intervals: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    place: Float32s,
    geometry: Float64s,
) -> int:
    """Append the pairs of beads ``own_begin .. own_end`` of a small molecule with later beads.

    The ``n`` beads of the molecule start at ``first`` in ``pos`` and have the rows from ``row``.
    """
    shift = row - first
    for i in range(first + own_begin, first + own_end):
        begin[i + shift] = min(count, most)
        count = _scan(pos, i, i + 1, first + n, shift, count, most, scalars, intervals, ends, place, geometry)
        stop[i + shift] = min(count, most)
    return count


@kernel
def find_pairs_of_leaves(
    x: Float64s,
    span: Int64s,
    box: Float64s,
    n_leaves: int,
    own_begin: int,
    own_end: int,
    near: Int64s,
    weight: Int64s,
    count: int,
    most: int,
    scalars: Float64s,
    intervals: int,
    begin: Int64s,
    stop: Int64s,
    ends: Int32s,
    place: Float32s,
    geometry: Float64s,
) -> int:
    """Append the pairs of the rows of some leaves with later rows; add pairs per leaf to ``weight``."""
    reach = ((scalars[0] + scalars[1]) / scalars[4]) ** 2
    for leaf in range(own_begin, own_end):
        candidates = near_leaves(box, n_leaves, leaf, reach, near)
        for i in range(span[n_leaves - 1 + leaf, 0], span[n_leaves - 1 + leaf, 1]):
            begin[i] = min(count, most)
            for k in range(candidates):
                node, before = n_leaves - 1 + near[k], count
                start = max(span[node, 0], i + 1)
                count = _scan(
                    x, i, start, span[node, 1], 0, count, most, scalars, intervals, ends, place, geometry
                )
                weight[leaf] += count - before
                weight[near[k]] += count - before
            stop[i] = min(count, most)
    return count


@kernel
def incoming_pairs(
    begin: Int64s, stop: Int64s, ends: Int32s, lo: int, hi: int, at: int, found: Int32s, most: int
) -> int:
    """List the pairs of rows below ``lo`` with rows ``lo .. hi``, from ``at`` on: pair and its lower row.

    Return the end of the list; entries from ``most`` on are counted and not stored.
    """
    for i in range(lo):
        p = stop[i] - 1
        while p >= begin[i] and ends[p, 0] >= hi:
            p -= 1
        while p >= begin[i] and ends[p, 0] >= lo:
            if at < most:
                found[at, 0], found[at, 1] = p, i
            at += 1
            p -= 1
    return at
