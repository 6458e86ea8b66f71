"""The all-atom model of a peptide: OpenMM systems and contexts for it.

ff14SB with OBC2, GBn2, or a box of TIP3P-FB water with PME. OBC2 uses OpenMM's native ``GBSAOBCForce``,
which is four times as fast on a CPU as the ``CustomGBForce`` of the force field file.
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
    PADDING,
    SOLVENTS,
    check_box,
    constrain,
    create_system,
    drop_motion_remover,
    force_field,
)
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.peptide import build_peptide, is_sequence
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.restraint import BeadRestraint
from cgal_plugin.oracle.screen import check_start
from cgal_plugin.oracle.structure import PreparedStructure, read_structure, seeded_random
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    import openmm
    from numpy.typing import ArrayLike, NDArray
    from openmm import app


@dataclass(frozen=True, eq=False)
class AllAtomModel:
    """A peptide with its force field. Immutable and picklable; builds OpenMM systems on demand.

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
    record
        What was read, added and left out; None for a topology that was given.
    folded
        Whether the positions are a given or known fold, rather than a stretched chain.

    Raises
    ------
    OracleError
        The solvent is unknown, or the positions do not fit the topology.
    """

    topology: app.Topology
    positions: NDArray[np.float64]
    mapping: CGMapping
    solvent: str = "obc2"
    record: StructureRecord | None = None
    folded: bool = True

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
        """Build a peptide and minimise it; see :func:`~cgal_plugin.oracle.peptide.build_peptide`."""
        return cls._minimised(build_peptide(sequence, phi=phi, psi=psi, ph=ph), mapping, solvent)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        mapping: Any = "CA",
        solvent: str = "obc2",
        options: ReadOptions | None = None,
    ) -> AllAtomModel:
        """Read a PDB or mmCIF file and minimise.

        See :func:`~cgal_plugin.oracle.structure.read_structure`.

        Raises
        ------
        OracleError, MappingError
            The structure is refused, has a wrong stereocentre or a pierced ring, or cannot be mapped.
        """
        return cls._minimised(read_structure(path, options), mapping, solvent)

    @classmethod
    def create(
        cls,
        source: str | os.PathLike[str],
        mapping: Any = "CA",
        solvent: str = "obc2",
        options: ReadOptions | None = None,
    ) -> AllAtomModel:
        """Call :meth:`from_sequence` for a one-letter sequence, :meth:`from_file` for a file."""
        if is_sequence(source):
            ph = ReadOptions().ph if options is None else options.ph
            return cls.from_sequence(str(source), mapping, solvent, ph=ph)
        return cls.from_file(source, mapping, solvent, options)

    @classmethod
    def _minimised(cls, structure: PreparedStructure, mapping: Any, solvent: str) -> AllAtomModel:
        if solvent not in SOLVENTS:
            raise OracleError(f"solvent {solvent!r} is not known; use one of {', '.join(SOLVENTS)}")
        implicit = "gbn2" if solvent == "gbn2" else "obc2"
        map_ = CGMapping.from_topology(structure.topology, mapping)
        model = cls(
            structure.topology, structure.positions, map_, implicit, structure.record, structure.folded
        )
        model = replace(model, positions=model.minimise(model.positions))
        record = check_start(model.mdtraj_topology, model.positions, structure.record)
        model = replace(model, record=record)
        return model if solvent == implicit else model.solvated()

    def solvated(
        self, positions: ArrayLike | None = None, *, seed: int = 0, minimise: bool = True
    ) -> AllAtomModel:
        """Return this solute (at ``positions``, ``(n_solute, 3)`` Å) in a neutralised TIP3P-FB box.

        The number of waters depends on the conformation. The solute may be translated.

        Raises
        ------
        OracleError
            The box would be too large: the chain is long and stretched.
        """
        from openmm import Vec3, app, unit

        solute = self.implicit
        xyz = solute.positions if positions is None else np.asarray(positions, dtype=np.float64)
        check_box(xyz, PADDING, self.sequence)
        modeller = app.Modeller(solute.topology, [Vec3(*p) for p in xyz / ANGSTROM_PER_NM] * unit.nanometer)
        with seeded_random(seed):
            modeller.addSolvent(force_field("tip3pfb"), model="tip3p", padding=PADDING, neutralize=True)
        placed = np.array(modeller.positions.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
        model = AllAtomModel(modeller.topology, placed, self.mapping, "tip3pfb", self.record, self.folded)
        if not minimise:
            return model
        return replace(model, positions=model.minimise(placed, max_iterations=200))

    @cached_property
    def implicit(self) -> AllAtomModel:
        """The solute in implicit solvent; the model itself if it has no water."""
        if self.solvent != "tip3pfb":
            return self
        from openmm import app

        modeller = app.Modeller(self.topology, [None] * self.topology.getNumAtoms())
        modeller.delete([a for a in self.topology.atoms() if a.index >= self.n_solute])
        modeller.topology.setPeriodicBoxVectors(None)
        xyz = self.positions[: self.n_solute]
        return AllAtomModel(modeller.topology, xyz, self.mapping, "obc2", self.record, self.folded)

    # ------------------------------------------------------------------ facts

    @property
    def n_particles(self) -> int:
        """Number of particles, water included."""
        return len(self.positions)

    @property
    def n_solute(self) -> int:
        """Number of atoms of the peptide, which come first."""
        return self.mapping.n_atoms

    @property
    def cg_topology(self) -> CGTopology:
        """Beads of the mapping."""
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
    def _system(self) -> openmm.System:
        return create_system(self.topology, self.solvent, constraints=True)

    @cached_property
    def _flexible_system(self) -> openmm.System:
        return create_system(self.topology, self.solvent, constraints=False)

    def make_system(
        self,
        *,
        constraints: bool = True,
        frozen: Sequence[int] = (),
        bead_restraint: bool = False,
        barostat: float | None = None,
    ) -> openmm.System:
        """Return a new system with hydrogens of 3 amu and constrained bonds to hydrogen.

        Parameters
        ----------
        constraints
            False leaves every solute bond flexible (use a time step of 1 fs).
        frozen
            Atoms with mass 0. OpenMM does not allow constraints on them; their bonds become harmonic (use
            a time step of at most 2 fs).
        bead_restraint
            Add the harmonic force of ``BeadRestraint(self.mapping)``, always as the last force. Its force
            constant is the context parameter ``k_bead`` (kJ/mol/nm², initially 0); set its targets with
            :meth:`~cgal_plugin.oracle.restraint.BeadRestraint.set_targets`.
        barostat
            Temperature (K) of a Monte Carlo barostat at 1 bar; explicit solvent only.

        Raises
        ------
        OracleError
            A barostat is requested for implicit solvent.
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
                raise OracleError(f"solvent {self.solvent!r} has no box; a barostat needs tip3pfb")
            system.addForce(MonteCarloBarostat(1.0, barostat, 25))
        if bead_restraint:
            system.addForce(BeadRestraint(self.mapping).make_force())
        return system

    def context(
        self,
        temperature: float,
        *,
        system: openmm.System | None = None,
        timestep_fs: float = 4.0,
        friction: float = 1.0,
        seed: int = 0,
        n_threads: int = 1,
        platform: str = "CPU",
    ) -> openmm.Context:
        """Return a new context with a LangevinMiddle integrator at the model's positions.

        ``temperature`` K, ``friction`` 1/ps. On the CPU platform with one thread, the same seed gives the
        same trajectory bit for bit.

        Raises
        ------
        OracleError
            This platform of OpenMM is not available.
        """
        from openmm import Context, LangevinMiddleIntegrator, OpenMMException, Platform

        try:
            engine = Platform.getPlatformByName(platform)
        except OpenMMException as error:
            known = [Platform.getPlatform(i).getName() for i in range(Platform.getNumPlatforms())]
            raise OracleError(f"OpenMM has no platform {platform!r} here; use one of {known}") from error
        system = self.make_system() if system is None else system
        integrator = LangevinMiddleIntegrator(temperature, friction, timestep_fs * 1e-3)
        integrator.setRandomNumberSeed(int(seed) or 1)  # OpenMM replaces 0 by a random seed
        properties = {"Threads": str(n_threads), "DeterministicForces": "true"} if platform == "CPU" else {}
        context = Context(system, integrator, engine, properties)
        box = self.topology.getPeriodicBoxVectors()
        if box is not None:
            context.setPeriodicBoxVectors(*box)
        set_positions(context, self.positions)
        return context

    def minimise(self, positions: ArrayLike, *, max_iterations: int = 0) -> NDArray[np.float64]:
        """Minimise the energy from ``positions`` ``(n_particles, 3)`` Å; return positions, Å.

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
