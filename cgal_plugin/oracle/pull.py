"""Pull an all-atom structure onto bead positions: targeted MD without solvent, a minimisation with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping.geometry import superpose
from cgal_plugin.oracle.contexts import get_positions, potential_energy, set_positions
from cgal_plugin.oracle.forcefield import drop_motion_remover
from cgal_plugin.oracle.restraint import RESTRAINT_GROUP, RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.oracle.screen import Screen, screen
from cgal_plugin.oracle.stereo import stereo_tables
from cgal_plugin.oracle.surrogate import remove_solvent, slow_hydrogens, truncate

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray

    from cgal_plugin.oracle.system import AllAtomModel

_STEREO = "k_stereo"
_STAGE_STEPS = 25
_ROUGH_TOLERANCE = 100.0  # kJ/mol/nm
_CONSTRAINT_TOLERANCE = 1e-6
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
        bonds during the pull, and in the minimisations at the target, where they remove the twist that bead
        restraints leave in a strained peptide bond. Not part of ``energy``.
    temperature, friction, timestep_fs
        Parameters of the targeted MD: K, 1/ps, fs. The time step is that for constrained hydrogens of 3 amu.
    pull_ps_per_angstrom, max_pull_ps
        Travel time of the restraints per Å of superposed RMSD, and largest total travel time.
    settle_ps
        Length of the restrained MD at the target.
    first_iterations, rough_iterations
        Largest number of iterations of the first minimisation, from a good start and from a rough one.
    dry_iterations, dry_tolerance
        Largest number of iterations and tolerance (kJ/mol/nm) of the minimisation without solvent.
    last_iterations, tolerance
        The same of the last minimisation, with solvent.
    dry_cutoff, charge_scale
        Cutoff (nm) of nonbonded terms without solvent, and factor of the charges there.
    last_cutoff
        Cutoff (nm) of nonbonded terms and solvent in the last minimisation. ``energy`` is without cutoff.
    """

    restraint: float = 20_000.0
    stereo: float = 500.0
    last_stereo: float = 500.0
    temperature: float = 300.0
    friction: float = 10.0
    timestep_fs: float = 4.0
    pull_ps_per_angstrom: float = 0.25
    settle_ps: float = 0.5
    max_pull_ps: float = 4.0
    first_iterations: int = 50
    rough_iterations: int = 300
    dry_iterations: int = 500
    dry_tolerance: float = 3.0
    last_iterations: int = 100
    tolerance: float = 10.0
    dry_cutoff: float = 1.0
    charge_scale: float = 0.5
    last_cutoff: float = 1.2


@dataclass(frozen=True, eq=False)
class Pulled:
    """Result of a pull: ``positions`` ``(n_atoms, 3)`` Å, ``energy`` kcal/mol without restraints."""

    positions: NDArray[np.float64]
    energy: float


