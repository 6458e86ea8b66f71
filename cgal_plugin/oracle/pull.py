"""Pull an all-atom structure onto bead positions: restrained minimisation and short targeted MD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping.geometry import superpose
from cgal_plugin.oracle.contexts import get_positions, set_positions
from cgal_plugin.oracle.forcefield import LONGEST_STEP_FS
from cgal_plugin.oracle.restraint import RESTRAINT_GROUP, RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.oracle.stereo import stereo_tables

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray

    from cgal_plugin.oracle.system import AllAtomModel

_PHYSICS_GROUP = 0
_STEREO = "k_stereo"
_STAGE_STEPS = 25
_ROUGH_TOLERANCE = 100.0  # kJ/mol/nm
_TETRAHEDRAL = 2.0 * np.pi / 3.0  # angle between two substituents, seen along the bond to a third


@dataclass(frozen=True)
class PullSettings:
    """Strength and length of a pull.

    Attributes
    ----------
    restraint
        Force constant of each bead's restraint, kJ/mol/nm².
    stereo, last_stereo
        Strength k (kJ/mol) of the terms k (1 − cos(θ − θ₀)) that preserve stereocentres and trans peptide
        bonds during the pull, and in the last minimisation, where they remove the twist that bead
        restraints leave in a strained peptide bond. Not part of ``energy``.
    temperature, friction, timestep_fs
        Parameters of the targeted MD: K, 1/ps, fs. The time step is that for constrained hydrogens of 3 amu.
    pull_ps_per_angstrom, max_pull_ps
        Travel time of the restraints per Å of superposed RMSD, and largest total travel time.
    settle_ps
        Length of the restrained MD at the target.
    first_iterations, rough_iterations, last_iterations
        Largest numbers of iterations of the first minimisation (good start, rough start) and of the last.
    tolerance
        Tolerance of the last minimisation, kJ/mol/nm.
    """

    restraint: float = 20_000.0
    stereo: float = 500.0
    last_stereo: float = 100.0
    temperature: float = 300.0
    friction: float = 10.0
    timestep_fs: float = 4.0
    pull_ps_per_angstrom: float = 0.25
    settle_ps: float = 0.5
    max_pull_ps: float = 4.0
    first_iterations: int = 50
    rough_iterations: int = 300
    last_iterations: int = 200
    tolerance: float = 10.0


@dataclass(frozen=True, eq=False)
class Pulled:
    """Result of a pull: ``positions`` ``(n_atoms, 3)`` Å, ``energy`` kcal/mol without restraints."""

    positions: NDArray[np.float64]
    energy: float


class Puller:
    """Reusable OpenMM context for pulling one molecule onto many targets.

    Single-threaded and deterministic: the same start, target and seed give the same result. A result does not
    depend on earlier pulls.

    Parameters
    ----------
    model
        The molecule. A model in explicit water is pulled in implicit OBC2.

    Raises
    ------
    BackmapError
        The model's topology has no bonds.
    """

    def __init__(self, model: AllAtomModel, settings: PullSettings | None = None) -> None:
        import openmm

        self.model = model.implicit
        self.settings = s = settings or PullSettings()
        self.tables = stereo_tables(self.model.mdtraj_topology, self.model.positions)
        self._restraint = BeadRestraint(self.model.mapping)
        # a model with light or flexible hydrogens needs shorter steps
        self._step_fs = s.timestep_fs * self.model.timestep_fs / LONGEST_STEP_FS
        system = self.model.make_system()
        for index in reversed(range(system.getNumForces())):
            force = system.getForce(index)
            if isinstance(force, openmm.CMMotionRemover):
                system.removeForce(index)  # this force counteracts the restraints
            else:
                force.setForceGroup(_PHYSICS_GROUP)
        system.addForce(self._stereo_force())
        system.addForce(self._restraint.make_force())
        self._context = self.model.context(
            s.temperature, system=system, timestep_fs=self._step_fs, friction=s.friction
        )
        self._integrator = self._context.getIntegrator()

    def _stereo_force(self) -> openmm.CustomTorsionForce:
        import openmm

        force = openmm.CustomTorsionForce(f"{_STEREO}*(1-cos(theta-theta0))")
        force.addGlobalParameter(_STEREO, 0.0)
        force.addPerTorsionParameter("theta0")
        for atoms, cis in zip(self.tables.omegas.tolist(), self.tables.cis, strict=True):
            force.addTorsion(*atoms, [0.0 if cis else np.pi])
        for centre, a, b, c in self.tables.centres.tolist():
            force.addTorsion(a, centre, b, c, [-_TETRAHEDRAL])
        force.setForceGroup(RESTRAINT_GROUP)
        return force

    def pull(
        self, start: NDArray[np.float64], target: NDArray[np.float64], seed: int, *, rough: bool = False
    ) -> Pulled:
        """Pull ``start`` ``(n_atoms, 3)`` to bead positions ``target`` ``(n_beads, 3)``, both in Å.

        Superpose ``start`` on the target, move the restraints from its beads to the target during targeted
        MD, equilibrate there, and minimise with restraints. A ``rough`` start has overlaps and gets a
        longer first minimisation.

        Raises
        ------
        BackmapError
            The given coordinates, the dynamics or a minimisation are not finite.
        """
        import openmm

        if not (np.isfinite(start).all() and np.isfinite(target).all()):
            raise BackmapError("the start structure or the target has non-finite coordinates")
        s = self.settings
        origin = target.mean(axis=0)  # forces are single precision: keep coordinates small
        goal = target - origin
        beads = np.asarray(self.model.mapping.map_positions(start), dtype=np.float64)
        atoms = superpose(start, beads, goal)
        beads = np.asarray(self.model.mapping.map_positions(atoms), dtype=np.float64)
        context = self._context
        try:
            # reinitialize reads the new seed; with preserveState it would restore the old stream
            self._integrator.setRandomNumberSeed(seed or 1)
            context.reinitialize()
            context.setParameter(RESTRAINT_PARAMETER, s.restraint)
            context.setParameter(_STEREO, s.stereo)
            self._restraint.set_targets(context, beads)
            set_positions(context, atoms)
            openmm.LocalEnergyMinimizer.minimize(
                context, _ROUGH_TOLERANCE, s.rough_iterations if rough else s.first_iterations
            )
            context.setVelocitiesToTemperature(s.temperature, seed or 1)
            self._travel(beads, goal)
            context.setParameter(_STEREO, s.last_stereo)
            openmm.LocalEnergyMinimizer.minimize(context, s.tolerance, s.last_iterations)
            energy = self._physics_energy()
        except openmm.OpenMMException as error:
            raise BackmapError(f"OpenMM stopped: {error}") from error
        positions = get_positions(context) + origin
        if not (np.isfinite(positions).all() and np.isfinite(energy)):
            raise BackmapError("the minimisation became non-finite")
        return Pulled(positions, energy)

    def energy(self, positions: NDArray[np.float64]) -> float:
        """Return the potential energy without restraints (kcal/mol) of ``(n_atoms, 3)`` Å."""
        set_positions(self._context, positions)
        return self._physics_energy()

    def _physics_energy(self) -> float:
        from openmm import unit

        state = self._context.getState(getEnergy=True, groups={_PHYSICS_GROUP})
        return float(state.getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole))

    def _travel(self, beads: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
        """Move the restraints in a straight line from ``beads`` to ``goal`` during MD, then hold them."""
        s = self.settings
        distance = np.sqrt(((beads - goal) ** 2).sum(axis=1).mean())
        steps_per_ps = 1e3 / self._step_fs
        travel_ps = min(distance * s.pull_ps_per_angstrom, s.max_pull_ps)
        stages = max(1, round(travel_ps * steps_per_ps / _STAGE_STEPS))
        for stage in range(1, stages + 1):
            self._restraint.set_targets(self._context, beads + (goal - beads) * (stage / stages))
            self._integrator.step(_STAGE_STEPS)
        self._integrator.step(round(s.settle_ps * steps_per_ps))
