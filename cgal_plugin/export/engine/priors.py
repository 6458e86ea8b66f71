"""The priors of one molecule in float64: energies and forces; same formulas as in ``export.terms``.

Each function evaluates the terms ``begin .. end`` of a kind. ``shift + i`` is the row in ``forces`` of bead
``i`` of ``pos``.
"""

from __future__ import annotations

import math

from cgal_plugin.export.engine.jit import Float64s, Int32s, Int64s, Vector3, kernel


@kernel
def _vector(pos: Float64s, start: int, end: int, unit: float) -> Vector3:
    return (
        (pos[end, 0] - pos[start, 0]) * unit,
        (pos[end, 1] - pos[start, 1]) * unit,
        (pos[end, 2] - pos[start, 2]) * unit,
    )


@kernel
def _dot(a: Vector3, b: Vector3) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def _cross(a: Vector3, b: Vector3) -> Vector3:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@kernel
def _mix(x: float, a: Vector3, y: float, b: Vector3) -> Vector3:
    return x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2]


@kernel
def _pull(forces: Float64s, start: int, end: int, gradient: Vector3, factor: float) -> None:
    """Add the forces of an energy gradient with respect to the vector start → end."""
    for c in range(3):
        forces[start, c] += factor * gradient[c]
        forces[end, c] -= factor * gradient[c]


@kernel
def pair_energy(
    pos: Float64s,
    first: int,
    begin: int,
    end: int,
    unit: float,
    factor: float,
    index: Int32s,
    value: Float64s,
    forces: Float64s,
    shift: int,
) -> float:
    """Bonds (power 0) and repulsion; ``index`` rows: i, j, power; ``value`` rows: constant, length."""
    energy = 0.0
    for n in range(begin, end):
        i, j, power = first + index[n, 0], first + index[n, 1], index[n, 2]
        constant, length = value[n, 0], value[n, 1]
        d = _vector(pos, i, j, unit)
        r = math.sqrt(max(_dot(d, d), 1e-12))
        if power == 0:
            energy += 0.5 * constant * (r - length) ** 2
            slope = constant * (r - length)
        else:
            outside = max(r, 0.1 * length)
            ratio, e, left = length / outside, constant, power
            while left > 0:
                if left & 1:
                    e *= ratio
                ratio *= ratio
                left >>= 1
            slope = -power * e / outside
            energy += e - slope * (outside - r)
        _pull(forces, shift + i, shift + j, _mix(slope / r, d, 0.0, d), factor)
    return energy


@kernel
def series_energy(
    pos: Float64s,
    first: int,
    begin: int,
    end: int,
    unit: float,
    factor: float,
    index: Int64s,
    value: Float64s,
    forces: Float64s,
    shift: int,
) -> float:
    """Gaussian series; ``index`` rows i, j, row of ``value``; its rows first centre, width, coefficients.

    exp(−(t − k)²/2) from the nearest centre outwards: the ratio of neighbours changes by e per step.
    """
    energy, shrink = 0.0, math.exp(-1.0)
    for n in range(begin, end):
        i, j, row = first + index[n, 0], first + index[n, 1], index[n, 2]
        d = _vector(pos, i, j, unit)
        r = math.sqrt(max(_dot(d, d), 1e-12))
        last, width = value.shape[1] - 3, value[row, 1]
        t = (r - value[row, 0]) / width
        middle = int(min(max(t + 0.5, 0.0), float(last)))
        x = t - middle
        if abs(x) > 30.0:
            continue
        near = math.exp(-0.5 * x * x)
        e = value[row, 2 + middle] * near
        slope = e * x
        g, ratio = near, math.exp(x - 0.5)
        for k in range(middle + 1, last + 1):
            g *= ratio
            ratio *= shrink
            e_k = value[row, 2 + k] * g
            e += e_k
            slope += e_k * (t - k)
        g, ratio = near, math.exp(-x - 0.5)
        for k in range(middle - 1, -1, -1):
            g *= ratio
            ratio *= shrink
            e_k = value[row, 2 + k] * g
            e += e_k
            slope += e_k * (t - k)
        energy += e
        _pull(forces, shift + i, shift + j, _mix(-slope / (width * r), d, 0.0, d), factor)
    return energy


