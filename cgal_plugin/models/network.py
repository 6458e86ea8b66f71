"""A TorchMD_Net with CGSchNet whose training step does not differentiate distances twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmdnet.models.model import TorchMD_Net

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.cgschnet import CGSchNet
from cgal_plugin.models.distances import cosine_cutoff, radial_basis
from cgal_plugin.models.filter_grid import Stencils, grid
from cgal_plugin.models.pair_functions import Stage, convolution, derivatives, filters
from cgal_plugin.priors.base import CGPrior

__all__ = ["CGNet"]


class CGNet(TorchMD_Net):  # type: ignore[misc]  # torchmdnet has no types
    """A ``TorchMD_Net`` with :class:`CGSchNet`; parameters, checkpoints and results are the same.

    In training mode, forces are computed from dE/dr of every pair with distances held constant. A loss on
    energies and forces then gets its exact gradient with respect to the weights, in fewer and larger
    operations (see :mod:`cgal_plugin.models.pair_functions`), but the result cannot be differentiated with
    respect to positions. The method of TorchMD_Net is used in evaluation mode, for positions that require a
    gradient, with a periodic box, and for options that the fast method does not support (``aggr`` other than
    ``add``, neighbour embedding, ``mish``, priors of other packages).
    """

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        box: Tensor | None = None,
        q: Tensor | None = None,
        s: Tensor | None = None,
        extra_args: dict[str, Tensor] | None = None,
        num_systems: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return ``(energy (n_molecules, 1) kcal/mol, forces (n_beads, 3) kcal/mol/Å)`` as TorchMD_Net does.

        Forces are also computed inside ``torch.no_grad()`` and ``torch.inference_mode()``.

        Parameters
        ----------
        z, pos, batch
            ``(n_beads,)`` bead types, ``(n_beads, 3)`` Å, ``(n_beads,)`` molecule of each bead
            (None: one molecule).
        box, q, s, extra_args, num_systems
            As in TorchMD_Net.

        Raises
        ------
        ConfigError
            A bead type is not below ``max_z``.
        """
        if self.derivative and not torch.is_grad_enabled():
            # inside torch.no_grad() or torch.inference_mode(), whose tensors cannot be differentiated
            with torch.inference_mode(False), torch.enable_grad():
                z, pos = z.clone(), pos.detach().clone()
                batch, box = (t if t is None else t.clone() for t in (batch, box))
                extra_args = None if extra_args is None else {k: t.clone() for k, t in extra_args.items()}
                y, forces = self.forward(z, pos, batch, box, q, s, extra_args, num_systems)
            return y.detach(), forces.detach()
        try:
            return self._forward(z, pos, batch, box, q, s, extra_args, num_systems)
        except IndexError as error:
            size = self.representation_model.embedding.num_embeddings
            if not z.numel() or 0 <= int(z.min()) <= int(z.max()) < size:
                raise
            raise ConfigError(
                f"bead types {int(z.min())} to {int(z.max())} do not fit this model: max_z is {size}. Use "
                "its own topology, or train with a larger max_z (default 100)"
            ) from error

    def _forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        box: Tensor | None,
        q: Tensor | None,
        s: Tensor | None,
        extra_args: dict[str, Tensor] | None,
        num_systems: int | None,
    ) -> tuple[Tensor, Tensor]:
        if not self._is_fast(pos, box):
            result: tuple[Tensor, Tensor] = super().forward(z, pos, batch, box, q, s, extra_args, num_systems)
            return result
        batch = torch.zeros_like(z) if batch is None else batch
        y, forces = self.network(z, pos, batch, num_systems)
        if self.prior_model:  # cgal-train without priors has an empty list
            prior_y, prior_forces = self._priors(y, z, pos, batch, extra_args)
            y, forces = y + prior_y, forces + prior_forces
        return y, forces

    def _is_fast(self, pos: Tensor, box: Tensor | None) -> bool:
        return (
            self.training
            and torch.is_grad_enabled()
            and not pos.requires_grad
            and box is None
            and self.can_be_fast()
        )

    def can_be_fast(self) -> bool:
        """Return whether the fast method supports the options of this model."""
        net = self.representation_model
        return (
            self.derivative
            and isinstance(net, CGSchNet)
            and not net.distance.use_periodic
            and net.aggr == "add"
            and net.neighbor_embedding is None
            and derivatives(net.activation) is not None
            and all(isinstance(p, CGPrior) for p in self.prior_model or ())
        )

    def network(
        self, z: Tensor, pos: Tensor, batch: Tensor, num_systems: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energies and forces as :meth:`forward` does, in training mode and without the priors."""
        net, output = self.representation_model, self.output_model
        with torch.no_grad():
            i, j, r = net.pairs(pos, batch)
            apart = pos.index_select(0, i) - pos.index_select(0, j)
            # as in CGSchNet.pairs: coincident beads exert no force
            apart = apart / r.unsqueeze(1) * (apart.square().sum(1, keepdim=True) >= 1e-12)
        stand_in = torch.zeros_like(r).requires_grad_(True)
        stage = Stage()
        x = _features(net, z, r, stand_in, i, j, stage)
        x = output.pre_reduce(x, None, z, pos, batch, box=None) * self.std
        y = output.post_reduce(output.reduce(x, batch, num_systems=num_systems) + self.mean)
        stage.forces = True
        try:
            (slope,) = torch.autograd.grad(y, stand_in, torch.ones_like(y), create_graph=True)
        finally:
            stage.forces = False
        push = slope.unsqueeze(1) * apart
        return y, torch.zeros_like(pos).index_add(0, j, push).index_add(0, i, -push)

    def prior_forces(self, z: Tensor, pos: Tensor, batch: Tensor, tables: dict[str, Tensor]) -> Tensor:
        """Return the forces of the priors alone, ``(n_beads, 3)`` kcal/mol/Å; ``tables``: their indices."""
        if not self.prior_model:
            return torch.zeros_like(pos)
        start = pos.new_zeros(int(batch[-1]) + 1, 1)
        return self._priors(start, z, pos, batch, tables)[1]

    def _priors(
        self, y: Tensor, z: Tensor, pos: Tensor, batch: Tensor, extra_args: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return energies and forces of the priors, detached: priors have no parameters to train."""
        pos = pos.detach().requires_grad_(True)
        energy = torch.zeros_like(y)
        for prior in self.prior_model:
            energy = prior.post_reduce(energy, z, pos, batch, None, extra_args)
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
        return energy.detach(), -gradient


def _features(
    net: CGSchNet, z: Tensor, r: Tensor, stand_in: Tensor, i: Tensor, j: Tensor, stage: Stage
) -> Tensor:
    """Return bead features ``(n_beads, F)``; the gradient of the distances goes to ``stand_in``."""
    lo, hi, n = net.distance.cutoff_lower, net.cutoff_upper, net.filter_grid
    stencils = None if n is None else Stencils(r, lo, hi, n)
    places = r if n is None else grid(lo, hi, n, r)
    with torch.set_grad_enabled(net.trainable_rbf):
        rbf, slope = radial_basis(net, places)
    with torch.no_grad():
        cutoff, cutoff_slope = cosine_cutoff(places.unsqueeze(1), lo, hi)
    act = derivatives(net.activation)
    x: Tensor = net.embedding(z)
    for number, block in enumerate(net.blocks()):
        first, second = block.mlp[0], block.mlp[2]
        w, w_slope = filters(
            rbf, slope, cutoff, cutoff_slope, first.weight, first.bias, second.weight, second.bias, act
        )
        if stencils is not None:
            w, w_slope = stencils(w), stencils(w_slope)
        # in the first block, beads of one type have the same features
        h = nn.functional.embedding(z, block.lin1(net.embedding.weight)) if number == 0 else block.lin1(x)
        summed = convolution(h, w, w_slope, stand_in, i, j, stage)
        x = x + block.lin(block.act(block.lin2(summed)))
    return x
