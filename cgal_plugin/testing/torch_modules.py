"""The contracts of a TorchMD-Net model and of a prior."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_prior(prior: Any, topology: Any, frames: Any, *, tolerance: float = 1e-6) -> None:
    """Check that a TorchMD-Net prior keeps the contract that training, restart and dynamics rely on.

    Parameters
    ----------
    prior
        The prior, built for ``topology``. It is copied, not changed.
    topology
        :class:`~cgal_plugin.mapping.CGTopology` of one molecule.
    frames
        ``(n, beads, 3)`` Å, at least two, of that molecule.
    tolerance
        Relative error of energies; 1,000 times as much is allowed between forces and finite differences.

    Raises
    ------
    AssertionError
        The prior breaks the contract; the message says how.
    """
    import copy

    import torch
    from torchmdnet.priors.base import BasePrior

    frames = np.array(frames, dtype=np.float64)
    assert isinstance(prior, BasePrior), f"{type(prior).__name__} is not a torchmdnet.priors.base.BasePrior"
    assert frames.ndim == 3, f"frames have shape {frames.shape}; expected (n, beads, 3)"
    assert len(frames) >= 2, "give at least two frames"
    arguments = prior.get_init_args()
    _check_plain(arguments, "get_init_args()")
    own = copy.deepcopy(prior).double()
    again = type(prior)(**copy.deepcopy(arguments)).double()
    assert again.get_init_args() == arguments, "a prior rebuilt from get_init_args() returns other arguments"
    again.reset_parameters()

    def energy(which: Any, coordinates: Any) -> Any:
        n, beads = coordinates.shape[:2]
        z = torch.tensor(np.tile(topology.types, n))
        batch = torch.arange(n).repeat_interleave(beads)
        x = torch.zeros(n * beads, 1, dtype=torch.float64)
        pos = coordinates.reshape(-1, 3)
        per_bead = which.pre_reduce(x, z, pos, batch, None).reshape(n, beads).sum(1, keepdim=True)
        found = which.post_reduce(per_bead, z, pos, batch, None, None)
        assert tuple(found.shape) == (n, 1), f"energies have shape {tuple(found.shape)}; expected ({n}, 1)"
        return found

    positions = torch.tensor(frames, requires_grad=True)
    together = energy(own, positions)
    assert torch.isfinite(together).all(), "an energy is not finite"
    scale = 1.0 + float(together.detach().abs().max())

    def same(a: Any, b: Any, message: str) -> None:
        gap = float((a - b).detach().abs().max()) / scale
        assert gap < tolerance, f"{message} (relative difference {gap:.1e})"

    same(together, energy(again, positions), "a prior rebuilt from get_init_args() has another energy")
    alone = torch.cat([energy(own, positions[i : i + 1]) for i in range(len(frames))])
    same(together, alone, "the energy of a frame depends on the batch it is in")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = torch.tensor(frames @ rotation.T + np.array([11.0, -7.0, 3.0]))
    same(together, energy(own, moved), "the energy changes under rotation and translation")

    (gradient,) = torch.autograd.grad(together.sum(), positions)
    assert torch.isfinite(gradient).all(), "a force is not finite"
    direction = torch.tensor(np.random.default_rng(1).normal(size=frames.shape))
    step, fixed = 1e-5, positions.detach()
    rise = (energy(own, fixed + step * direction) - energy(own, fixed - step * direction)).sum() / (2 * step)
    slope = (gradient * direction).sum()
    gap = float((rise - slope).abs()) / (1.0 + float(gradient.abs().max()))
    assert gap < 1e3 * tolerance, f"forces are not the gradient of the energy (relative difference {gap:.1e})"


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int), f"{where} has the key {key!r}; use plain strings"
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    else:
        assert type(value) in (str, int, float, bool, type(None)), (
            f"{where} is {type(value).__name__}; a checkpoint needs plain Python values"
        )


def check_model(model: Any, types: Any, frame: Any, *, tolerance: float = 1e-6) -> None:
    """Check that a TorchMD-Net model of a CG molecule can be trained and simulated.

    Energies are invariant and forces equivariant under translation, rotation and permutation of beads, and do
    not depend on the rest of the batch; forces are minus the gradient of the energy; a loss on forces has a
    gradient in the parameters.

    Parameters
    ----------
    model
        A ``TorchMD_Net`` with ``derivative=True``, without priors that store tables of bead indices.
        A float64 copy is checked.
    types
        ``(n_beads,)`` bead types.
    frame
        ``(n_beads, 3)`` Å.
    tolerance
        Relative to the largest energy and force.

    Raises
    ------
    AssertionError
        The model breaks the contract; the message says how.
    """
    import copy

    import torch

    model = copy.deepcopy(model).to(torch.float64).eval()
    z = torch.as_tensor(np.asarray(types), dtype=torch.long)
    pos = torch.as_tensor(np.asarray(frame), dtype=torch.float64)
    n = len(z)

    def evaluate(z: Any, pos: Any, batch: Any = None) -> tuple[Any, Any]:
        energy, forces = model(z, pos.clone(), batch)
        return energy.detach(), forces.detach()

    energy, forces = evaluate(z, pos)
    assert energy.shape == (1, 1), f"energy has shape {tuple(energy.shape)}; expected (n_molecules, 1)"
    assert forces.shape == (n, 3), f"forces have shape {tuple(forces.shape)}; expected (n_beads, 3)"
    assert bool(torch.isfinite(energy).all() and torch.isfinite(forces).all()), "not finite"
    room = tolerance * max(1.0, float(energy.abs().max()), float(forces.abs().max()))

    def same(a: Any, b: Any, what: str) -> None:
        worst = float((a - b).abs().max())
        assert worst <= room, f"{what} differ by {worst:.2e} (allowed {room:.2e})"

    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    moved, turned = evaluate(z, pos @ turn.T + 7.0)
    same(moved, energy, "energies under translation and rotation")
    same(turned, forces @ turn.T, "forces under translation and rotation")
    order = torch.randperm(n, generator=generator)
    same(evaluate(z[order], pos[order])[0], energy, "energies under permutation of beads")
    same(evaluate(z[order], pos[order])[1], forces[order], "forces under permutation of beads")
    other = pos + 0.1 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    batch = torch.arange(2).repeat_interleave(n)
    together = evaluate(torch.cat([z, z]), torch.cat([pos, other]), batch)
    same(together[0][:1], energy, "energies alone and in a batch")
    same(together[1][:n], forces, "forces alone and in a batch")
    step = 1e-4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    slope = evaluate(z, pos + step)[0] - evaluate(z, pos - step)[0]
    expected = -2 * (forces * step).sum()
    assert abs(float(slope - expected)) <= 1e-4 * float((forces.abs() * step.abs()).sum()) + 1e-12, (
        f"forces are not minus the gradient: the energy changes by {float(slope):.3e}, "
        f"the forces say {float(expected):.3e}"
    )
    model.train()
    model(z, pos.clone())[1].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients, "a loss on the forces has no gradient in any parameter"
    assert any(bool(g.abs().max() > 0) for g in gradients), "a loss on the forces has no gradient"
