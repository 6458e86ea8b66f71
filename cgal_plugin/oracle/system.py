"""The all-atom model of a peptide: OpenMM systems and contexts for it.

ff14SB with OBC2, GBn2, or a box of TIP3P-FB water with PME; or a system that the user brings.
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
from cgal_plugin.oracle.contexts import make_context, minimised, set_positions
from cgal_plugin.oracle.forcefield import BuiltinForceField, check_solvent, constrain, drop_motion_remover
from cgal_plugin.oracle.given import GivenSystem
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.peptide import build_peptide, is_sequence
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.restraint import BeadRestraint
from cgal_plugin.oracle.screen import check_start
from cgal_plugin.oracle.solute import first_atoms
from cgal_plugin.oracle.solvation import reuse_solvent, water_box
from cgal_plugin.oracle.structure import PreparedStructure, read_structure

if TYPE_CHECKING:
    import mdtraj
    import openmm
    from numpy.typing import ArrayLike, NDArray
    from openmm import app

    from cgal_plugin.oracle.user_system import PreparedSystem

FILES = "files"  # solvent of a model whose system was given
_BOX_ITERATIONS = 200  # of a minimisation with explicit solvent


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
        ``"obc2"``, ``"gbn2"`` (implicit) or ``"tip3pfb"`` (periodic box); ``"files"`` for a given system.
    record
        What was read, added and left out; None for a topology that was given.
    folded
        Whether the positions are a given or known fold, rather than a stretched chain.
    given
        Systems of a force field that the user brings; None: ff14SB in ``solvent``.

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
    given: GivenSystem | None = None

    def __post_init__(self) -> None:
        if self.given is None:
            check_solvent(self.solvent)
        positions, n = np.array(self.positions, dtype=np.float64), self.topology.getNumAtoms()
        if positions.shape != (n, 3):
            raise OracleError(f"positions have shape {positions.shape}; expected ({n}, 3)")
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
        """Read a PDB or mmCIF file (:func:`~cgal_plugin.oracle.structure.read_structure`) and minimise.

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
    def from_system(cls, prepared: PreparedSystem) -> AllAtomModel:
        """Minimise a system of :func:`~cgal_plugin.oracle.user_system.load_user_system`, with its solvent.

        Raises
        ------
        OracleError
            The structure has a wrong stereocentre or a pierced ring.
        """
        p = prepared
        return cls(p.topology, p.positions, p.mapping, FILES, p.record, given=p.given)._relaxed()

    @classmethod
    def _minimised(cls, structure: PreparedStructure, mapping: Any, solvent: str) -> AllAtomModel:
        check_solvent(solvent)
        implicit = "gbn2" if solvent == "gbn2" else "obc2"
        s, map_ = structure, CGMapping.from_topology(structure.topology, mapping)
        model = cls(s.topology, s.positions, map_, implicit, s.record, s.folded)._relaxed()
        return model if solvent == implicit else replace(model, solvent=solvent).solvated(model.positions)

    def _relaxed(self) -> AllAtomModel:
        model = replace(self, positions=self.minimise(self.positions))
        start = model.positions[: self.n_solute]
        record = check_start(model.mdtraj_topology, start, self.record or StructureRecord())
        return replace(model, record=record)

    def solvated(self, positions: ArrayLike, *, seed: int = 0, minimise: bool = True) -> AllAtomModel:
        """Return the model with its solute at ``positions`` ``(n_solute, 3)`` Å, in its solvent.

        Solvent tip3pfb is a new neutralised box; that of a given system is reused
        (:func:`~cgal_plugin.oracle.solvation.reuse_solvent`). The solute may be translated.

        Raises
        ------
        OracleError
            The box would be too large, or the given box has no room for this conformation.
        """
        xyz = np.asarray(positions, dtype=np.float64)
        if not self.boxed:
            return replace(self, positions=xyz)
        topology = self.topology
        if self.given is None:
            topology, placed = water_box(self.implicit.topology, xyz, self.sequence, seed)
        else:
            placed = reuse_solvent(topology, self.positions, xyz)
        model = replace(self, topology=topology, positions=placed)
        return replace(model, positions=model.minimise(placed)) if minimise else model

    @cached_property
    def implicit(self) -> AllAtomModel:
        """The solute alone, in OBC2 if the model has explicit solvent; else the model itself."""
        if not self.boxed:
            return self
        topology = first_atoms(self.topology, self.n_solute)
        given = None if self.given is None else self.given.solute(topology)
        solvent = "obc2" if given is None else FILES
        xyz = self.positions[: self.n_solute]
        return replace(self, topology=topology, positions=xyz, solvent=solvent, given=given)

    # ------------------------------------------------------------------ facts

    @cached_property
    def _physics(self) -> BuiltinForceField | GivenSystem:
        return BuiltinForceField(self.solvent) if self.given is None else self.given

    @property
    def boxed(self) -> bool:
        """Whether the model has explicit solvent, in a periodic box."""
        return self._physics.boxed

    @property
    def timestep_fs(self) -> float:
        """Longest time step that constraints and hydrogen masses allow, fs."""
        return self._physics.timestep_fs

    @property
    def force_field(self) -> str:
        """Name of the force field, with the hashes of its files if these were given."""
        return self._physics.name

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
        return self._physics.create(self.topology, constraints=True)

    @cached_property
    def _flexible_system(self) -> openmm.System:
        return self._physics.create(self.topology, constraints=False)

    def make_system(
        self,
        *,
        constraints: bool = True,
        frozen: Sequence[int] = (),
        bead_restraint: bool = False,
        barostat: float | None = None,
    ) -> openmm.System:
        """Return a new system: hydrogens of 3 amu, constrained bonds to them; or as a given System has it.

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
            Temperature (K) of a Monte Carlo barostat at 1 bar, or of that of a given System; explicit solvent
            only.

        Raises
        ------
        OracleError
            A barostat is requested without explicit solvent.
        """
        fixed = {int(i) for i in frozen}
        system = copy.deepcopy(self._system if constraints and not fixed else self._flexible_system)
        if constraints and fixed:
            constrain(system, [tuple(p) for p in self.constraints.tolist() if not fixed & set(p)])
        for i in fixed:
            system.setParticleMass(i, 0.0)
        if fixed or bead_restraint:
            drop_motion_remover(system)
        if barostat is not None:
            if not self.boxed:
                raise OracleError(f"solvent {self.solvent!r} has no box; a barostat needs explicit solvent")
            system.addForce(self._physics.make_barostat(barostat))
        if bead_restraint:
            system.addForce(BeadRestraint(self.mapping).make_force())
        return system

    def context(
        self,
        temperature: float,
        *,
        system: openmm.System | None = None,
        timestep_fs: float | None = None,
        friction: float = 1.0,
        seed: int = 0,
        n_threads: int = 1,
        platform: str = "CPU",
    ) -> openmm.Context:
        """Return a new context with a LangevinMiddle integrator at the model's positions.

        ``temperature`` K, ``friction`` 1/ps; the default of the time step is :attr:`timestep_fs`. On the CPU
        platform with one thread, the same seed gives the same trajectory bit for bit.

        Raises
        ------
        OracleError
            This platform of OpenMM is not available.
        """
        context = make_context(
            self.make_system() if system is None else system,
            temperature,
            timestep_fs=timestep_fs or self.timestep_fs,
            friction=friction,
            seed=seed,
            n_threads=n_threads,
            platform=platform,
        )
        box = self.topology.getPeriodicBoxVectors()
        if box is not None:
            context.setPeriodicBoxVectors(*box)
        set_positions(context, self.positions)
        return context

    def minimise(self, positions: ArrayLike) -> NDArray[np.float64]:
        """Minimise from ``positions`` ``(n_particles, 3)`` Å (explicit solvent: 200 iterations); return Å.

        Raises
        ------
        OracleError
            The energy is not finite.
        """
        context = self.context(300.0)
        set_positions(context, positions)
        return minimised(context, _BOX_ITERATIONS if self.boxed else 0, self.sequence)
