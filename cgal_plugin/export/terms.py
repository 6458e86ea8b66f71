"""The priors in an exported potential: energies and analytical gradients for R replicas at once.

The energies equal those of :mod:`cgal_plugin.priors`; tests check the gradients against autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgal_plugin.priors.bonded import harmonic_energy
from cgal_plugin.priors.nonbonded import repulsion_energy

#: pairs times centres that are evaluated together
_SERIES_AT_A_TIME = 2_000_000


class PairTerm(nn.Module):
    """Bonds or repulsion on a list of pairs; pairs without the term have a zero force constant.

    ``forward(r (R, P) Å, float64) -> energy (R,), dE/dr (R, P)``; dE/dr in the dtype of the parameters.
    Bonds use the float64 distance: float32 rounds 3.8 Å by 1e-7 Å, and a stiff bond amplifies this error.
    """

    if TYPE_CHECKING:
        first: Tensor
        second: Tensor

    def __init__(self, first: Tensor, second: Tensor, power: int) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and dE/dr."""
        if self.power == 0:
            energy = harmonic_energy(r, self.first, self.second)
            return energy.sum(1), (self.first * (r - self.second)).to(self.first.dtype)
        r = r.to(self.first.dtype)
        energy = repulsion_energy(r, self.first, self.second, self.power)
        outside = torch.maximum(r, 0.1 * self.second)
        slope = self.first * (-self.power / outside) * (self.second / outside).pow(self.power)
        return energy.sum(1), slope


class SeriesTerm(nn.Module):
    """Gaussian pair series (``CGPairs``) on a list of pairs; row 0 of the coefficients is zero.

    ``forward(r (R, P) Å, float64) -> energy (R,), dE/dr (R, P)`` in the dtype of the coefficients.
    ``coefficients`` ``(n_rows, n_centres)``, ``row`` ``(P,)``.
    """

    if TYPE_CHECKING:
        coefficients: Tensor
        row: Tensor
        k: Tensor

    def __init__(self, coefficients: Tensor, row: Tensor, first: float, width: float) -> None:
        super().__init__()
        self.start, self.width, self.most = first, width, _SERIES_AT_A_TIME
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("row", row)
        self.register_buffer("k", torch.arange(coefficients.shape[1], dtype=coefficients.dtype))

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and dE/dr."""
        # a few centres at a time in a large molecule, to limit memory
        n = self.k.shape[0]
        step = max(1, min(n, self.most // max(1, r.numel())))
        x = ((r - self.start) / self.width).to(self.k.dtype).unsqueeze(2)
        energy = torch.zeros_like(x[:, 0, 0])
        slope = torch.zeros_like(x[:, :, 0])
        for lo in range(0, n, step):
            t = x - self.k[lo : lo + step]
            e = self.coefficients[:, lo : lo + step].index_select(0, self.row) * torch.exp(-0.5 * t * t)
            energy = energy + e.sum(2).sum(1)
            slope = slope - (e * t).sum(2)
        return energy, slope / self.width


class AngleTerm(nn.Module):
    """Harmonic terms in angles or their cosines, and a cosine series Σ cₘ cos mθ if ``c (n, m)`` is given.

    ``forward(a, b (R, n, 3) Å) -> energy (R,), dE/da, dE/db``; a and b point from the middle bead outwards.
    """

    if TYPE_CHECKING:
        k: Tensor
        x0: Tensor
        c: Tensor
        m: Tensor

    def __init__(self, use_cosine: bool, k: Tensor, x0: Tensor, c: Tensor | None = None) -> None:
        super().__init__()
        self.use_cosine = bool(use_cosine)
        self.register_buffer("k", k)
        self.register_buffer("x0", x0)
        c = k.new_zeros(k.shape[0], 0) if c is None else c
        self.register_buffer("c", c)
        self.register_buffer("m", torch.arange(1, c.shape[1] + 1, dtype=k.dtype))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return energy and gradients."""
        c = (a * b).sum(-1)
        series = torch.zeros_like(c)
        if self.use_cosine:
            a2, b2 = (a * a).sum(-1), (b * b).sum(-1)
            square = a2 * b2
            safe = square.clamp_min(1e-12)
            root = safe.rsqrt()
            x = c * root
            g = self.k * (x - self.x0) * root
            # the denominator is constant below the clamp
            h = g * c / safe * (square >= 1e-12).to(a.dtype)
            da = g.unsqueeze(-1) * b - (h * b2).unsqueeze(-1) * a
            db = g.unsqueeze(-1) * a - (h * a2).unsqueeze(-1) * b
        else:
            n = torch.linalg.cross(a, b, dim=-1)
            square = (n * n).sum(-1)
            s = square.clamp_min(1e-8).sqrt()
            x = torch.atan2(s, c)
            mx = x.unsqueeze(-1) * self.m
            series = (self.c * torch.cos(mx)).sum(-1)
            slope = self.k * (x - self.x0) - (self.c * self.m * torch.sin(mx)).sum(-1)
            g = slope / (s * s + c * c)
            h = (g * c / s * (square >= 1e-8).to(a.dtype)).unsqueeze(-1)
            gs = (g * s).unsqueeze(-1)
            da = h * torch.linalg.cross(b, n, dim=-1) - gs * b
            db = h * torch.linalg.cross(n, a, dim=-1) - gs * a
        return (harmonic_energy(x, self.k, self.x0) + series).sum(1), da, db


