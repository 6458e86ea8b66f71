"""The comparison of an exported potential with the model that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from cgal_plugin.errors import ExportError
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from cgal_plugin.mapping.topology import CGTopology


def prepare(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model on the CPU that computes energies only."""
    copied: Any = copy.deepcopy(model).to(device="cpu", dtype=dtype).eval()
    copied.derivative = False
    return cast("nn.Module", copied)


def stretched_chain(n: int) -> NDArray[np.float64]:
    """Return jittered beads ``(n, 3)`` Å with few neighbours, centred at the origin.

    They are on a line; more than 256 on a wide helix, where float32 loses no digits.
    """
    step: NDArray[np.float64] = np.array([2.6, 1.4, 0.9])
    beads: NDArray[np.float64] = np.outer(np.arange(n), step)
    if n > 256:
        radius, rise = 120.0, 50.0
        angle = np.arange(n) * (np.linalg.norm(step) / radius)
        circle = [radius * np.cos(angle), radius * np.sin(angle), rise / (2.0 * np.pi) * angle]
        beads = np.stack(circle, axis=1)
    beads += np.random.default_rng(0).normal(scale=0.7, size=(n, 3))
    beads -= beads.mean(0)
    return beads


def check_against_model(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    n_replicas: int,
    dtype: torch.dtype,
    model: nn.Module,
    topology: CGTopology,
) -> None:
    """Compare a potential with its model on a stretched, jittered chain with few neighbours.

    Parameters
    ----------
    evaluate
        The potential: positions ``(n_replicas·N, 3)`` nm to energies ``(n_replicas,)`` kcal/mol and forces
        ``(n_replicas, N, 3)`` kcal/mol/Å.
    dtype
        Dtype of the potential and the model.

    Raises
    ------
    ExportError
        Energies or forces differ by more than rounding: the model does not compute what its parameters
        define, for example because a subclass of CGSchNet overrides ``forward``.
    """
    from cgal_plugin.export.assemble import index_tables

    n = topology.n_beads
    pos = torch.from_numpy(stretched_chain(n)).to(dtype)
    z = torch.from_numpy(np.array(topology.types, dtype=np.int64))
    with torch.enable_grad():
        positions = pos.clone().requires_grad_(True)
        # priors of a model for several molecules take their terms from the tables
        energy = model(z, positions, extra_args=index_tables(topology))[0]
        forces = -torch.autograd.grad(energy.sum(), positions)[0]
    energy = energy.detach()
    every, found = evaluate((pos / ANGSTROM_PER_NM).repeat(n_replicas, 1))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-8
    force_gap = float((found - forces).abs().max()) / (1.0 + float(forces.abs().max()))
    energy_gap = float((every - energy.sum()).abs().max()) / (1.0 + float(energy.abs().sum()))
    if not (force_gap < tolerance and energy_gap < tolerance):
        raise ExportError(
            f"the exported potential differs from the model by {energy_gap:.1e} in the energy and "
            f"{force_gap:.1e} in the forces (relative): {type(model.representation_model).__name__} does not "
            "compute what its parameters define"
        )


def check_engine_against_model(
    engine: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    model: nn.Module,
    topology: CGTopology,
) -> None:
    """Compare a compiled engine for one replica with its model, priors included, as an export does.

    This detects, for example, an overridden ``forward``. Raises :func:`check_against_model`'s ExportError.
    """

    def evaluate(positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = engine(positions.numpy())
        unit = KJ_PER_KCAL * ANGSTROM_PER_NM
        return torch.tensor([energy / KJ_PER_KCAL]), torch.from_numpy(forces / unit)

    check_against_model(evaluate, 1, torch.float32, prepare(model, torch.float32), topology)
