"""Systems of a force field that the user brings: constraints, time step, barostat."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.mapping.residues import WATER
from cgal_plugin.oracle.solute import solute_system

if TYPE_CHECKING:
    import openmm
    from openmm import app

#: amu; from this mass on hydrogens move slowly enough for 4 fs
_HEAVY_HYDROGEN = 2.5
#: kJ/mol/nm², of a bond that a System has as a constraint only (C–H in AMBER force fields)
_BOND_CONSTANT = 284_512.0
_THERMOSTATS = ("AndersenThermostat",)
_BAROSTATS = ("MonteCarloBarostat", "MonteCarloAnisotropicBarostat", "MonteCarloMembraneBarostat")


@dataclass(frozen=True, eq=False)
class GivenSystem:
    """Systems of a force field from files, for :class:`~cgal_plugin.oracle.system.AllAtomModel`.

    Attributes
    ----------
    system
        With its constraints. All forces are in group 0.
    flexible
        The same without constraints in the solute; bonds that ``system`` has as constraints only are
        harmonic.
    n_solute
        Atoms of the solute, which come first.
    timestep_fs
        Longest time step, fs: 4 with constrained hydrogens of 2.5 amu or more, 2 with lighter ones, 1 with
        flexible bonds to hydrogen.
    label
        Kind and names of the files.
    hashes
        File name → SHA-256.
    barostat
        Barostat of a serialised System; None: Monte Carlo at 1 bar.
    """

    system: openmm.System
    flexible: openmm.System
    n_solute: int
    timestep_fs: float
    label: str
    hashes: tuple[tuple[str, str], ...]
    barostat: openmm.Force | None = None

    @property
    def name(self) -> str:
        """Kind and names of the files, and their hashes."""
        return "; ".join([self.label, *(f"{Path(name).name} {digest}" for name, digest in self.hashes)])

    @property
    def boxed(self) -> bool:
        """Whether there are particles besides the solute, in a periodic box."""
        return int(self.system.getNumParticles()) > self.n_solute

    def create(self, topology: app.Topology, *, constraints: bool) -> openmm.System:
        """Return the System for these constraints, which is not a copy."""
        return self.system if constraints else self.flexible

    def make_barostat(self, temperature: float) -> openmm.Force:
        """Return a new barostat for a temperature in K."""
        from openmm import MonteCarloBarostat

        if self.barostat is None:
            return MonteCarloBarostat(1.0, temperature, 25)
        barostat = copy.deepcopy(self.barostat)
        barostat.setDefaultTemperature(temperature)
        return barostat

    def solute(self, topology: app.Topology) -> GivenSystem:
        """Return the solute alone, in OBC2 implicit solvent; ``topology`` is that of the solute."""
        alone = [solute_system(s, topology, self.label) for s in (self.system, self.flexible)]
        return replace(self, system=alone[0], flexible=alone[1], barostat=None)


def take_controllers(system: openmm.System) -> Any:
    """Remove thermostats and barostats, in place; return the barostat, or None."""
    found = None
    for i in reversed(range(system.getNumForces())):
        name = type(system.getForce(i)).__name__
        if name in (*_THERMOSTATS, *_BAROSTATS):
            if name in _BAROSTATS:
                found = copy.deepcopy(system.getForce(i))
                found.setForceGroup(0)
            system.removeForce(i)
    return found


def ungroup(system: openmm.System) -> None:
    """Put all forces in group 0: the restraints of labels have groups of their own."""
    for force in system.getForces():
        force.setForceGroup(0)
        if hasattr(force, "setReciprocalSpaceForceGroup"):
            force.setReciprocalSpaceForceGroup(-1)


def without_constraints(system: openmm.System, n_solute: int) -> openmm.System:
    """Return a copy whose solute has bonds in place of its constraints."""
    import openmm

    new = copy.deepcopy(system)
    pairs = {}
    for k in reversed(range(new.getNumConstraints())):
        i, j, length = new.getConstraintParameters(k)
        if max(i, j) < n_solute:
            pairs[frozenset((i, j))] = (i, j, length)
            new.removeConstraint(k)
    for force in new.getForces():
        if type(force) is openmm.HarmonicBondForce:
            for k in range(force.getNumBonds()):
                i, j, _, constant = force.getBondParameters(k)
                if constant.value_in_unit(constant.unit) > 0:
                    pairs.pop(frozenset((i, j)), None)
    bonds = openmm.HarmonicBondForce()
    for i, j, length in pairs.values():
        bonds.addBond(i, j, length, _BOND_CONSTANT)
    if pairs:
        new.addForce(bonds)
    return new


def timestep(system: openmm.System, topology: app.Topology) -> tuple[float, str]:
    """Return the longest time step, fs, and why."""
    from openmm import unit

    hydrogens = {a.index for a in topology.atoms() if a.element is not None and a.element.symbol == "H"}
    pairs = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]
    fixed = {i for pair in pairs for i in pair}
    if hydrogens - fixed:
        return 1.0, f"{len(hydrogens - fixed)} hydrogens have flexible bonds"
    # rigid water is stable at 4 fs with its own masses; a prmtop without H–H bonds gives it a flexible angle
    names = {
        a.index: a.residue.index for r in topology.residues() if r.name.upper() in WATER for a in r.atoms()
    }
    sides = Counter(names[i] for i, j in pairs if i in names and j in names)
    rigid = {i for i, residue in names.items() if sides[residue] >= 3}
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in hydrogens - rigid]
    lightest = min(masses, default=_HEAVY_HYDROGEN)
    text = f"bonds to hydrogen are constrained, the lightest hydrogen has {lightest:.3g} amu"
    return (4.0 if lightest >= _HEAVY_HYDROGEN else 2.0), text
