"""Check that the files of a system belong together: atoms, names, masses and bonds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.coordinates import Coordinates
from cgal_plugin.oracle.solute import bond_pairs
from cgal_plugin.oracle.stereo import BOND_RANGE, COVALENT_RADIUS
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray
    from openmm import app

#: Å, longest bond of coordinates that belong to a topology; a minimisation cannot mend longer ones
_LONGEST_BOND = 3.0
#: amu, mass of a residue that differs by more than this has other atoms
_MASS = 0.6


def check_match(topology: app.Topology, coordinates: Coordinates, what: str) -> None:
    """Check number and names of the atoms.

    Raises
    ------
    OracleError
        The numbers differ, or an atom has another element in the coordinate file.
    """
    n, found = topology.getNumAtoms(), len(coordinates.positions)
    if n != found:
        raise OracleError(
            f"{what} has {n} particles, {coordinates.what} has {found}. Give coordinates of the whole "
            "system, hydrogens, water and ions included"
        )
    for atom, names in zip(topology.atoms(), coordinates.names, strict=False):
        if len(list(atom.residue.atoms())) == 1:
            continue  # programs call ions by different names
        own, other = _initial(atom.name), _initial(names[1])
        if own != other:
            raise OracleError(
                f"atom {atom.index + 1} is {atom.residue.name}{atom.residue.id}-{atom.name} in {what} and "
                f"{names[0]}-{names[1]} in {coordinates.what}: the files do not belong together, or have "
                "another order of atoms"
            )


def _initial(name: str) -> str:
    """Return the first letter of an atom's name, which is that of its element in residues."""
    return name.strip().lstrip("0123456789'*")[:1].upper()


def check_bond_lengths(topology: app.Topology, xyz: NDArray[np.float64], what: str, structure: str) -> None:
    """Check that bonded atoms are near each other in ``xyz`` ``(n, 3)`` Å.

    Raises
    ------
    OracleError
        A bond is longer than 3 Å.
    """
    pairs = bond_pairs(topology)
    if not len(pairs):
        return
    length = np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=1)
    worst = int(length.argmax())
    if length[worst] > _LONGEST_BOND:
        atoms = list(topology.atoms())
        a, b = (atoms[i] for i in pairs[worst])
        raise OracleError(
            f"{structure} and {what} do not belong together: {int((length > _LONGEST_BOND).sum())} bonds are "
            f"longer than {_LONGEST_BOND:g} Å, such as {a.residue.name}{a.residue.id}-{a.name} to "
            f"{b.residue.name}{b.residue.id}-{b.name} with {length[worst]:.1f} Å. The order of the atoms "
            "must be the same in both"
        )


def check_masses(system: openmm.System, topology: app.Topology, what: str, structure: str) -> None:
    """Check the masses of a System against the elements of a topology, residue by residue.

    Repartitioning moves mass within a residue only.

    Raises
    ------
    OracleError
        The numbers of particles or the masses differ.
    """
    from openmm import unit

    if system.getNumParticles() != topology.getNumAtoms():
        raise OracleError(
            f"{what} has {system.getNumParticles()} particles, {structure} has {topology.getNumAtoms()}"
        )
    for residue in topology.residues():
        atoms = list(residue.atoms())
        if any(a.element is None for a in atoms):
            continue
        own = sum(system.getParticleMass(a.index).value_in_unit(unit.dalton) for a in atoms)
        expected = sum(a.element.mass.value_in_unit(unit.dalton) for a in atoms)
        if abs(own - expected) > _MASS:
            raise OracleError(
                f"residue {residue.name}{residue.id} of {structure} has a mass of {expected:.1f} amu, its "
                f"particles in {what} have {own:.1f} amu: the files do not belong together, or have another "
                "order of atoms"
            )


def system_bonds(system: openmm.System, topology: app.Topology, n: int) -> list[tuple[Any, Any]]:
    """Return the covalent bonds among the first ``n`` atoms that a System has and its topology lacks.

    Harmonic bonds and constraints whose length is that of a covalent bond count.

    Raises
    ------
    OracleError
        The topology has a bond that the System lacks: the order of the atoms is different.
    """
    import openmm
    from openmm import unit

    atoms = list(topology.atoms())
    found: set[frozenset[int]] = set()

    def count(i: int, j: int, length: Any) -> None:
        if max(i, j) >= n:
            return
        radii = [
            COVALENT_RADIUS.get(atoms[k].element.symbol, 0.77) if atoms[k].element else 0.77 for k in (i, j)
        ]
        value = length.value_in_unit(unit.nanometer) * ANGSTROM_PER_NM
        if BOND_RANGE[0] * sum(radii) <= value <= BOND_RANGE[1] * sum(radii):
            found.add(frozenset((i, j)))

    for force in system.getForces():
        if type(force) is openmm.HarmonicBondForce:
            for k in range(force.getNumBonds()):
                count(*force.getBondParameters(k)[:3])
    for k in range(system.getNumConstraints()):
        count(*system.getConstraintParameters(k))
    known = {frozenset((a.index, b.index)) for a, b in topology.bonds() if max(a.index, b.index) < n}
    if not found:
        return []  # its bonds are of another type of force
    absent = known - found
    if absent:
        i, j = sorted(min(absent, key=sorted))
        left, right = (f"{atoms[k].residue.name}{atoms[k].residue.id}-{atoms[k].name}" for k in (i, j))
        raise OracleError(
            f"the System has no bond {left} to {right}, which the structure has: the files do not belong "
            "together, or have another order of atoms"
        )
    return [(atoms[i], atoms[j]) for i, j in map(sorted, sorted(found - known, key=sorted))]
