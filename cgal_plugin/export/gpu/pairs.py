"""Neighbour list, pair geometry, and messages over the list.

The list is full: each bead has its neighbours, sorted, in ``capacity`` slots, and ``reverse`` names the
slot of the other direction. All sums are therefore over the slots of one bead, in fixed order, without
atomics. A slot holds its filter as the interval and position in the table, which all blocks and channels
read: ``pair`` = neighbour + 2²⁰ · interval, or −1 outside the cutoffs; ``place`` = t in [0, 1].

The table ``[block][group of 32 channels][interval][coefficient 4][channel 32]`` is read one group after the
other by the whole device, so that a slice (300 intervals: 150 KB) stays in the L1 cache of each SM.
"""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

from __future__ import annotations

import warp as wp

from cgal_plugin.export.gpu.native import load4, messages, messages_back, place_of, store4, sum_all, sum_parts

wp.set_module_options({"enable_backward": False})

#: neighbours within a molecule, and table intervals, that fit in one int32
MAX_BEADS = 2**20
MAX_INTERVALS = 2**11


@wp.func
def separation(x: wp.array(dtype=wp.vec3d), i: wp.int32, j: wp.int32) -> wp.vec3d:
    """Return the vector from i to j, Å."""
    return x[j] - x[i]


@wp.func
def distance(d: wp.vec3d) -> wp.float64:
    """Return the length of a vector; that of coincident beads is 1e-6 Å, as in the exported potential."""
    return wp.sqrt(wp.max(wp.dot(d, d), wp.float64(1.0e-12)))


@wp.kernel
def check(
    x: wp.array(dtype=wp.vec3d),
    built: wp.array(dtype=wp.vec3d),
    n_beads: wp.int32,
    limit: wp.float64,
    lanes: wp.int32,
    lost: wp.array(dtype=wp.int32),
    stale: wp.array(dtype=wp.int32),
):
    """Mark replicas with non-finite positions, and those of which a bead moved by √limit since ``built``.

    Launch with replicas · lanes threads.
    """
    thread = wp.tid() % lanes
    replica = wp.tid() // lanes
    bad = wp.float64(0.0)
    moved = wp.float64(0.0)
    for i in range(replica * n_beads + thread, (replica + 1) * n_beads, lanes):
        p = x[i]
        if not (wp.isfinite(p[0]) and wp.isfinite(p[1]) and wp.isfinite(p[2])):
            bad = wp.float64(1.0)
        d = p - built[i]
        # also true for NaN: in a new list, and after a non-finite step
        if not (wp.dot(d, d) <= limit):
            moved = wp.float64(1.0)
    bad = sum_all(bad)
    moved = sum_all(moved)
    if thread == 0:
        lost[replica] = wp.where(bad > wp.float64(0.0), 1, 0)
        stale[replica] = wp.where(moved > wp.float64(0.0), 1, 0)


@wp.kernel
def find_neighbors(
    x: wp.array(dtype=wp.vec3d),
    stale: wp.array(dtype=wp.int32),
    n_beads: wp.int32,
    capacity: wp.int32,
    reach: wp.float64,
    built: wp.array(dtype=wp.vec3d),
    count: wp.array(dtype=wp.int32),
    neighbor: wp.array(dtype=wp.int32),
    overflow: wp.array(dtype=wp.int32),
):
    """Rebuild the list of stale replicas from all pairs, ``reach`` in Å²; launch with one thread per bead.

    ``overflow`` becomes the largest number of neighbours that did not fit; the excess is dropped.
    """
    row = wp.tid()
    replica = row // n_beads
    if stale[replica] == 0:
        return
    first = replica * n_beads
    p = x[row]
    n = wp.int32(0)
    for j in range(n_beads):
        d = x[first + j] - p
        if wp.dot(d, d) < reach and first + j != row:
            if n < capacity:
                neighbor[row * capacity + n] = j
            n += 1
    if n > capacity:
        wp.atomic_max(overflow, 0, n)
    count[row] = wp.min(n, capacity)
    built[row] = p


@wp.kernel
def find_reverse(
    stale: wp.array(dtype=wp.int32),
    n_beads: wp.int32,
    capacity: wp.int32,
    count: wp.array(dtype=wp.int32),
    neighbor: wp.array(dtype=wp.int32),
    reverse: wp.array(dtype=wp.int32),
):
    """Find the slot of the other direction by bisection; −1 if it was dropped.

    Launch with rows · capacity threads.
    """
    slot = wp.tid()
    row = slot // capacity
    s = slot % capacity
    replica = row // n_beads
    if stale[replica] == 0 or s >= count[row]:
        return
    first = replica * n_beads
    other = first + neighbor[row * capacity + s]
    low = wp.int32(0)
    high = count[other]
    while low < high:
        middle = (low + high) // 2
        if neighbor[other * capacity + middle] < row - first:
            low = middle + 1
        else:
            high = middle
    found = wp.int32(-1)
    # not `and`: Warp may evaluate both sides, and the slot may not exist
    if low < count[other]:  # noqa: SIM102
        if neighbor[other * capacity + low] == row - first:
            found = other * capacity + low
    reverse[row * capacity + s] = found


