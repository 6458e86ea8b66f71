"""The arrays that kernels share: a potential and a workspace; and the indices of their entries."""

from __future__ import annotations

from typing import NamedTuple

from cgal_plugin.export.engine.jit import Float32s, Float64s, Int32s, Int64s

# indices of `sizes`
N_BEADS, N_BLOCKS, WIDTH, FILTERS, INTERVALS, KIND, N_HIDDEN, N_CHUNK = range(8)
HEAD = 8
# offsets of a block's matrices in `weights`, from sizes[HEAD + BLOCK * block]
LIN1, LIN1_BACK, LIN2, LIN2_BIAS, LIN2_BACK, LIN, LIN_BIAS, LIN_BACK, BLOCK = range(9)
# offsets of a layer of the output MLP; the last layer has width 1 and its bias is in `scalars`
OUT_WIDTH, OUT, OUT_BIAS, OUT_BACK, LAYER = range(5)
# indices of `scalars`
UNIT, SCALE, SHIFT, LAST_BIAS, FACTOR = 4, 5, 6, 7, 8
# indices of `at`, the offsets of buffers in `work`; m has two buffers, for odd and even blocks
H, V, SUMMED, SLOPE, SCRATCH, M, M_ODD, HIDDEN, G, SWAP, SWAP_ODD = range(11)
# further entries of `at`: rows of the buffers, offset of zeros in `weights`, offset of a row per thread in
# `work` for sums that are not used, largest width of a row
N_ROWS, ZEROS, UNUSED, WIDEST = 11, 12, 13, 14
# indices of `plan`: threads per replica, pairs that a thread can store, levels of the tree (0: none), slots
TEAM, MOST, LEVELS, SLOTS, PLAN = range(5)


class Model(NamedTuple):
    """A potential; see :mod:`cgal_plugin.export.engine.assemble`."""

    sizes: Int64s
    scalars: Float64s
    weights: Float32s
    table: Float32s
    start: Float32s
    first_v: Float32s
    pair_index: Int32s
    pair_value: Float64s
    series_index: Int64s
    series_value: Float64s
    angle_index: Int64s
    angle_value: Float64s
    dihedral_index: Int64s
    dihedral_value: Float64s


class Space(NamedTuple):
    """The workspace of a thread; threads that share a replica have the same one.

    ``rows`` are feature rows, ``pairs`` the pairs that a thread can store times the threads that share it.
    """

    #: sizes that depend on replicas and threads, ``(PLAN,)``
    plan: Int64s
    #: feature buffers and their offsets
    work: Float32s
    at: Int64s
    #: bead of each row, ``(rows,)``; for large molecules its position ``(rows, 3)``
    beads: Int64s
    x: Float64s
    #: rows ``(nodes, 2)`` and corners ``(nodes, 6)`` of the nodes of the tree
    span: Int64s
    box: Float64s
    #: near leaves, ``(threads, leaves)``, and pairs per leaf, ``(threads, leaves)``
    near: Int64s
    leaf_pairs: Int64s
    #: first pair of each row and the end, ``(rows,)``
    begin: Int64s
    stop: Int64s
    #: second row and table interval ``(pairs, 2)``; place in the interval ``(pairs,)``
    ends: Int32s
    place: Float32s
    #: unit vector and dq/dr ``(pairs, 4)``; dE/dr ``(pairs,)``
    geometry: Float64s
    dr: Float64s
    #: pairs of lower rows of other threads, and that row, ``(pairs, 2)``
    incoming: Int32s
    #: 1 for a replica with non-finite positions, ``(replicas evaluated together,)``
    bad: Int64s
    #: energies ``(rows,)``
    bead_energy: Float64s
    #: energies ``(slots,)`` and forces ``(slots * beads, 3)`` of the priors, if there are several slots
    slot_energy: Float64s
    slot_forces: Float64s
    #: pairs that each thread found, ``(threads,)``
    needed: Int64s
