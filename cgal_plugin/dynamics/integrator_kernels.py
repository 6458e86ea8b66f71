"""Warp kernels of the device-resident integrator: Philox noise and LangevinMiddle steps.

Units: Å, ps, amu, kcal/mol. Positions and velocities are float64, forces float32. A bead of inverse mass 0
does not move.
"""

# mypy: ignore-errors
# Warp translates the kernels; their types are not Python's

import warp as wp

#: Å/ps² per kcal/mol/Å/amu
ACCELERATION = wp.constant(wp.float64(418.4))
_TWO_PI = wp.constant(wp.float32(6.283185307179586))
_PER_WORD = wp.constant(wp.float32(2.0**-32))
_M0, _M1 = wp.constant(wp.uint32(0xD2511F53)), wp.constant(wp.uint32(0xCD9E8D57))
_W0, _W1 = wp.constant(wp.uint32(0x9E3779B9)), wp.constant(wp.uint32(0xBB67AE85))


@wp.func
def philox_round(c: wp.vec4ui, k0: wp.uint32, k1: wp.uint32):
    """One round of Philox4x32."""
    p0 = wp.uint64(_M0) * wp.uint64(c[0])
    p1 = wp.uint64(_M1) * wp.uint64(c[2])
    half = wp.uint64(32)
    return wp.vec4ui(
        wp.uint32(p1 >> half) ^ c[1] ^ k0,
        wp.uint32(p1),
        wp.uint32(p0 >> half) ^ c[3] ^ k1,
        wp.uint32(p0),
    )


@wp.func
def philox(counter: wp.vec4ui, k0: wp.uint32, k1: wp.uint32):
    """Return four random words, Philox4x32-10 (Salmon et al., SC 2011)."""
    c = counter
    for _ in range(10):
        c = philox_round(c, k0, k1)
        k0 = k0 + _W0
        k1 = k1 + _W1
    return c


@wp.func
def normals(step: wp.uint64, bead: wp.int32, k0: wp.uint32, k1: wp.uint32):
    """Return three normal numbers of a bead at a step (Box-Muller), at most 6.8 standard deviations."""
    half = wp.uint64(32)
    c = philox(wp.vec4ui(wp.uint32(bead), wp.uint32(0), wp.uint32(step), wp.uint32(step >> half)), k0, k1)
    # in (0, 1]: the logarithm is finite
    r0 = wp.sqrt(-2.0 * wp.log((wp.float32(c[0]) + 0.5) * _PER_WORD))
    r1 = wp.sqrt(-2.0 * wp.log((wp.float32(c[2]) + 0.5) * _PER_WORD))
    a0 = _TWO_PI * (wp.float32(c[1]) * _PER_WORD)
    a1 = _TWO_PI * (wp.float32(c[3]) * _PER_WORD)
    return wp.vec3d(wp.float64(r0 * wp.cos(a0)), wp.float64(r0 * wp.sin(a0)), wp.float64(r1 * wp.cos(a1)))


@wp.kernel(enable_backward=False)
def langevin_middle(
    x: wp.array(dtype=wp.vec3d),
    v: wp.array(dtype=wp.vec3d),
    force: wp.array(dtype=wp.vec3f),
    inverse_mass: wp.array(dtype=wp.float64),
    kt: wp.array(dtype=wp.float64),
    done: wp.array(dtype=wp.uint64),
    later: wp.int32,
    n_beads: wp.int32,
    dt: wp.float64,
    decay: wp.float64,
    k0: wp.uint32,
    k1: wp.uint32,
):
    """One LangevinMiddle step (Zhang et al. 2019, OpenMM's order) of all beads.

    ``kt`` is kB·T of each replica in amu Å²/ps²; the step number, which selects the noise, is
    ``done[0] + later``. ``decay`` is exp(-friction·dt): 1 gives the
    leapfrog scheme without a thermostat.
    """
    i = wp.tid()
    w = inverse_mass[i]
    if w > wp.float64(0.0):
        f = force[i]
        push = wp.vec3d(wp.float64(f[0]), wp.float64(f[1]), wp.float64(f[2]))
        half = wp.float64(0.5) * dt
        u = v[i] + (dt * ACCELERATION * w) * push
        middle = x[i] + half * u
        width = wp.sqrt((wp.float64(1.0) - decay * decay) * kt[i // n_beads] * w)
        u = decay * u + width * normals(done[0] + wp.uint64(later), i, k0, k1)
        x[i] = middle + half * u
        v[i] = u


@wp.kernel(enable_backward=False)
def count(done: wp.array(dtype=wp.uint64), steps: wp.int32):
    """Add to the number of steps done."""
    done[0] = done[0] + wp.uint64(steps)
