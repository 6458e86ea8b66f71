"""The all-atom model of a peptide: OpenMM systems and contexts for it.

ff14SB with OBC2 (through OpenMM's native ``GBSAOBCForce``, four times the speed of the force
field's own ``CustomGBForce`` on a CPU), GBn2, or a box of TIP3P-FB water with PME.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.oracle.contexts import get_positions, potential_energy, set_positions
from cgal_plugin.oracle.forcefield import (
    SOLVENTS,
    constrain,
    create_system,
    drop_motion_remover,
    force_field,
)
from cgal_plugin.oracle.restraint import BeadRestraint
from cgal_plugin.oracle.structure import (
    build_peptide,
    is_sequence,
    read_pdb,
    seeded_random,
)
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray

_PADDING = 1.0  # nm of water between the solute and the box


@dataclass(frozen=True, eq=False)
class AllAtomModel:
    """A peptide with its force field. Immutable, picklable; OpenMM systems are built when needed.

    Attributes
    ----------
    topology
        ``openmm.app.Topology`` of all particles; the peptide (solute) comes first.
    positions
        ``(n_particles, 3)`` Å, minimised.
    mapping
        :class:`CGMapping` of the solute's atoms.
    solvent
        ``"obc2"``, ``"gbn2"`` (implicit) or ``"tip3pfb"`` (periodic box).
    """

    topology: Any
    positions: NDArray[np.float64]
    mapping: CGMapping
    solvent: str = "obc2"

    def __post_init__(self) -> None:
        if self.solvent not in SOLVENTS:
            raise OracleError(f"solvent {self.solvent!r} is not known; use one of {', '.join(SOLVENTS)}")
        positions = np.array(self.positions, dtype=np.float64)
        if positions.shape != (self.topology.getNumAtoms(), 3):
            raise OracleError(
                f"positions have shape {positions.shape}; expected ({self.topology.getNumAtoms()}, 3)"
            )
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    # ------------------------------------------------------------------ construction

    @classmethod
    def from_sequence(
        cls,
        sequence: str,
        mapping: Any = "CA",
        solvent: str = "obc2",
        *,
        phi: Sequence[float] | None = None,
        psi: Sequence[float] | None = None,
        ph: float = 7.0,
    ) -> AllAtomModel:
        """Build, add hydrogens, minimise; see :func:`~cgal_plugin.oracle.structure.build_peptide`."""
        return cls._minimised(*build_peptide(sequence, phi=phi, psi=psi, ph=ph), mapping, solvent)

    @classmethod
    def from_pdb(
        cls, path: str | os.PathLike[str], mapping: Any = "CA", solvent: str = "obc2", *, ph: float = 7.0
    ) -> AllAtomModel:
        """Read, add hydrogens, minimise; see :func:`~cgal_plugin.oracle.structure.read_pdb`."""
        return cls._minimised(*read_pdb(path, ph=ph), mapping, solvent)

    @classmethod
    def create(
        cls,
        sequence_or_pdb: str | os.PathLike[str],
        mapping: Any = "CA",
        solvent: str = "obc2",
        **options: Any,
    ) -> AllAtomModel:
        """:meth:`from_sequence` or :meth:`from_pdb`, whichever the text is meant for."""
        build = cls.from_sequence if is_sequence(sequence_or_pdb) else cls.from_pdb
        return build(sequence_or_pdb, mapping, solvent, **options)  # type: ignore[arg-type]

    @classmethod
    def _minimised(
        cls, topology: Any, positions: NDArray[np.float64], mapping: Any, solvent: str
    ) -> AllAtomModel:
        if solvent not in SOLVENTS:
            raise OracleError(f"solvent {solvent!r} is not known; use one of {', '.join(SOLVENTS)}")
        implicit = "gbn2" if solvent == "gbn2" else "obc2"
        model = cls(topology, positions, CGMapping.from_topology(topology, mapping), implicit)
        model = replace(model, positions=model.minimise(model.positions))
        return model if solvent == implicit else model.solvated()

    def solvated(
        self, positions: ArrayLike | None = None, *, seed: int = 0, minimise: bool = True
    ) -> AllAtomModel:
        """This solute (at ``positions``, ``(n_solute, 3)`` Å) in a neutralised TIP3P-FB box.

        The number of waters depends on the conformation; the solute may be moved as a whole.
        """
        from openmm import Vec3, app, unit

        solute = self.implicit
        xyz = solute.positions if positions is None else np.asarray(positions, dtype=np.float64)
        modeller = app.Modeller(solute.topology, [Vec3(*p) for p in xyz / ANGSTROM_PER_NM] * unit.nanometer)
        with seeded_random(seed):
            modeller.addSolvent(force_field("tip3pfb"), model="tip3p", padding=_PADDING, neutralize=True)
        placed = np.array(modeller.positions.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
        model = AllAtomModel(modeller.topology, placed, self.mapping, "tip3pfb")
        if not minimise:
            return model
        return replace(model, positions=model.minimise(placed, max_iterations=200))

    @cached_property
    def implicit(self) -> AllAtomModel:
        """The solute alone in implicit solvent (itself, if it is that already)."""
        if self.solvent != "tip3pfb":
            return self
        from openmm import app

        modeller = app.Modeller(self.topology, [None] * self.topology.getNumAtoms())
        modeller.delete([a for a in self.topology.atoms() if a.index >= self.n_solute])
        modeller.topology.setPeriodicBoxVectors(None)
        return AllAtomModel(modeller.topology, self.positions[: self.n_solute], self.mapping, "obc2")

    # ------------------------------------------------------------------ facts

    @property
    def n_particles(self) -> int:
        """Number of particles, water included."""
        return len(self.positions)

    @property
    def n_solute(self) -> int:
        """Number of atoms of the peptide; they are the first ones."""
        return self.mapping.n_atoms

    @property
    def cg_topology(self) -> CGTopology:
        """The beads."""
        return self.mapping.topology

    @property
    def sequence(self) -> str:
        """One-letter codes."""
        return self.mapping.topology.sequence

    @cached_property
    def mdtraj_topology(self) -> mdtraj.Topology:
        """Topology of the solute, in the model's atom order."""
        import mdtraj

        return mdtraj.Topology.from_openmm(self.implicit.topology)

    @cached_property
    def constraints(self) -> NDArray[np.int64]:
        """``(n, 2)`` int64: pairs of solute atoms whose distance is constrained."""
        system = self._system
        pairs = [system.getConstraintParameters(i)[:2] for i in range(system.getNumConstraints())]
        return np.array([p for p in pairs if max(p) < self.n_solute], dtype=np.int64).reshape(-1, 2)

    # ------------------------------------------------------------------ systems

    @cached_property
    def _system(self) -> Any:
        return create_system(self.topology, self.solvent, constraints=True)

    @cached_property
    def _flexible_system(self) -> Any:
        return create_system(self.topology, self.solvent, constraints=False)

    def make_system(
        self,
        *,
        constraints: bool = True,
        frozen: Sequence[int] = (),
        bead_restraint: bool = False,
        barostat: float | None = None,
    ) -> Any:
        """A new ``openmm.System``: hydrogens of 3 amu, bonds with hydrogen constrained.

        Parameters
        ----------
        constraints
            False leaves every solute bond flexible (then use 1 fs).
        frozen
            Atoms that get mass 0. No constraint touches them (OpenMM does not allow it); those
            bonds become harmonic ones, so use 2 fs at most.
        bead_restraint
            Add ``BeadRestraint(self.mapping)``'s harmonic force on the beads; its strength is the
            context parameter ``k_bead`` (kJ/mol/nm², 0 at first), its targets are set with
            :meth:`~cgal_plugin.oracle.restraint.BeadRestraint.set_targets`. Always the last force.
        barostat
            Temperature (K) of a Monte Carlo barostat at 1 bar; explicit solvent only.
        """
        from openmm import MonteCarloBarostat

        fixed = {int(i) for i in frozen}
        if constraints and not fixed:
            system = copy.deepcopy(self._system)
        else:
            system = copy.deepcopy(self._flexible_system)
            if constraints:
                constrain(system, [tuple(p) for p in self.constraints.tolist() if not fixed & set(p)])
        for i in fixed:
            system.setParticleMass(i, 0.0)
        if fixed or bead_restraint:
            drop_motion_remover(system)
        if barostat is not None:
            if self.solvent != "tip3pfb":
                raise OracleError(f"solvent {self.solvent!r} has no box for a barostat")
            system.addForce(MonteCarloBarostat(1.0, barostat, 25))
        if bead_restraint:
            system.addForce(BeadRestraint(self.mapping).make_force())
        return system

    def context(
        self,
        temperature: float,
        *,
        system: Any = None,
        timestep_fs: float = 4.0,
        friction: float = 1.0,
        seed: int = 0,
        n_threads: int = 1,
        platform: str = "CPU",
    ) -> Any:
        """A new ``openmm.Context`` with a LangevinMiddle integrator at the model's positions.

        ``temperature`` K, ``friction`` 1/ps. With one thread on the CPU platform the same seed gives
        the same trajectory bit for bit.
        """
        from openmm import Context, LangevinMiddleIntegrator, OpenMMException, Platform

        try:
            engine = Platform.getPlatformByName(platform)
        except OpenMMException as error:
            known = [Platform.getPlatform(i).getName() for i in range(Platform.getNumPlatforms())]
            raise OracleError(f"OpenMM has no platform {platform!r} here; use one of {known}") from error
        system = self.make_system() if system is None else system
        integrator = LangevinMiddleIntegrator(temperature, friction, timestep_fs * 1e-3)
        integrator.setRandomNumberSeed(int(seed) or 1)  # 0 would be a seed from the clock
        properties = {"Threads": str(n_threads), "DeterministicForces": "true"} if platform == "CPU" else {}
        context = Context(system, integrator, engine, properties)
        box = self.topology.getPeriodicBoxVectors()
        if box is not None:
            context.setPeriodicBoxVectors(*box)
        set_positions(context, self.positions)
        return context

    def minimise(self, positions: ArrayLike, *, max_iterations: int = 0) -> NDArray[np.float64]:
        """Positions (Å) after energy minimisation from ``positions`` ``(n_particles, 3)`` Å.

        Raises
        ------
        OracleError
            The energy is not finite.
        """
        from openmm import LocalEnergyMinimizer

        context = self.context(300.0)
        set_positions(context, positions)
        LocalEnergyMinimizer.minimize(context, maxIterations=max_iterations)
        xyz, energy = get_positions(context), potential_energy(context)
        if not (np.isfinite(energy) and np.isfinite(xyz).all()):
            raise OracleError(f"{self.sequence}: the energy is not finite after minimisation")
        return xyz
