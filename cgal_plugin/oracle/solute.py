"""The solute of an all-atom system: which atoms it has, and a System of it alone."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.residues import IONS, WATER, standard_name
from cgal_plugin.mapping.spec import MapSpec

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray
    from openmm import app

_SOLVENT_DIELECTRIC = 78.5


def bond_pairs(topology: app.Topology) -> NDArray[np.int64]:
    """Return the bonds as ``(n, 2)`` int64."""
    return np.array([(a.index, b.index) for a, b in topology.bonds()], dtype=np.int64).reshape(-1, 2)


def molecules(topology: app.Topology) -> NDArray[np.int64]:
    """Return the number of the molecule of each atom, ``(n,)`` int64."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, pairs = topology.getNumAtoms(), bond_pairs(topology)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    # the atoms of a residue belong together, also if a file does not list the bonds of its water
    for residue in topology.residues():
        own = [a.index for a in residue.atoms()]
        if residue.name.upper() in WATER:
            labels[own] = labels[own[0]]
    return labels


def solute_size(topology: app.Topology, spec: MapSpec, ignore: Collection[str], what: str) -> int:
    """Return the number of atoms of the solute, which must come first.

    The solute is every molecule with a residue other than water, single ions and ``ignore``.

    Raises
    ------
    OracleError
        There is no solute, or solvent comes before some of it.
    """
    molecule = molecules(topology)
    inside: set[int] = set()
    for residue in topology.residues():
        name, atoms = residue.name.strip().upper(), list(residue.atoms())
        environment = name in WATER or (name in IONS and len(atoms) == 1) or residue.name in ignore
        if spec.has_beads(residue.name) or not environment:
            inside |= {int(molecule[a.index]) for a in atoms}
    mask = np.isin(molecule, list(inside))
    n = int(mask.sum())
    if not n:
        raise OracleError(f"{what} has only water, ions and ignored residues; it needs a protein")
    if not mask[:n].all():
        first = int(np.flatnonzero(~mask)[0])
        atom = next(a for a in topology.atoms() if a.index == first)
        raise OracleError(
            f"{what}: {atom.residue.name}{atom.residue.id} (atom {first}) comes before the end of the "
            "protein. Write the protein first, then ligands, ions and water"
        )
    return n


#: names of CHARMM and GROMACS for backbone atoms → names of the PDB
_PDB_NAMES = {"HN": "H", "OT1": "O", "OC1": "O", "O1": "O", "OT2": "OXT", "OC2": "OXT", "O2": "OXT"}


def _pdb_name(atom: Any, own: set[str]) -> str:
    """Return the PDB's name of an atom of a standard residue with these atoms, where programs differ."""
    if standard_name(atom.residue.name) is None:
        return str(atom.name)
    cd = standard_name(atom.residue.name) == "ILE" and atom.name == "CD"
    name = "CD1" if cd else _PDB_NAMES.get(atom.name, atom.name)
    return str(atom.name if name in own else name)


def standard_topology(topology: app.Topology, n_solute: int) -> app.Topology:
    """Return a copy with chains and with the PDB's names of atoms.

    A new chain begins where consecutive solute residues are not bonded: a prmtop has no chains.
    """
    from openmm import app

    bonded = {frozenset((a.residue.index, b.residue.index)) for a, b in topology.bonds()}
    new, chain, previous = app.Topology(), None, None
    atoms: list[Any] = []
    n_chains = topology.getNumChains()
    for residue in topology.residues():
        solute = next(iter(residue.atoms())).index < n_solute
        same = previous is not None and previous.chain.index == residue.chain.index
        linked = previous is not None and frozenset((previous.index, residue.index)) in bonded
        was_solute = previous is not None and next(iter(previous.atoms())).index < n_solute
        if chain is None or not same or (solute and not linked) or (was_solute and not solute):
            chain = new.addChain(residue.chain.id if n_chains > 1 else None)
        made = new.addResidue(residue.name, chain, residue.id, residue.insertionCode)
        own = {a.name for a in residue.atoms()}
        atoms += [new.addAtom(_pdb_name(a, own), a.element, made, a.id) for a in residue.atoms()]
        previous = residue
    for a, b in topology.bonds():
        new.addBond(atoms[a.index], atoms[b.index])
    new.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    return new


def first_atoms(topology: app.Topology, n: int) -> app.Topology:
    """Return the topology of the first ``n`` atoms, without box."""
    from openmm import app

    modeller = app.Modeller(topology, [None] * topology.getNumAtoms())
    modeller.delete([a for a in topology.atoms() if a.index >= n])
    modeller.topology.setPeriodicBoxVectors(None)
    return modeller.topology


def solute_system(system: openmm.System, topology: app.Topology, what: str) -> openmm.System:
    """Return the System of the first atoms alone, in OBC2 implicit solvent.

    Bonded terms, charges and Lennard-Jones parameters (NBFIX included) are those of ``system``, without
    cutoff. The radii of OBC2 are the mbondi2 radii of the elements.

    Parameters
    ----------
    topology
        Of these atoms.

    Raises
    ------
    OracleError
        A force is of a type that cannot be divided.
    """
    import openmm

    n = topology.getNumAtoms()
    new = openmm.System()
    for i in range(n):
        new.addParticle(system.getParticleMass(i))
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        if max(i, j) < n:
            new.addConstraint(i, j, length)
    for force in system.getForces():
        part = _part(force, n, what)
        if part is not None:
            new.addForce(part)
    charges = next((f for f in new.getForces() if isinstance(f, openmm.NonbondedForce)), None)
    if charges is not None:
        new.addForce(_generalised_born(charges, topology))
    return new


