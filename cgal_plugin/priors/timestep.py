"""The largest stable time step of dynamics with given priors: their fastest vibration."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import CGALWarning
from cgal_plugin.mapping.spec import FIVE_BEAD

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.priors.prior_set import PriorSet

#: amu Å²/fs² per kcal/mol, the unit of energy
_KCAL = 418.4e-6
#: displacement of a numerical second derivative, Å, and number of iterations
_STEP, _ITERATIONS = 1e-4, 40
#: largest stable time step of the 5bead map, fs: bonds C=O and C–N of an all-atom force field at 300 to 400 K
_FIVE_BEAD_FS = 5.5
#: a time step is safe below this fraction of the largest stable one: vibrations are stiffer in some frames
_SAFE = 0.9


def largest_timestep(priors: PriorSet, frame: ArrayLike) -> float:
    """Return the largest stable time step of leapfrog dynamics with the priors alone, fs.

    It is 2/ω of the fastest vibration, the largest eigenvalue ω² of the mass-weighted second derivatives, by
    power iteration. A larger step makes the dynamics explode, for every integrator of this kind
    (``LangevinMiddleIntegrator``, Verlet).

    Parameters
    ----------
    priors
        Priors of a molecule.
    frame
        ``(n_beads, 3)`` Å, a usual structure.
    """
    from cgal_plugin.priors.evaluate import prior_forces, prior_modules  # imports TorchMD-Net

    modules = prior_modules(priors)
    x = np.asarray(frame, dtype=np.float64)
    root = np.sqrt(priors.molecule.masses)[:, None]
    v = np.random.default_rng(0).normal(size=x.shape)
    square = 0.0
    for _ in range(_ITERATIONS):
        v /= np.linalg.norm(v)
        step = _STEP * v / root * root.mean()
        plus, minus = prior_forces(priors, np.stack([x + step, x - step]), modules)
        v = (minus - plus) / (2.0 * _STEP * root.mean()) / root
        square = float(np.linalg.norm(v)) * _KCAL
    return 2.0 / float(np.sqrt(square)) if square > 0 else np.inf


def warn_of_timestep(
    timestep_fs: float | None,
    topology: CGTopology,
    priors: PriorSet | None = None,
    frame: ArrayLike | None = None,
) -> None:
    """Warn if dynamics with a time step may be unstable: by the priors, or else by what the map needs.

    Parameters
    ----------
    timestep_fs
        Time step of the dynamics, fs; None: the sampler has none.
    topology
        Molecule.
    priors, frame
        Its priors and a structure ``(n_beads, 3)`` Å, if there are any.
    """
    if timestep_fs is None:
        return
    limit = _FIVE_BEAD_FS if topology.mapping_hash == FIVE_BEAD.hash else np.inf
    if priors is not None and frame is not None:
        limit = largest_timestep(priors, frame)
    if timestep_fs <= _SAFE * limit:
        return
    warnings.warn(
        f"the time step of {timestep_fs:g} fs is {'above' if timestep_fs > limit else 'near'} the largest "
        f"stable one, {limit:.2g} fs, of mapping {topology.mapping!r} with its bonds as priors: CG dynamics "
        f"may explode; use {np.floor(20 * _SAFE * limit) / 20:g} fs or less (simulation.timestep_fs)",
        CGALWarning,
        stacklevel=2,
    )
