"""The potential energy of each replica, which an OpenMM Context does not give: it has one for the System."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.dynamics.fast_force import load_fast
from cgal_plugin.dynamics.force import ScriptedPotential
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings

#: energies ``(n_replicas,)`` kJ/mol at positions ``(n_replicas·beads, 3)`` nm
Evaluate = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]


class ReplicaEnergies:
    """Callable: energies ``(n_replicas,)`` kcal/mol at positions ``(n_replicas, beads, 3)`` Å.

    Raises
    ------
    DynamicsError
        The file has no energy of a replica: it was not written by ``cgal export``.
    """

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        try:
            self._evaluate = _fast(settings) if settings.backend == "fast" else _module(settings, device)
        except ExportError as error:
            raise DynamicsError(str(error)) from error

    def __call__(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            found = self._evaluate(positions.reshape(-1, 3) / ANGSTROM_PER_NM)
        except RuntimeError as error:  # raised by the code of a TorchScript file
            reason = str(error).strip().splitlines()[-1]
            raise DynamicsError(f"the energies of the replicas cannot be evaluated: {reason}") from error
        return np.asarray(found, dtype=np.float64) / KJ_PER_KCAL


def _fast(settings: Settings) -> Evaluate:
    return load_fast(settings.potential, settings.n_replicas).replica_energies


def _module(settings: Settings, device: str) -> Evaluate:
    import torch

    module = ScriptedPotential(settings.potential, device, settings.n_replicas).load()
    if not hasattr(module, "replica_energies"):
        raise DynamicsError(
            f"potential {str(settings.potential)!r} gives no energy of a replica, which exchanges of "
            "temperatures need; make it with `cgal export`"
        )

    def evaluate(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            energies = module.replica_energies(torch.from_numpy(positions).to(device))
        found: NDArray[np.float64] = energies.to("cpu", torch.float64).numpy()
        return found

    return evaluate