@kernel
def angle_energy(
    pos: Float64s,
    first: int,
    begin: int,
    end: int,
    unit: float,
    factor: float,
    index: Int64s,
    value: Float64s,
    forces: Float64s,
    shift: int,
) -> float:
    """Angles; ``index`` rows: i, middle, k, 1 if in cos θ; ``value`` rows: k, x₀ and cₘ of Σ cₘ cos mθ."""
    energy = 0.0
    for n in range(begin, end):
        i, middle, k = first + index[n, 0], first + index[n, 1], first + index[n, 2]
        a, b = _vector(pos, middle, i, unit), _vector(pos, middle, k, unit)
        c, constant, x0 = _dot(a, b), value[n, 0], value[n, 1]
        if index[n, 3] == 1:
            a2, b2 = _dot(a, a), _dot(b, b)
            square = a2 * b2
            safe = max(square, 1e-12)
            root = 1.0 / math.sqrt(safe)
            x = c * root
            g = constant * (x - x0) * root
            # the denominator is constant below the clamp
            h = g * c / safe if square >= 1e-12 else 0.0
            da, db = _mix(g, b, -h * b2, a), _mix(g, a, -h * a2, b)
        else:
            normal = _cross(a, b)
            square = _dot(normal, normal)
            s = math.sqrt(max(square, 1e-8))
            x = math.atan2(s, c)
            slope = constant * (x - x0)
            for m in range(1, value.shape[1] - 1):
                energy += value[n, m + 1] * math.cos(m * x)
                slope -= value[n, m + 1] * m * math.sin(m * x)
            g = slope / (s * s + c * c)
            h = g * c / s if square >= 1e-8 else 0.0
            da = _mix(h, _cross(b, normal), -g * s, b)
            db = _mix(h, _cross(normal, a), -g * s, a)
        energy += 0.5 * constant * (x - x0) ** 2
        _pull(forces, shift + middle, shift + i, da, factor)
        _pull(forces, shift + middle, shift + k, db, factor)
    return energy


@kernel
def _series(phi: float, value: Float64s, n: int) -> Vector3:
    """Return Σ k, Σ k cos(mφ − φ₀) and its derivative."""
    constant, cosine, slope = 0.0, 0.0, 0.0
    for m in range(value.shape[1]):
        angle = (m + 1) * phi - value[n, m, 1]
        constant += value[n, m, 0]
        cosine += value[n, m, 0] * math.cos(angle)
        slope -= value[n, m, 0] * (m + 1) * math.sin(angle)
    return constant, cosine, slope


@kernel
def dihedral_energy(
    pos: Float64s,
    first: int,
    begin: int,
    end: int,
    unit: float,
    factor: float,
    index: Int64s,
    value: Float64s,
    forces: Float64s,
    shift: int,
) -> float:
    """Dihedrals; ``index`` rows: four beads; ``value`` ``(n, multiplicities, 2)``: k and phase."""
    energy = 0.0
    for n in range(begin, end):
        i0, i1 = first + index[n, 0], first + index[n, 1]
        i2, i3 = first + index[n, 2], first + index[n, 3]
        a, b, c = _vector(pos, i0, i1, unit), _vector(pos, i1, i2, unit), _vector(pos, i2, i3, unit)
        n1, n2 = _cross(a, b), _cross(b, c)
        b2 = max(_dot(b, b), 1e-12)
        root, s1, s2 = math.sqrt(b2), _dot(n1, n1), _dot(n2, n2)
        a2, c2 = max(_dot(a, a), 1e-12), max(_dot(c, c), 1e-12)
        x, y = _dot(n1, n2), root * _dot(a, n2)
        defined = x * x + y * y >= 1e-12
        phi = math.atan2(y, x) if defined else 0.0
        t1, t2 = s1 / (a2 * b2 * 0.02), s2 / (c2 * b2 * 0.02)
        u1, u2 = min(t1, 1.0), min(t2, 1.0)
        f1, f2 = u1 * u1 * (3.0 - 2.0 * u1), u2 * u2 * (3.0 - 2.0 * u2)
        constant, cosine, slope = _series(phi, value, n)
        energy += constant + f1 * f2 * cosine
        d = slope * f1 * f2 if defined else 0.0
        # dφ/da = (|b|/n1²) n1, dφ/dc = (|b|/n2²) n2, dφ/db from the projections of a and c on b
        k1, k2 = d * root / max(s1, 1e-24), d * root / max(s2, 1e-24)
        da, dc = _mix(k1, n1, 0.0, n1), _mix(k2, n2, 0.0, n2)
        db = _mix(-_dot(a, b) / b2 * k1, n1, -_dot(c, b) / b2 * k2, n2)
        if u1 < 1.0 or u2 < 1.0:
            # switching factor: dt/dn = 2n/(0.02 |v|²|b|²), and −2t/|v|² v for both vectors v in it
            e1, e2 = cosine * f2 * 6.0 * u1 * (1.0 - u1), cosine * f1 * 6.0 * u2 * (1.0 - u2)
            h1 = _mix(2.0 * e1 / (a2 * b2 * 0.02), n1, 0.0, n1)
            h2 = _mix(2.0 * e2 / (c2 * b2 * 0.02), n2, 0.0, n2)
            w1, w2 = 2.0 * e1 * t1, 2.0 * e2 * t2
            da = _mix(1.0, da, 1.0, _mix(1.0, _cross(b, h1), -w1 / a2, a))
            dc = _mix(1.0, dc, 1.0, _mix(1.0, _cross(h2, b), -w2 / c2, c))
            db = _mix(1.0, db, 1.0, _mix(1.0, _cross(h1, a), 1.0, _cross(c, h2)))
            db = _mix(1.0, db, -(w1 + w2) / b2, b)
        _pull(forces, shift + i0, shift + i1, da, factor)
        _pull(forces, shift + i1, shift + i2, db, factor)
        _pull(forces, shift + i2, shift + i3, dc, factor)
    return energy
