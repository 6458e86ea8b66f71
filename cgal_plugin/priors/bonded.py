"""Pure functions of the bonded prior terms: geometry and energies, in plain aten operations.

All functions can be compiled by TorchScript, work in float32 and float64, and have finite gradients for
finite input. Index tensors have one column per term: ``(2, n)``, ``(3, n)``, ``(4, n)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: |a × b|² below which a bead triple counts as collinear, Å⁴ (within 0.0004° for bonds of 3.8 Å)
COLLINEAR = 1e-8
#: |a|² below which two beads count as coincident, Å²
COINCIDENT = 1e-12
#: sin² of the bond angle below which a dihedral fades out (8.1° from straight)
FADE_SIN2 = 0.02


def bond_length(pos: Tensor, index: Tensor) -> Tensor:
    """Return the distances of bead pairs.

    Parameters
    ----------
    pos
        ``(n_beads, 3)`` float, Å.
    index
        ``(2, n)`` int64.

    Returns
    -------
    ``(n,)`` Å. Coincident beads give 1e-6 Å and a zero gradient instead of NaN.
    """
    d = pos.index_select(0, index[1]) - pos.index_select(0, index[0])
    return (d * d).sum(-1).clamp_min(1e-12).sqrt()


def bond_angle(pos: Tensor, index: Tensor) -> Tensor:
    """Return the angle at the middle bead of each triple, θ = atan2(|a × b|, a · b), accurate for all θ.

    Parameters
    ----------
    pos
        ``(n_beads, 3)`` float, Å.
    index
        ``(3, n)`` int64; row 1 is the middle bead.

    Returns
    -------
    ``(n,)`` rad in (0, π). The direction of the gradient is undefined at 0 and π; there |a × b| is set to
    1e-4 Å² to keep the gradient finite.
    """
    centre = pos.index_select(0, index[1])
    a = pos.index_select(0, index[0]) - centre
    b = pos.index_select(0, index[2]) - centre
    n = torch.linalg.cross(a, b, dim=-1)
    s = (n * n).sum(-1).clamp_min(1e-8).sqrt()
    return torch.atan2(s, (a * b).sum(-1))


def bond_angle_cosine(pos: Tensor, index: Tensor) -> Tensor:
    """Return the cosine of the angle at the middle bead of each triple, which is smooth at 0 and π.

    Parameters and shapes as in :func:`bond_angle`; returns ``(n,)``.
    """
    centre = pos.index_select(0, index[1])
    a = pos.index_select(0, index[0]) - centre
    b = pos.index_select(0, index[2]) - centre
    square = ((a * a).sum(-1) * (b * b).sum(-1)).clamp_min(1e-12)
    return (a * b).sum(-1) / square.sqrt()


def dihedral_angle(pos: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the dihedral angle of each quadruple (IUPAC sign) and its fade factor.

    Parameters
    ----------
    pos
        ``(n_beads, 3)`` float, Å.
    index
        ``(4, n)`` int64, beads in the order of the chain.

    Returns
    -------
    angle, fade
        ``(n,)`` rad in (−π, π], and ``(n,)`` in [0, 1]. The fade factor is exactly 1 unless one of the two
        bond angles is within 8.1° of straight (sin² < 0.02); it then falls smoothly to 0 at a straight
        angle, where the dihedral is undefined and its gradient would diverge as 1/sin θ.
    """
    p1 = pos.index_select(0, index[1])
    p2 = pos.index_select(0, index[2])
    a = p1 - pos.index_select(0, index[0])
    b = p2 - p1
    c = pos.index_select(0, index[3]) - p2
    n1 = torch.linalg.cross(a, b, dim=-1)
    n2 = torch.linalg.cross(b, c, dim=-1)
    b2 = (b * b).sum(-1).clamp_min(1e-12)
    x = (n1 * n2).sum(-1)
    y = b2.sqrt() * (a * n2).sum(-1)
    undefined = x * x + y * y < 1e-12
    x = torch.where(undefined, torch.ones_like(x), x)
    y = torch.where(undefined, torch.zeros_like(y), y)
    u1 = _sin2(n1, a, b2)
    u2 = _sin2(n2, c, b2)
    fade = u1 * u1 * (3.0 - 2.0 * u1) * (u2 * u2 * (3.0 - 2.0 * u2))
    return torch.atan2(y, x), fade


def _sin2(n: Tensor, a: Tensor, b2: Tensor) -> Tensor:
    """Return sin² of the angle between a and b over FADE_SIN2 (0.02), at most 1; n = a × b, b2 = |b|²."""
    return ((n * n).sum(-1) / ((a * a).sum(-1).clamp_min(1e-12) * b2 * 0.02)).clamp_max(1.0)


def harmonic_energy(x: Tensor, k: Tensor, x0: Tensor) -> Tensor:
    """Return ½ k (x − x₀)² of bonds (x in Å, k in kcal/mol/Å²), angles (rad, kcal/mol/rad²) or cosines.

    All ``(n,)``; returns ``(n,)`` kcal/mol.
    """
    return 0.5 * k * (x - x0).square()


def dihedral_energy(angle: Tensor, k: Tensor, phase: Tensor, fade: Tensor) -> Tensor:
    """Return Σₘ kₘ (1 + f cos(m φ − φ₀ₘ)), m = 1, 2, ... for the columns of ``k``.

    Parameters
    ----------
    angle
        φ, ``(n,)`` rad.
    k, phase
        ``(n, n_multiplicities)`` kcal/mol and rad.
    fade
        f, ``(n,)`` from :func:`dihedral_angle`. At a straight bond angle (f = 0) the energy is its average
        over φ and the force is finite. Ones give the plain cosine series.

    Returns
    -------
    ``(n,)`` kcal/mol.
    """
    m = torch.arange(1, k.shape[1] + 1, dtype=angle.dtype, device=angle.device)
    cosine = torch.cos(angle.unsqueeze(1) * m - phase)
    return (k * (1.0 + fade.unsqueeze(1) * cosine)).sum(1)


def cosine_series(x: Tensor, c: Tensor) -> Tensor:
    """Return Σₘ cₘ cos m x, m = 1, 2, ...

    Parameters
    ----------
    x
        ``(n,)`` rad.
    c
        ``(n, m)`` kcal/mol.

    Returns
    -------
    ``(n,)`` kcal/mol.
    """
    m = torch.arange(1, c.shape[1] + 1, dtype=x.dtype, device=x.device)
    return (c * torch.cos(x.unsqueeze(-1) * m)).sum(-1)
