"""A hand-written TorchScript potential with the exported file's contract: nm, kJ/mol, kJ/mol/nm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Tuple  # noqa: UP035 (TorchScript reads the annotation)

import torch


class HarmonicChain(torch.nn.Module):
    """Springs between neighbouring beads: k in kJ/mol/nm², r0 in nm.

    Faults on request, each where a bead's distance from its replica's centre exceeds ``limit`` (nm):
    ``fault=1`` makes that replica's forces NaN, ``fault=2`` raises, ``fault=3`` drives it apart, and
    ``fault=4`` drives it apart and raises beyond twice the limit. ``self_term`` (kJ/mol/nm²) holds
    every bead to the origin. An ``energy_factor`` other than one makes forces and energy disagree.
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
    ) -> None:
        super().__init__()
        self.n_replicas, self.n_beads = n_replicas, n_beads
        self.energy_factor = energy_factor
        self.k, self.r0, self.fault, self.limit, self.self_term = k, r0, fault, limit, self_term

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


def save_potential(module: torch.nn.Module, path: Path, metadata: dict | None = None) -> Path:
    """Script and save a module, with ``cgal.json`` if metadata are given."""
    extra = {} if metadata is None else {"cgal.json": json.dumps(metadata)}
    torch.jit.script(module).save(str(path), _extra_files=extra)
    return path


def chain_start(n_replicas: int, n_beads: int, spacing: float = 3.8):
    """Straight chains, ``(n_replicas, n_beads, 3)`` Å."""
    import numpy as np

    start = np.zeros((n_replicas, n_beads, 3))
    start[..., 0] = spacing * np.arange(n_beads)
    return start


def coil_start(n_replicas: int, n_beads: int, seed: int = 0):
    """The same random coil for every replica, ``(n_replicas, n_beads, 3)`` Å."""
    import numpy as np

    steps = np.random.default_rng(seed).normal(size=(n_beads - 1, 3))
    steps *= 3.8 / np.linalg.norm(steps, axis=1, keepdims=True)
    coil = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return np.repeat(coil[None], n_replicas, axis=0)


def largest_extent(frames):
    """Distance of the outermost bead from the centre, nm, of each of ``(n, beads, 3)`` Å frames."""
    import numpy as np

    return np.linalg.norm(frames - frames.mean(axis=1, keepdims=True), axis=-1).max(axis=1) / 10
