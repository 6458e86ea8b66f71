"""A hand-written TorchScript potential with the interface of exported files: nm, kJ/mol, kJ/mol/nm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Tuple  # noqa: UP035 (TorchScript reads the annotation)

import numpy as np
import torch


class HarmonicChain(torch.nn.Module):
    """Harmonic bonds between neighbouring beads: k in kJ/mol/nm², r0 in nm.

    A fault occurs when the distance of a bead from the centre of its replica exceeds ``limit`` (nm):
    ``fault=1`` makes the forces of that replica NaN, ``fault=2`` raises, ``fault=3`` drives it apart, and
    ``fault=4`` drives it apart and raises beyond twice the limit. ``self_term`` (kJ/mol/nm²) restrains
    every bead to the origin. ``well`` (kJ/mol/nm²) attracts beads to the centre of their replica, and repels
    those of replica 1 from it. With an ``energy_factor`` other than one, forces and energy disagree.
    """

    def __init__(
        self,
        n_replicas: int,
        n_beads: int,
        k: float = 20000.0,
        r0: float = 0.38,
        fault: int = 0,
        limit: float = 1e9,
        self_term: float = 0.0,
        energy_factor: float = 1.0,
        well: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_replicas, self.n_beads = n_replicas, n_beads
        self.energy_factor = energy_factor
        self.k, self.r0, self.fault, self.limit, self.self_term = k, r0, fault, limit, self_term
        self.well = well

    def forward(self, positions: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:  # noqa: UP006
        x = positions.view(self.n_replicas, self.n_beads, 3)
        d = x[:, 1:] - x[:, :-1]
        r = (d * d).sum(-1, keepdim=True).sqrt()
        energy = (0.5 * self.k * (r - self.r0) ** 2).sum()
        pull = self.k * (r - self.r0) * d / r
        zero = torch.zeros_like(x[:, :1])
        force = torch.cat([pull, zero], 1) - torch.cat([zero, pull], 1)
        energy = energy + 0.5 * self.self_term * (x * x).sum()
        force = force - self.self_term * x
        if self.well != 0.0:
            sign = torch.ones_like(x[:, :1, :1])
            sign[1] = -1.0
            c = x - x.mean(1, keepdim=True)
            energy = energy + 0.5 * self.well * (sign * c * c).sum()
            force = force - self.well * sign * c
        if self.fault != 0:
            size = ((x - x.mean(1, keepdim=True)) ** 2).sum(-1).sqrt().amax(1).view(-1, 1, 1)
            far = size > self.limit
            if self.fault == 1:
                force = torch.where(far, force * float("nan"), force)
            elif self.fault == 2:
                if bool(far.any()):
                    raise RuntimeError("a bead is too far out")
            else:
                if self.fault == 4 and bool((size > 2 * self.limit).any()):
                    raise RuntimeError("a bead is too far out")
                force = torch.where(far, 1e5 * (x - x.mean(1, keepdim=True)), force)
        return self.energy_factor * energy, force.reshape(-1, 3)


#: nm. With ``well=WELL`` replica 1 of a coil crosses this limit between steps 100 and 800; other replicas
#: never do. The outermost bead of replica 1 is at 0.74 ± 0.07 nm after 0.4 ps, 6.5 standard deviations below
#: the limit; at a friction of 1/ps the instability grows by exp(1.3 t/ps), a factor of 64 at 3.2 ps; beads of
#: other replicas have a standard deviation of 0.09 nm per coordinate. In all P < 1e-8 per simulation.
#: The instability heats replica 1, so the guard must not limit the temperature
WELL, CROSSED = 300.0, 1.2


def save_potential(module: torch.nn.Module, path: Path, metadata: dict | None = None) -> Path:
    """Script and save a module, with ``cgal.json`` if there are metadata."""
    extra = {} if metadata is None else {"cgal.json": json.dumps(metadata)}
    torch.jit.script(module).save(str(path), _extra_files=extra)
    return path


def chain_start(n_replicas: int, n_beads: int, spacing: float = 3.8) -> np.ndarray:
    """Return straight chains, ``(n_replicas, n_beads, 3)`` Å."""
    start = np.zeros((n_replicas, n_beads, 3))
    start[..., 0] = spacing * np.arange(n_beads)
    return start


def coil_start(n_replicas: int, n_beads: int, seed: int = 0) -> np.ndarray:
    """Return the same random coil for every replica, ``(n_replicas, n_beads, 3)`` Å."""
    steps = np.random.default_rng(seed).normal(size=(n_beads - 1, 3))
    steps *= 3.8 / np.linalg.norm(steps, axis=1, keepdims=True)
    coil = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return np.repeat(coil[None], n_replicas, axis=0)


def largest_extent(frames: np.ndarray) -> np.ndarray:
    """Return the distance of the outermost bead from the centre, nm, for ``(n, beads, 3)`` Å frames."""
    return np.linalg.norm(frames - frames.mean(axis=1, keepdims=True), axis=-1).max(axis=1) / 10
