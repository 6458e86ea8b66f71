"""Warp kernels of the nearest RMSD: covariances, and the quartic of kernel.py, pair by pair in float64."""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

import warp as wp

#: as in kernel.py
_NEWTON_STEPS = wp.constant(wp.int32(60))
_NEWTON_TOLERANCE = wp.constant(wp.float64(1e-12))
_SIGN_ERROR = wp.constant(wp.float64(1e-13))


@wp.func
def squared_rmsd(c: wp.mat33d, mean_size: wp.float64, limit: wp.float64, half_beads: wp.float64):
    """Return the squared RMSD of a pair, Å²; -1 if it is certainly not below ``limit`` (Å²).

    ``mean_size`` is the mean of the squared sizes; the error of the result at a double root is 2e-7 of it,
    divided by the number of beads.
    """
    zero, one, two, three, four = (
        wp.float64(0.0),
        wp.float64(1.0),
        wp.float64(2.0),
        wp.float64(3.0),
        wp.float64(4.0),
    )
    if mean_size <= zero:
        return zero
    a = c / mean_size
    norm = wp.ddot(a, a)
    minors = zero
    for k in range(3):
        row = wp.cross(a[k], a[(k + 1) % 3])
        minors += wp.dot(row, row)
    linear = wp.float64(-8.0) * wp.determinant(a)
    constant = norm * norm - four * minors
    # beyond the largest root the quartic and its derivatives are positive (Fourier)
    at = one - half_beads * limit / mean_size
    square = at * at
    if (
        at > zero
        and ((square - two * norm) * at + linear) * at + constant > _SIGN_ERROR
        and four * at * (square - norm) + linear > _SIGN_ERROR
        and three * square - norm > _SIGN_ERROR
    ):
        return -one
    # Newton's iteration from above: each iterate is an upper bound of the root
    root = wp.float64(1.0)
    for _ in range(_NEWTON_STEPS):
        square = root * root
        slope = four * root * (square - norm) + linear
        step = zero
        if slope > wp.float64(1e-14):
            step = (((square - two * norm) * root + linear) * root + constant) / slope
        if step < _NEWTON_TOLERANCE:
            break
        root -= step
    return wp.max(one - root, zero) * mean_size / half_beads


@wp.func
def covariance(x: wp.array(dtype=wp.vec3d, ndim=2), y: wp.array(dtype=wp.vec3d, ndim=2), i: int, j: int):
    """Return the covariance of candidate i, stored ``(beads, n)``, and reference j, stored ``(m, beads)``."""
    c = wp.mat33d()
    for b in range(x.shape[0]):
        c += wp.outer(x[b, i], y[j, b])
    return c


@wp.kernel(enable_backward=False)
def nearest(
    x: wp.array(dtype=wp.vec3d, ndim=2),
    y: wp.array(dtype=wp.vec3d, ndim=2),
    x_sizes: wp.array(dtype=wp.float64),
    y_sizes: wp.array(dtype=wp.float64),
    start: wp.array(dtype=wp.float64),
    chunk: wp.int32,
    best: wp.array(dtype=wp.float64, ndim=2),
    index: wp.array(dtype=wp.int32, ndim=2),
):
    """Write the nearest reference frame of each candidate in each chunk of references; -1 if none is nearer.

    ``start`` is the squared RMSD that must be undercut, Å².
    """
    part, i = wp.tid()
    half_beads = wp.float64(0.5) * wp.float64(x.shape[0])
    lowest = start[i]
    found = wp.int32(-1)
    for j in range(part * chunk, wp.min(part * chunk + chunk, y.shape[0])):
        mean_size = wp.float64(0.5) * (x_sizes[i] + y_sizes[j])
        squared = squared_rmsd(covariance(x, y, i, j), mean_size, lowest, half_beads)
        if squared >= wp.float64(0.0) and squared < lowest:
            lowest = squared
            found = j
    best[part, i] = lowest
    index[part, i] = found


@wp.kernel(enable_backward=False)
def undecided(
    x: wp.array(dtype=wp.vec3d, ndim=2),
    y: wp.array(dtype=wp.vec3d, ndim=2),
    x_sizes: wp.array(dtype=wp.float64),
    y_sizes: wp.array(dtype=wp.float64),
    exact: wp.array(dtype=wp.float64),
    index: wp.array(dtype=wp.int32),
    chunk: wp.int32,
    root_error: wp.float64,
    count: wp.array(dtype=wp.int32),
    pairs: wp.array(dtype=wp.vec2i),
):
    """List the pairs that rounding leaves undecided: their RMSD may be below the ``exact`` one (Å) found.

    ``count`` may exceed the room of ``pairs``.
    """
    part, i = wp.tid()
    half_beads = wp.float64(0.5) * wp.float64(x.shape[0])
    limit = exact[i] * exact[i]
    for j in range(part * chunk, wp.min(part * chunk + chunk, y.shape[0])):
        if j != index[i] and exact[i] > wp.float64(0.0):
            mean_size = wp.float64(0.5) * (x_sizes[i] + y_sizes[j])
            squared = squared_rmsd(covariance(x, y, i, j), mean_size, limit, half_beads)
            # a pair that is not finite is not listed, and not excluded here: the host refuses such frames
            near = squared >= wp.float64(0.0) and squared - root_error * mean_size / half_beads < limit
            # not counted further once they are too many: billions of pairs would exceed an int32
            if near and count[0] <= pairs.shape[0]:
                k = wp.atomic_add(count, 0, 1)
                if k < pairs.shape[0]:
                    pairs[k] = wp.vec2i(i, j)
