"""The priors of one bead in float64: same formulas as in :mod:`cgal_plugin.export.terms`.

Each bead computes every term that it is part of and takes its own share of the gradient, so that there are
no atomics. The first bead of an angle's or dihedral's term list entry has the energy of the term.
"""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

from __future__ import annotations

import warp as wp

from cgal_plugin.export.gpu.pairs import distance

wp.set_module_options({"enable_backward": False})


@wp.struct
class Priors:
    """Terms of each bead of one molecule: those of bead i are ``start[i]`` to ``start[i + 1]``."""

    pair_start: wp.array(dtype=wp.int32)
    #: other bead, power
    pair_index: wp.array2d(dtype=wp.int32)
    #: constant, length
    pair_value: wp.array2d(dtype=wp.float64)
    series_start: wp.array(dtype=wp.int32)
    #: other bead, row of ``series_value``
    series_index: wp.array2d(dtype=wp.int32)
    #: first centre, width, coefficients
    series_value: wp.array2d(dtype=wp.float64)
    angle_start: wp.array(dtype=wp.int32)
    #: term, place of the bead in it
    angle_term: wp.array2d(dtype=wp.int32)
    #: i, middle, k, 1 if in cos θ
    angle_index: wp.array2d(dtype=wp.int32)
    #: k, x₀ and cₘ of Σ cₘ cos mθ
    angle_value: wp.array2d(dtype=wp.float64)
    dihedral_start: wp.array(dtype=wp.int32)
    dihedral_term: wp.array2d(dtype=wp.int32)
    dihedral_index: wp.array2d(dtype=wp.int32)
    #: k and phase of each multiplicity, one after the other
    dihedral_value: wp.array2d(dtype=wp.float64)


@wp.func
def pair_term(r: wp.float64, constant: wp.float64, length: wp.float64, power: wp.int32):
    """Return energy and dE/dr of a bond (power 0) or a repulsion."""
    energy = wp.float64(0.0)
    slope = wp.float64(0.0)
    if power == 0:
        slope = constant * (r - length)
        energy = wp.float64(0.5) * slope * (r - length)
    else:
        outside = wp.max(r, wp.float64(0.1) * length)
        ratio = length / outside
        e = constant
        left = power
        while left > 0:
            if left % 2 == 1:
                e *= ratio
            ratio *= ratio
            left = left // 2
        slope = -wp.float64(power) * e / outside
        energy = e - slope * (outside - r)
    return energy, slope


@wp.func
def series_term(r: wp.float64, value: wp.array2d(dtype=wp.float64), row: wp.int32):
    """Return energy and dE/dr of a Gaussian series."""
    width = value[row, 1]
    t = (r - value[row, 0]) / width
    energy = wp.float64(0.0)
    slope = wp.float64(0.0)
    for k in range(value.shape[1] - 2):
        u = t - wp.float64(k)
        if wp.abs(u) < wp.float64(12.0):
            e = value[row, 2 + k] * wp.exp(wp.float64(-0.5) * u * u)
            energy += e
            slope -= e * u
    return energy, slope / width


@wp.func
def angle_term(a: wp.vec3d, b: wp.vec3d, value: wp.array2d(dtype=wp.float64), n: wp.int32, cosine: wp.int32):
    """Return energy, dE/da and dE/db; a and b point from the middle bead outwards."""
    c = wp.dot(a, b)
    constant = value[n, 0]
    x0 = value[n, 1]
    energy = wp.float64(0.0)
    x = wp.float64(0.0)
    da = wp.vec3d()
    db = wp.vec3d()
    if cosine == 1:
        a2 = wp.dot(a, a)
        b2 = wp.dot(b, b)
        safe = wp.max(a2 * b2, wp.float64(1.0e-12))
        root = wp.float64(1.0) / wp.sqrt(safe)
        x = c * root
        g = constant * (x - x0) * root
        h = wp.float64(0.0)
        # the denominator is constant below the clamp
        if a2 * b2 >= wp.float64(1.0e-12):
            h = g * c / safe
        da = g * b - (h * b2) * a
        db = g * a - (h * a2) * b
    else:
        normal = wp.cross(a, b)
        square = wp.dot(normal, normal)
        s = wp.sqrt(wp.max(square, wp.float64(1.0e-8)))
        x = wp.atan2(s, c)
        slope = constant * (x - x0)
        for m in range(2, value.shape[1]):
            mx = wp.float64(m - 1) * x
            energy += value[n, m] * wp.cos(mx)
            slope -= value[n, m] * wp.float64(m - 1) * wp.sin(mx)
        g = slope / (s * s + c * c)
        h = wp.float64(0.0)
        if square >= wp.float64(1.0e-8):
            h = g * c / s
        da = h * wp.cross(b, normal) - (g * s) * b
        db = h * wp.cross(normal, a) - (g * s) * a
    energy += wp.float64(0.5) * constant * (x - x0) * (x - x0)
    return energy, da, db