class Puller:
    """Reusable OpenMM contexts for pulling one molecule onto many targets.

    Single-threaded and deterministic: the same start, target and seed give the same result. A result does not
    depend on earlier pulls. Bonds to hydrogen are flexible during a pull, because the minimiser needs three
    times as many energies to satisfy constraints; the result satisfies those of the model.

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
        self.model = model.implicit
        self.settings = s = settings or PullSettings()
        self.tables = stereo_tables(self.model.mdtraj_topology, self.model.positions)
        self._restraint = BeadRestraint(self.model.mapping)
        dry = self.model.make_system(constraints=False)
        remove_solvent(dry, s.charge_scale)
        truncate(dry, s.dry_cutoff)
        slow_hydrogens(dry)
        wet = self.model.make_system(constraints=False)
        truncate(wet, s.last_cutoff)
        self._dry, self._wet = self._restrained(dry), self._restrained(wet)
        self._context = self.model.context(s.temperature)
        self._integrator = self._dry.getIntegrator()

    def _restrained(self, system: openmm.System) -> openmm.Context:
        """Return a context of a system with the stereo terms and, as the last force, the bead restraint."""
        s = self.settings
        drop_motion_remover(system)  # this force counteracts the restraints
        system.addForce(self._stereo_force())
        system.addForce(self._restraint.make_force())
        return self.model.context(
            s.temperature, system=system, timestep_fs=s.timestep_fs, friction=s.friction
        )

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
        MD without solvent, equilibrate and minimise there, and minimise with solvent, with restraints
        throughout. A ``rough`` start has overlaps and gets a longer first minimisation.

        Raises
        ------
        BackmapError
            The given coordinates, the dynamics or a minimisation are not finite, or the structure at the
            target has inverted stereocentres, cis peptide bonds, broken bonds, clashes or pierced rings.
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
        try:
            self._steer(atoms, beads, goal, seed or 1, rough)
            settled = get_positions(self._dry)
            self._check(settled)
            self._set(self._wet, settled, goal, s.last_stereo)
            openmm.LocalEnergyMinimizer.minimize(self._wet, s.tolerance, s.last_iterations)
            set_positions(self._context, get_positions(self._wet))
            self._context.applyConstraints(_CONSTRAINT_TOLERANCE)
            positions, energy = get_positions(self._context), potential_energy(self._context)
        except openmm.OpenMMException as error:
            raise BackmapError(f"OpenMM stopped: {error}") from error
        if not (np.isfinite(positions).all() and np.isfinite(energy)):
            raise BackmapError("the minimisation became non-finite")
        return Pulled(positions + origin, energy)

    def _check(self, settled: NDArray[np.float64]) -> None:
        """Refuse what the last minimisation cannot repair: it only removes twists of peptide bonds."""
        verdict = screen(settled, self.tables, omega_min=90.0)
        assert isinstance(verdict, Screen)
        if not verdict:
            raise BackmapError("; ".join(verdict.reasons))

    def energy(self, positions: NDArray[np.float64]) -> float:
        """Return the potential energy without restraints (kcal/mol) of ``(n_atoms, 3)`` Å."""
        set_positions(self._context, positions)
        return potential_energy(self._context)

    def _steer(
        self,
        atoms: NDArray[np.float64],
        beads: NDArray[np.float64],
        goal: NDArray[np.float64],
        seed: int,
        rough: bool,
    ) -> None:
        """Move ``atoms`` with ``beads`` to the beads ``goal`` without solvent."""
        import openmm

        s, context = self.settings, self._dry
        # a context reads the seed when it is initialised
        self._integrator.setRandomNumberSeed(seed)
        self._set(context, atoms, beads, s.stereo)
        first = s.rough_iterations if rough else s.first_iterations
        openmm.LocalEnergyMinimizer.minimize(context, _ROUGH_TOLERANCE, first)
        context.setVelocitiesToTemperature(s.temperature, seed)
        self._travel(beads, goal)
        context.setParameter(_STEREO, s.last_stereo)
        openmm.LocalEnergyMinimizer.minimize(context, s.dry_tolerance, s.dry_iterations)

    def _set(
        self, context: openmm.Context, atoms: NDArray[np.float64], beads: NDArray[np.float64], stereo: float
    ) -> None:
        """Initialise a context anew, so that results do not depend on earlier pulls, and place atoms."""
        context.reinitialize()
        context.setParameter(RESTRAINT_PARAMETER, self.settings.restraint)
        context.setParameter(_STEREO, stereo)
        self._restraint.set_targets(context, beads)
        set_positions(context, atoms)

    def _travel(self, beads: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
        """Move the restraints in a straight line from ``beads`` to ``goal`` during MD, then hold them."""
        s = self.settings
        distance = np.sqrt(((beads - goal) ** 2).sum(axis=1).mean())
        steps_per_ps = 1e3 / s.timestep_fs
        travel_ps = min(distance * s.pull_ps_per_angstrom, s.max_pull_ps)
        stages = max(1, round(travel_ps * steps_per_ps / _STAGE_STEPS))
        for stage in range(1, stages + 1):
            self._restraint.set_targets(self._dry, beads + (goal - beads) * (stage / stages))
            self._integrator.step(_STAGE_STEPS)
        self._integrator.step(round(s.settle_ps * steps_per_ps))
