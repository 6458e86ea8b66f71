"""OpenMM platforms and Systems of CG molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgal_plugin.errors import DynamicsError

if TYPE_CHECKING:
    import openmm

    from cgal_plugin.mapping import CGTopology


def find_platform(name: str) -> openmm.Platform:
    """Return the OpenMM platform ``name``.

    Raises
    ------
    DynamicsError
        The platform is not available; the message lists the available ones.
    """
    import openmm

    try:
        return openmm.Platform.getPlatformByName(name)
    except openmm.OpenMMException as error:
        known = (openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms()))
        raise DynamicsError(
            f"platform {name!r} is not available; use one of {', '.join(p.getName() for p in known)}"
        ) from error


def build_system(topology: CGTopology, n_replicas: int = 1) -> openmm.System:
    """Return an OpenMM System of ``n_replicas`` copies of the molecule, without forces.

    Bead ``b`` of replica ``r`` is particle ``r * n_beads + b``. There is no box and no
    CMMotionRemover, which would couple the replicas through their common centre of mass.

    Raises
    ------
    DynamicsError
        ``n_replicas`` is not a positive integer.
    """
    import openmm

    if not isinstance(n_replicas, int) or n_replicas < 1:
        raise DynamicsError(f"n_replicas is {n_replicas!r}; it must be a positive integer")
    system = openmm.System()
    for _ in range(n_replicas):
        for mass in topology.masses.tolist():
            system.addParticle(mass)
    return system