@wp.func
def dihedral_term(a: wp.vec3d, b: wp.vec3d, c: wp.vec3d, value: wp.array2d(dtype=wp.float64), n: wp.int32):
    """Return energy and gradient for the bonds 0→1, 1→2, 2→3 (Blondel & Karplus 1996)."""
    tiny = wp.float64(1.0e-12)
    one = wp.float64(1.0)
    n1 = wp.cross(a, b)
    n2 = wp.cross(b, c)
    b2 = wp.max(wp.dot(b, b), tiny)
    root = wp.sqrt(b2)
    s1 = wp.dot(n1, n1)
    s2 = wp.dot(n2, n2)
    a2 = wp.max(wp.dot(a, a), tiny)
    c2 = wp.max(wp.dot(c, c), tiny)
    x = wp.dot(n1, n2)
    y = root * wp.dot(a, n2)
    phi = wp.float64(0.0)
    defined = wp.float64(0.0)
    if x * x + y * y >= tiny:
        phi = wp.atan2(y, x)
        defined = one
    t1 = s1 / (a2 * b2 * wp.float64(0.02))
    t2 = s2 / (c2 * b2 * wp.float64(0.02))
    u1 = wp.min(t1, one)
    u2 = wp.min(t2, one)
    f1 = u1 * u1 * (wp.float64(3.0) - wp.float64(2.0) * u1)
    f2 = u2 * u2 * (wp.float64(3.0) - wp.float64(2.0) * u2)
    constant = wp.float64(0.0)
    cosine = wp.float64(0.0)
    slope = wp.float64(0.0)
    for m in range(value.shape[1] // 2):
        k = value[n, 2 * m]
        angle = wp.float64(m + 1) * phi - value[n, 2 * m + 1]
        constant += k
        cosine += k * wp.cos(angle)
        slope -= k * wp.float64(m + 1) * wp.sin(angle)
    energy = constant + f1 * f2 * cosine
    d = slope * f1 * f2 * defined
    # dφ/da = (|b|/n1²) n1, dφ/dc = (|b|/n2²) n2, dφ/db from the projections of a and c on b
    da = (d * root / wp.max(s1, wp.float64(1.0e-24))) * n1
    dc = (d * root / wp.max(s2, wp.float64(1.0e-24))) * n2
    db = (-wp.dot(a, b) / b2) * da + (-wp.dot(c, b) / b2) * dc
    if u1 < one or u2 < one:
        # switching factor: dt/dn = 2n/(0.02 |v|²|b|²), and −2t/|v|² v for both vectors v in it
        e1 = cosine * f2 * wp.float64(6.0) * u1 * (one - u1)
        e2 = cosine * f1 * wp.float64(6.0) * u2 * (one - u2)
        h1 = (wp.float64(2.0) * e1 / (a2 * b2 * wp.float64(0.02))) * n1
        h2 = (wp.float64(2.0) * e2 / (c2 * b2 * wp.float64(0.02))) * n2
        w1 = wp.float64(2.0) * e1 * t1
        w2 = wp.float64(2.0) * e2 * t2
        da = da + wp.cross(b, h1) - (w1 / a2) * a
        dc = dc + wp.cross(h2, b) - (w2 / c2) * c
        db = db + wp.cross(h1, a) + wp.cross(c, h2) - ((w1 + w2) / b2) * b
    return energy, da, db, dc


@wp.func
def prior_forces(
    p: Priors, x: wp.array(dtype=wp.vec3d), first: wp.int32, i: wp.int32, thread: wp.int32, lanes: wp.int32
) -> wp.vec4d:
    """Return a thread's share of force (kcal/mol/Å) and energy (fourth component) of bead i of a molecule."""
    force = wp.vec3d()
    energy = wp.float64(0.0)
    here = x[first + i]
    for s in range(p.pair_start[i] + thread, p.pair_start[i + 1], lanes):
        d = x[first + p.pair_index[s, 0]] - here
        r = distance(d)
        e, slope = pair_term(r, p.pair_value[s, 0], p.pair_value[s, 1], p.pair_index[s, 1])
        # half of the energy for each of the two beads
        energy += wp.float64(0.5) * e
        force += (slope / r) * d
    for s in range(p.series_start[i] + thread, p.series_start[i + 1], lanes):
        d = x[first + p.series_index[s, 0]] - here
        r = distance(d)
        e, slope = series_term(r, p.series_value, p.series_index[s, 1])
        energy += wp.float64(0.5) * e
        force += (slope / r) * d
    for s in range(p.angle_start[i] + thread, p.angle_start[i + 1], lanes):
        n = p.angle_term[s, 0]
        role = p.angle_term[s, 1]
        middle = x[first + p.angle_index[n, 1]]
        a = x[first + p.angle_index[n, 0]] - middle
        b = x[first + p.angle_index[n, 2]] - middle
        e, da, db = angle_term(a, b, p.angle_value, n, p.angle_index[n, 3])
        if role == 0:
            force -= da
        elif role == 1:
            force += da + db
            energy += e
        else:
            force -= db
    for s in range(p.dihedral_start[i] + thread, p.dihedral_start[i + 1], lanes):
        n = p.dihedral_term[s, 0]
        role = p.dihedral_term[s, 1]
        x1 = x[first + p.dihedral_index[n, 1]]
        x2 = x[first + p.dihedral_index[n, 2]]
        a = x1 - x[first + p.dihedral_index[n, 0]]
        c = x[first + p.dihedral_index[n, 3]] - x2
        e, da, db, dc = dihedral_term(a, x2 - x1, c, p.dihedral_value, n)
        if role == 0:
            force += da
            energy += e
        elif role == 1:
            force += db - da
        elif role == 2:
            force += dc - db
        else:
            force -= dc
    return wp.vec4d(force[0], force[1], force[2], energy)