@wp.func
def table_slope(
    r: wp.float64, lower: wp.float64, span: wp.float64, decay: wp.float32, share: wp.float32, rest: wp.float32
):
    """Return dq/dr / K of the table coordinate, as in :mod:`cgal_plugin.export.tables`."""
    x = wp.float32((r - lower) / span)
    slope = wp.float32(1.0)
    if decay > 0.0:
        slope = share + rest * decay * wp.exp(-decay * x)
    return slope / wp.float32(span)


@wp.kernel
def place_pairs(
    x: wp.array(dtype=wp.vec3d),
    n_beads: wp.int32,
    capacity: wp.int32,
    count: wp.array(dtype=wp.int32),
    neighbor: wp.array(dtype=wp.int32),
    lower: wp.float64,
    span: wp.float64,
    decay: wp.float32,
    share: wp.float64,
    rest: wp.float64,
    intervals: wp.int32,
    pair: wp.array(dtype=wp.int32),
    place: wp.array(dtype=wp.float32),
):
    """Compute interval and position in the table of each slot; rows · capacity threads."""
    slot = wp.tid()
    row = slot // capacity
    s = slot % capacity
    if s >= count[row]:
        return
    p = row * capacity + s
    j = neighbor[p]
    r = distance(separation(x, row, (row // n_beads) * n_beads + j))
    found = wp.int32(-1)
    # false for NaN
    if r > lower and r < lower + span:
        q = (r - lower) / span
        if decay > 0.0:
            # only e is in float32: q is large, and near the cutoff filters change as fast as they vanish
            e = wp.float64(wp.exp(-decay * wp.float32(q)))
            q = share * q + rest * (wp.float64(1.0) - e)
        q *= wp.float64(intervals)
        k = wp.min(wp.int32(q), intervals - 1)
        place[p] = wp.float32(q - wp.float64(k))
        found = j + k * 1048576
    pair[p] = found


@wp.kernel
def gather(
    n_beads: wp.int32,
    capacity: wp.int32,
    count: wp.array(dtype=wp.int32),
    pair: wp.array(dtype=wp.int32),
    place: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    table_at: wp.int32,
    intervals: wp.int32,
    v: wp.array(dtype=wp.float32),
    v_stride: wp.int32,
    v_at: wp.int32,
    lanes: wp.int32,
    parts: wp.int32,
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
):
    """Compute y_i = Σ_j W_ij v_j; groups · rows · lanes · parts threads."""
    group, row, thread = place_of(wp.tid(), count.shape[0], lanes * parts)
    part = thread // lanes
    n = count[row]
    first = (row // n_beads) * n_beads
    for lane in range(thread % lanes, 8, lanes):
        c = group * 32 + lane * 4
        at = table_at + group * intervals * 128 + lane * 4
        sums = messages(n, row * capacity, first, pair, place, table, at, v, v_stride, v_at + c, part, parts)
        sums = sum_parts(sums)
        if part == 0:
            store4(y, row * y_stride + c, sums)


@wp.kernel
def gather_back(
    n_beads: wp.int32,
    capacity: wp.int32,
    count: wp.array(dtype=wp.int32),
    pair: wp.array(dtype=wp.int32),
    place: wp.array(dtype=wp.float32),
    table: wp.array(dtype=wp.float32),
    table_at: wp.int32,
    intervals: wp.int32,
    v: wp.array(dtype=wp.float32),
    v_stride: wp.int32,
    v_at: wp.int32,
    m: wp.array(dtype=wp.float32),
    m_stride: wp.int32,
    groups: wp.int32,
    fresh: wp.int32,
    lanes: wp.int32,
    parts: wp.int32,
    slope: wp.array(dtype=wp.float32),
    y: wp.array(dtype=wp.float32),
    y_stride: wp.int32,
    y_at: wp.int32,
):
    """Compute the derivatives of :func:`gather`; threads as there.

    y_i = Σ_j W_ij m_j (unless ``y_at`` is negative), and per slot and group Σ_c W'_ij m_j v_i is added to
    ``slope``, or replaces it if ``fresh``. Its other half, W'_ij m_i v_j, is that of the reverse slot.
    """
    group, row, thread = place_of(wp.tid(), count.shape[0], lanes * parts)
    part = thread // lanes
    n = count[row]
    first = (row // n_beads) * n_beads
    for lane in range(thread % lanes, 8, lanes):
        c = group * 32 + lane * 4
        at = table_at + group * intervals * 128 + lane * 4
        own = load4(v, row * v_stride + v_at + c)
        writer = wp.where(thread % lanes == 0, 1, 0)
        # on the CPU device one thread has all lanes, one after the other
        replace = wp.where(lane < lanes, fresh, 0)
        sums = messages_back(
            n, row * capacity, first, pair, place, table, at, m, m_stride, c, part, parts,
            own, slope, groups, group, writer, replace,
        )  # fmt: skip
        sums = sum_parts(sums)
        if part == 0 and y_at >= 0:
            store4(y, row * y_stride + y_at + c, sums)
