"""Residues and atoms of all-atom topologies, from mdtraj or OpenMM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.residues import CAPS_AND_SOLVENT
from cgal_plugin.mapping.spec import MapSpec

if TYPE_CHECKING:
    import mdtraj


def residue_chains(topology: mdtraj.Topology, spec: MapSpec) -> list[list[str]]:
    """Return the residue names of each chain that has beads.

    Caps, water and ions are left out, and so are chains that have no other residues.

    Raises
    ------
    MappingError
        A residue is unknown, lacks an atom that a bead needs, or has two atoms of one name (the message
        names the residue); or no residue is left.
    """
    chains: list[list[str]] = []
    missing = []
    for chain in topology.chains:
        residues = []
        for residue in chain.residues:
            if residue.name.upper() in CAPS_AND_SOLVENT:
                continue
            beads = spec.beads_of(residue.name)
            atoms = [a.name for a in residue.atoms]
            duplicates = sorted({n for n in atoms if atoms.count(n) > 1})
            if duplicates:
                raise MappingError(f"residue {residue} has atoms of the same name: {', '.join(duplicates)}")
            for bead in beads:
                absent = sorted(set(bead.atoms) - set(atoms))
                if absent and bead.name not in atoms:
                    missing.append(f"{residue} lacks {', '.join(absent)} (bead {bead.name})")
            residues.append(residue.name)
        if residues:
            chains.append(residues)
    if missing:
        raise MappingError(f"missing atoms for mapping {spec.name!r}: {'; '.join(missing)}")
    if not chains:
        raise MappingError("no residue to map: the topology has only caps, water and ions, or no residue")
    return chains


def residue_atoms(topology: Any) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield name, label and ``{atom name: index}`` of each residue that has beads (mdtraj or OpenMM)."""
    for chain in _items(topology, "chains"):
        for residue in _items(chain, "residues"):
            if residue.name.upper() in CAPS_AND_SOLVENT:
                continue
            number = getattr(residue, "resSeq", getattr(residue, "id", residue.index + 1))
            atoms = {a.name: a.index for a in _items(residue, "atoms")}
            yield residue.name, f"{residue.name}{number}", atoms


def n_atoms(topology: Any) -> int:
    """Return the number of atoms (mdtraj or OpenMM)."""
    return int(topology.n_atoms if hasattr(topology, "n_atoms") else topology.getNumAtoms())


def _items(thing: Any, name: str) -> Any:
    member = getattr(thing, name)
    return member() if callable(member) else member
