"""The integrator of OpenMM: LangevinMiddle, with one bath or with one for each replica."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.dynamics.settings import Settings

#: name of the variable with the standard deviation of the noise, nm/ps
NOISE = "noise"


def make_integrator(settings: Settings) -> Any:
    """Return OpenMM's LangevinMiddleIntegrator, or the same scheme with a bath for each replica.

    OpenMM's integrator has one temperature. With ``settings.temperatures``, a CustomIntegrator repeats its
    scheme (Zhang et al., J. Phys. Chem. A 123, 6056, 2019) with noise per degree of freedom, which
    :func:`set_baths` sets. It takes some 0.4 µs per bead and step more on the Reference platform.
    """
    import openmm

    step, friction = settings.timestep_ps, settings.friction
    if not settings.temperatures:
        return openmm.LangevinMiddleIntegrator(settings.temperature, friction, step)
    integrator = openmm.CustomIntegrator(step)
    integrator.addGlobalVariable("decay", math.exp(-friction * step))
    integrator.addPerDofVariable(NOISE, 0.0)
    integrator.addPerDofVariable("kicked", 0.0)
    integrator.addComputePerDof("kicked", "v + dt*f/m")
    integrator.addComputePerDof("v", f"decay*kicked + {NOISE}*gaussian")
    integrator.addComputePerDof("x", "x + 0.5*dt*(kicked + v)")
    return integrator


def set_baths(integrator: Any, settings: Settings, temperatures: NDArray[np.float64]) -> None:
    """Set the noise of an integrator of :func:`make_integrator` to ``temperatures`` ``(n_replicas,)`` K."""
    import openmm

    decay = math.exp(-settings.friction * settings.timestep_ps)
    energy = (1.0 - decay**2) * BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * np.asarray(temperatures)
    noise = np.sqrt(energy[:, None] / settings.topology.masses).ravel()
    integrator.setPerDofVariableByName(NOISE, [openmm.Vec3(s, s, s) for s in noise.tolist()])