class DihedralTerm(nn.Module):
    """Cosine series of dihedrals, with a switching factor that vanishes at straight bond angles.

    ``forward(a, b, c (R, n, 3) Å) -> energy (R,), dE/da, dE/db, dE/dc``; the bonds 0→1, 1→2, 2→3.
    """

    if TYPE_CHECKING:
        k: Tensor
        phase: Tensor
        m: Tensor

    def __init__(self, k: Tensor, phase: Tensor) -> None:
        super().__init__()
        self.register_buffer("k", k)
        self.register_buffer("phase", phase)
        self.register_buffer("m", torch.arange(1, k.shape[1] + 1, dtype=k.dtype))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return energy and gradients (Blondel & Karplus 1996; product rule for the switching factor)."""
        n1, n2 = torch.linalg.cross(a, b, dim=-1), torch.linalg.cross(b, c, dim=-1)
        raw_b2 = (b * b).sum(-1)
        b2 = raw_b2.clamp_min(1e-12)
        root = b2.sqrt()
        s1, s2 = (n1 * n1).sum(-1), (n2 * n2).sum(-1)
        a2, c2 = (a * a).sum(-1).clamp_min(1e-12), (c * c).sum(-1).clamp_min(1e-12)
        x, y = (n1 * n2).sum(-1), root * (a * n2).sum(-1)
        undefined = x * x + y * y < 1e-12
        x = torch.where(undefined, torch.ones_like(x), x)
        y = torch.where(undefined, torch.zeros_like(y), y)
        phi = torch.atan2(y, x)
        t1, t2 = s1 / (a2 * b2 * 0.02), s2 / (c2 * b2 * 0.02)
        u1, u2 = t1.clamp_max(1.0), t2.clamp_max(1.0)
        f1, f2 = u1 * u1 * (3.0 - 2.0 * u1), u2 * u2 * (3.0 - 2.0 * u2)
        fade = f1 * f2
        angle = phi.unsqueeze(-1) * self.m - self.phase
        cosine = (self.k * torch.cos(angle)).sum(-1)
        energy = (self.k.sum(-1) + fade * cosine).sum(1)
        d_phi = -(self.k * self.m * torch.sin(angle)).sum(-1) * fade
        d_phi = torch.where(undefined, torch.zeros_like(d_phi), d_phi)
        # dφ/da = (|b|/n1²) n1, dφ/dc = (|b|/n2²) n2, dφ/db from the projections of a and c on b
        g1 = (d_phi * root / s1.clamp_min(1e-24)).unsqueeze(-1) * n1
        g2 = (d_phi * root / s2.clamp_min(1e-24)).unsqueeze(-1) * n2
        p1, p2 = ((a * b).sum(-1) / b2).unsqueeze(-1), ((c * b).sum(-1) / b2).unsqueeze(-1)
        da, dc = g1, g2
        db = -p1 * g1 - p2 * g2
        # switching factor: dt/dn = 2n/(0.02 |v|²|b|²), and −2t/|v|² v for both vectors v in the denominator
        e1 = cosine * f2 * 6.0 * u1 * (1.0 - u1)
        e2 = cosine * f1 * 6.0 * u2 * (1.0 - u2)
        h1 = (2.0 * e1 / (a2 * b2 * 0.02)).unsqueeze(-1) * n1
        h2 = (2.0 * e2 / (c2 * b2 * 0.02)).unsqueeze(-1) * n2
        w1, w2 = 2.0 * e1 * t1, 2.0 * e2 * t2
        da = da + torch.linalg.cross(b, h1, dim=-1) - (w1 / a2).unsqueeze(-1) * a
        dc = dc + torch.linalg.cross(h2, b, dim=-1) - (w2 / c2).unsqueeze(-1) * c
        db = db + torch.linalg.cross(h1, a, dim=-1) + torch.linalg.cross(c, h2, dim=-1)
        db = db - ((w1 + w2) / b2).unsqueeze(-1) * b
        return energy, da, db, dc
