"""A balanced tree of boxes over the beads of a large molecule: order of feature rows, and near leaves.

Each node splits its beads at the median of its longest side. Beads of a leaf are neighbours in space and in
the order of rows, which keeps features in cache, and few pairs cross the ranges of rows of the threads.
The cost does not depend on the coordinates: there is no grid that far beads would make large, and leaves
have the same number of beads also where beads coincide. Tree and order depend on the positions only.
"""

from __future__ import annotations

from cgal_plugin.export.engine.jit import Float64s, Int64s, kernel

#: largest number of beads of a leaf
LEAF = 8
#: boxes farther apart than the cutoff times this contain no pair, whatever the rounding
_MARGIN = 1.0 + 1e-9


def tree_levels(n_beads: int) -> int:
    """Return the number of splits from the root to a leaf."""
    return max(0, (-(-n_beads // LEAF) - 1).bit_length())


@kernel
def _swap(x: Float64s, beads: Int64s, i: int, j: int) -> None:
    for c in range(3):
        x[i, c], x[j, c] = x[j, c], x[i, c]
    beads[i], beads[j] = beads[j], beads[i]


@kernel
def _select(x: Float64s, beads: Int64s, left: int, right: int, middle: int, axis: int) -> None:
    """Put the row of rank ``middle`` in its place between smaller and larger ones, in left..right."""
    while left < right:
        a, b, c = x[left, axis], x[(left + right) // 2, axis], x[right, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while x[i, axis] < pivot:
                i += 1
            while x[j, axis] > pivot:
                j -= 1
            if i <= j:
                _swap(x, beads, i, j)
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@kernel
def _bound(x: Float64s, begin: int, end: int, box: Float64s, node: int) -> int:
    """Store the box of rows begin..end; return its longest axis."""
    longest, axis = -1.0, 0
    for c in range(3):
        low = high = x[begin, c]
        for i in range(begin + 1, end):
            low, high = min(low, x[i, c]), max(high, x[i, c])
        box[node, c], box[node, 3 + c] = low, high
        if high - low > longest:
            longest, axis = high - low, c
    return axis


@kernel
def build_tree(
    pos: Float64s, first: int, levels: int, beads: Int64s, x: Float64s, span: Int64s, box: Float64s
) -> None:
    """Sort the finite beads of one molecule, those from ``first`` in ``pos``.

    ``beads`` gets the bead of each row, ``x`` the position of each row, ``span`` the rows and ``box`` the
    corners of each node; the children of node k are 2k + 1 and 2k + 2.
    """
    n = x.shape[0]
    for i in range(n):
        beads[i] = i
        for c in range(3):
            x[i, c] = pos[first + i, c]
    span[0, 0], span[0, 1] = 0, n
    leaves = 2**levels
    for node in range(2 * leaves - 1):
        begin, end = span[node, 0], span[node, 1]
        axis = _bound(x, begin, end, box, node)
        if node < leaves - 1:
            middle = (begin + end) // 2
            _select(x, beads, begin, end - 1, middle, axis)
            span[2 * node + 1, 0], span[2 * node + 1, 1] = begin, middle
            span[2 * node + 2, 0], span[2 * node + 2, 1] = middle, end


@kernel
def near_leaves(box: Float64s, n_leaves: int, leaf: int, reach: float, found: Int64s) -> int:
    """List the leaves from ``leaf`` on that may have beads within √``reach`` of it, in ascending order."""
    own, count, node = n_leaves - 1 + leaf, 0, 0
    while True:
        # skip nodes to the left of the own leaf: their last leaf comes before it
        last = node
        while last < n_leaves - 1:
            last = 2 * last + 2
        square = 0.0
        for c in range(3):
            gap = max(box[node, c] - box[own, 3 + c], box[own, c] - box[node, 3 + c], 0.0)
            square += gap * gap
        near = last >= own and square <= reach * _MARGIN
        if near and node < n_leaves - 1:
            node = 2 * node + 1
            continue
        if near:
            found[count] = node - (n_leaves - 1)
            count += 1
        # the next node: up while this is a right child, then its sibling
        while node > 0 and node % 2 == 0:
            node = (node - 1) // 2
        if node == 0:
            return count
        node += 1