#: force → how many particles a term has, and names of its methods
_BONDED = {
    "HarmonicBondForce": (2, "Bond"),
    "HarmonicAngleForce": (3, "Angle"),
    "PeriodicTorsionForce": (4, "Torsion"),
    "RBTorsionForce": (4, "Torsion"),
    "CustomBondForce": (2, "Bond"),
    "CustomAngleForce": (3, "Angle"),
    "CustomTorsionForce": (4, "Torsion"),
}
_WITHOUT_PART = ("CMMotionRemover",)


def _part(force: Any, n: int, what: str) -> Any:
    """Return the terms of a force among the first ``n`` particles; None if it does not act on them alone."""
    name = type(force).__name__
    if name in _WITHOUT_PART:
        return None
    if name in _BONDED:
        return _bonded_part(force, n, *_BONDED[name])
    if name == "CMAPTorsionForce":
        return _cmap_part(force, n)
    if name == "NonbondedForce":
        return _nonbonded_part(force, n, what)
    if name == "CustomNonbondedForce":
        return _custom_nonbonded_part(force, n)
    raise OracleError(
        f"{what} has a {name}, which cannot be divided into solute and solvent. Backmapping needs the solute "
        "alone: use a system without this force, or without solvent"
    )


def _bonded_part(force: Any, n: int, size: int, term: str) -> Any:
    new = _empty_custom(force) if hasattr(force, "getEnergyFunction") else type(force)()
    for k in range(getattr(force, f"getNum{term}s")()):
        row = getattr(force, f"get{term}Parameters")(k)
        if max(row[:size]) < n:
            getattr(new, f"add{term}")(*row)
    return new


def _empty_custom(force: Any) -> Any:
    """Return a custom force with the same expression and parameters, without terms or particles."""
    new = type(force)(force.getEnergyFunction())
    for i in range(force.getNumGlobalParameters()):
        new.addGlobalParameter(force.getGlobalParameterName(i), force.getGlobalParameterDefaultValue(i))
    for kind in ("Bond", "Angle", "Torsion", "Particle"):
        count = getattr(force, f"getNumPer{kind}Parameters", None)
        for i in range(count() if count else 0):
            getattr(new, f"addPer{kind}Parameter")(getattr(force, f"getPer{kind}ParameterName")(i))
    for i in range(getattr(force, "getNumTabulatedFunctions", lambda: 0)()):
        new.addTabulatedFunction(
            force.getTabulatedFunctionName(i), copy.deepcopy(force.getTabulatedFunction(i))
        )
    return new


def _cmap_part(force: Any, n: int) -> Any:
    new = type(force)()
    for i in range(force.getNumMaps()):
        new.addMap(*force.getMapParameters(i))
    for i in range(force.getNumTorsions()):
        row = force.getTorsionParameters(i)
        if max(row[1:]) < n:
            new.addTorsion(*row)
    return new


def _nonbonded_part(force: Any, n: int, what: str) -> Any:
    offsets = force.getNumParticleParameterOffsets() + force.getNumExceptionParameterOffsets()
    if offsets:
        raise OracleError(f"{what} has a NonbondedForce with parameter offsets, which is not supported")
    new = type(force)()
    for i in range(n):
        new.addParticle(*force.getParticleParameters(i))
    for i in range(force.getNumExceptions()):
        row = force.getExceptionParameters(i)
        if max(row[:2]) < n:
            new.addException(*row)
    new.setNonbondedMethod(force.NoCutoff)
    return new


def _custom_nonbonded_part(force: Any, n: int) -> Any:
    new = _empty_custom(force)
    for i in range(n):
        new.addParticle(force.getParticleParameters(i))
    for i in range(force.getNumExclusions()):
        pair = force.getExclusionParticles(i)
        if max(pair) < n:
            new.addExclusion(*pair)
    for i in range(force.getNumInteractionGroups()):
        groups = [[p for p in group if p < n] for group in force.getInteractionGroupParameters(i)]
        if all(groups):
            new.addInteractionGroup(*groups)
    if force.getNumInteractionGroups() and not new.getNumInteractionGroups():
        return None  # without groups it would act on all pairs
    new.setNonbondedMethod(force.NoCutoff)
    return new


def _generalised_born(charges: Any, topology: app.Topology) -> Any:
    from openmm import GBSAOBCForce
    from openmm.app.internal.customgbforces import GBSAOBC2Force

    force = GBSAOBCForce()
    for i, (radius, screen) in enumerate(GBSAOBC2Force.getStandardParameters(topology)):
        force.addParticle(charges.getParticleParameters(i)[0], float(radius), float(screen))
    force.setSolventDielectric(_SOLVENT_DIELECTRIC)
    force.setNonbondedMethod(GBSAOBCForce.NoCutoff)
    return force
