"""The integrator of the engine: LangevinMiddle steps with Philox noise.

Units: Å, ps, amu; forces in kJ/mol/nm, as the engine gives them.
"""

from __future__ import annotations

import math

import numpy as np

from cgal_plugin.export.engine.jit import Float64s, entry, exact_entry, exact_kernel

Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_PER_WORD = 2.0**-32
#: Å/ps² per kJ/mol/nm/amu
_ACCELERATION = 10.0
_ANGSTROM_PER_NM = 10.0


@exact_kernel
def _philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> Words:
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@entry
def philox(counter: tuple[int, int, int, int], k0: int, k1: int) -> Words:
    """Return four random words of 32 bits, Philox4x32-10 (Salmon et al., SC 2011)."""
    c = (np.uint64(counter[0]), np.uint64(counter[1]), np.uint64(counter[2]), np.uint64(counter[3]))
    return _philox(c[0], c[1], c[2], c[3], np.uint64(k0), np.uint64(k1))


@exact_kernel
def _normals(step: int, bead: int, k0: int, k1: int) -> tuple[float, float, float]:
    """Return three normal numbers of a bead at a step (Box-Muller), at most 6.8 standard deviations."""
    number, which = np.uint64(step), np.uint64(bead)
    c = _philox(which, np.uint64(0), number & _LOW, number >> _HALF, np.uint64(k0), np.uint64(k1))
    # in (0, 1): the logarithm is finite
    r0 = math.sqrt(-2.0 * math.log((c[0] + 0.5) * _PER_WORD))
    r1 = math.sqrt(-2.0 * math.log((c[2] + 0.5) * _PER_WORD))
    a0, a1 = 2.0 * math.pi * (c[1] * _PER_WORD), 2.0 * math.pi * (c[3] * _PER_WORD)
    return r0 * math.cos(a0), r0 * math.sin(a0), r1 * math.cos(a1)


@entry
def normals(step: int, first_bead: int, k0: int, k1: int, out: Float64s) -> None:
    """Set the rows of ``out`` ``(N, 3)`` to the normal numbers of beads from ``first_bead`` at a step."""
    for i in range(len(out)):
        out[i, 0], out[i, 1], out[i, 2] = _normals(step, first_bead + i, k0, k1)


@exact_entry
def langevin_middle(
    x: Float64s,
    v: Float64s,
    force: Float64s,
    inverse_mass: Float64s,
    width: Float64s,
    first_bead: int,
    step: int,
    k0: int,
    k1: int,
    dt: float,
    decay: float,
    nm: Float64s,
) -> None:
    """Make one LangevinMiddle step (Zhang et al. 2019, OpenMM's order) of all beads ``(N, 3)``.

    Parameters
    ----------
    x, v
        Positions (Å) and velocities (Å/ps); they are changed.
    force
        kJ/mol/nm at ``x``.
    inverse_mass, width
        1/amu, 0 for a bead that does not move; standard deviation of the noise, Å/ps: ``(N,)``.
    first_bead, step, k0, k1
        Number of the first bead among all replicas, number of the step and key, which select the noise.
    dt, decay
        Time step, ps; exp(-friction·dt): 1 gives the leapfrog scheme without a thermostat.
    nm
        Receives the new positions, nm.
    """
    for i in range(len(x)):
        w = inverse_mass[i]
        if w > 0.0:
            noise = _normals(step, first_bead + i, k0, k1)
            for c in range(3):
                u = v[i, c] + dt * _ACCELERATION * w * force[i, c]
                middle = x[i, c] + 0.5 * dt * u
                u = decay * u + width[i] * noise[c]
                x[i, c] = middle + 0.5 * dt * u
                v[i, c] = u
        for c in range(3):
            nm[i, c] = x[i, c] / _ANGSTROM_PER_NM
