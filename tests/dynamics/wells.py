"""TorchScript potentials with closed forms and the energy of each replica: nm, kJ/mol, kJ/mol/nm."""

from __future__ import annotations

from typing import Tuple  # noqa: UP035 (TorchScript reads the annotation)

import torch


class Wells(torch.nn.Module):
    """Independent beads: ``k/2 r²``, and for x of bead 0 ``barrier ((x/a)² - 1)² + tilt x/a`` instead.

    ``barrier`` and ``tilt`` in kJ/mol, ``a`` in nm, ``k`` in kJ/mol/nm². With ``barrier=0`` all is harmonic.
    Forces of a replica beyond ``limit`` nm are NaN.
    """

    def __init__(
        self,
        n_replicas: int,
        n_beads: int,
        k: float = 300.0,
        barrier: float = 0.0,
        a: float = 0.1,
        tilt: float = 0.0,
        limit: float = 1e9,
    ) -> None:
        super().__init__()
        self.n_replicas, self.n_beads = n_replicas, n_beads
        self.k, self.barrier, self.a, self.tilt, self.limit = k, barrier, a, tilt, limit

    def terms(self, positions: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:  # noqa: UP006
        x = positions.view(self.n_replicas, self.n_beads, 3)
        energy = 0.5 * self.k * (x * x).sum(-1).sum(-1)
        force = -self.k * x
        if self.barrier != 0.0:
            s = x[:, 0, 0] / self.a
            energy = energy - 0.5 * self.k * x[:, 0, 0] ** 2
            energy = energy + self.barrier * (s * s - 1) ** 2 + self.tilt * s
            force[:, 0, 0] = -(4 * self.barrier * s * (s * s - 1) + self.tilt) / self.a
        far = (x.abs().amax(-1).amax(-1) > self.limit).view(-1, 1, 1)
        return energy, torch.where(far, force * float("nan"), force)

    @torch.jit.export
    def replica_energies(self, positions: torch.Tensor) -> torch.Tensor:
        return self.terms(positions)[0]

    def forward(self, positions: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:  # noqa: UP006
        energy, force = self.terms(positions)
        return energy.sum(), force.reshape(-1, 3)
