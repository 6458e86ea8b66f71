"""The last kernels of a force call: forces and energies of beads from network and priors, and their sums."""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

from __future__ import annotations

import warp as wp

from cgal_plugin.export.gpu.native import sum_all
from cgal_plugin.export.gpu.pairs import distance, table_slope
from cgal_plugin.export.gpu.priors import Priors, prior_forces

wp.set_module_options({"enable_backward": False})


@wp.kernel
def bead_forces(
    x: wp.array(dtype=wp.vec3d),
    n_beads: wp.int32,
    capacity: wp.int32,
    count: wp.array(dtype=wp.int32),
    pair: wp.array(dtype=wp.int32),
    reverse: wp.array(dtype=wp.int32),
    slope: wp.array(dtype=wp.float32),
    groups: wp.int32,
    intervals: wp.int32,
    lower: wp.float64,
    span: wp.float64,
    decay: wp.float32,
    share: wp.float32,
    rest: wp.float32,
    out: wp.array(dtype=wp.float32),
    last: wp.array(dtype=wp.float32),
    last_bias: wp.float64,
    scale: wp.float64,
    priors: Priors,
    lost: wp.array(dtype=wp.int32),
    lanes: wp.int32,
    forces: wp.array(dtype=wp.vec3f),
    energy: wp.array(dtype=wp.float64),
):
    """Compute the force on each bead and its share of the energy; rows · lanes threads."""
    thread = wp.tid() % lanes
    row = wp.tid() // lanes
    replica = row // n_beads
    first = replica * n_beads
    here = x[row]
    total = prior_forces(priors, x, first, row - first, thread, lanes)
    for s in range(thread, count[row], lanes):
        p = row * capacity + s
        found = pair[p]
        if found >= 0:
            d = x[first + (found & 1048575)] - here
            r = distance(d)
            sums = wp.float32(0.0)
            for g in range(groups):
                sums += slope[p * groups + g]
            back = reverse[p]
            if back >= 0:
                for g in range(groups):
                    sums += slope[back * groups + g]
            sums *= wp.float32(intervals) * table_slope(r, lower, span, decay, share, rest)
            d *= wp.float64(sums) / r
            total += wp.vec4d(d[0], d[1], d[2], wp.float64(0.0))
    e = wp.float32(0.0)
    width = last.shape[0]
    for c in range(thread, width, lanes):
        e += out[row * width + c] * last[c]
    fx = sum_all(total[0])
    fy = sum_all(total[1])
    fz = sum_all(total[2])
    own = sum_all(total[3] + wp.float64(e) * scale) + last_bias * scale
    if thread == 0:
        if lost[replica] == 1:
            nothing = wp.float32(wp.nan)
            forces[row] = wp.vec3f(nothing, nothing, nothing)
            energy[row] = wp.float64(wp.nan)
        else:
            forces[row] = wp.vec3f(wp.float32(fx), wp.float32(fy), wp.float32(fz))
            energy[row] = own


@wp.kernel
def replica_energies(
    energy: wp.array(dtype=wp.float64),
    n_beads: wp.int32,
    shift: wp.float64,
    lanes: wp.int32,
    result: wp.array(dtype=wp.float64),
):
    """Sum the energies of the beads of each replica; replicas · lanes threads."""
    thread = wp.tid() % lanes
    replica = wp.tid() // lanes
    e = wp.float64(0.0)
    for i in range(replica * n_beads + thread, (replica + 1) * n_beads, lanes):
        e += energy[i]
    e = sum_all(e)
    if thread == 0:
        result[replica] = e + shift
