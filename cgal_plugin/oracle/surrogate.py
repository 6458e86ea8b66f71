"""Cheaper systems for backmapping: nonbonded terms within a cutoff, and no implicit solvent.

Generalised Born terms of all pairs take nine tenths of the time of a step. Moving beads to their targets
needs bonded terms and repulsion; the solvent matters in the last minimisation only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openmm

_SOLVENT = ("GBSAOBCForce", "CustomGBForce")
#: amu; with it bonds to hydrogen need no constraint at 4 fs (period of a vibration 25 fs or more)
_MASS = 12.0


def truncate(system: openmm.System, cutoff: float) -> None:
    """Limit all nonbonded terms and the implicit solvent to pairs within ``cutoff`` (nm), in place.

    Terms with a shorter cutoff and periodic terms are left as they are.
    """
    for force in system.getForces():
        if not hasattr(force, "getNonbondedMethod"):
            continue
        method, finite = force.getNonbondedMethod(), type(force).CutoffNonPeriodic
        if method == type(force).NoCutoff or (method == finite and _nm(force.getCutoffDistance()) > cutoff):
            force.setNonbondedMethod(finite)
            force.setCutoffDistance(cutoff)
            if hasattr(force, "setReactionFieldDielectric") and _has_solvent(system):
                force.setReactionFieldDielectric(1.0)  # the solvent beyond the cutoff is in the other force


def remove_solvent(system: openmm.System, charge_scale: float) -> None:
    """Remove the implicit solvent and multiply all charges by ``charge_scale``, in place.

    Full charges in vacuum would pull charged side chains onto each other.
    """
    for index in reversed(range(system.getNumForces())):
        force = system.getForce(index)
        name = type(force).__name__
        if name in _SOLVENT:
            system.removeForce(index)
        elif name == "NonbondedForce":
            for i in range(force.getNumParticles()):
                charge, sigma, epsilon = force.getParticleParameters(i)
                force.setParticleParameters(i, charge * charge_scale, sigma, epsilon)
            for i in range(force.getNumExceptions()):
                a, b, product, sigma, epsilon = force.getExceptionParameters(i)
                force.setExceptionParameters(i, a, b, product * charge_scale**2, sigma, epsilon)


def slow_hydrogens(system: openmm.System) -> None:
    """Give every particle at least 12 amu, in place: flexible bonds to hydrogen are then stable at 4 fs.

    Masses have no meaning where dynamics only finds a structure.
    """
    from openmm import unit

    for i in range(system.getNumParticles()):
        mass = system.getParticleMass(i).value_in_unit(unit.dalton)
        if 0.0 < mass < _MASS:
            system.setParticleMass(i, _MASS)


def _has_solvent(system: openmm.System) -> bool:
    return any(type(force).__name__ in _SOLVENT for force in system.getForces())


def _nm(distance: Any) -> float:
    from openmm import unit

    return float(distance.value_in_unit(unit.nanometer))
