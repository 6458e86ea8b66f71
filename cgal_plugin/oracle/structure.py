"""All-atom structures from files, with the hydrogens of the file, and the missing ones added."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.residues import THREE_TO_ONE, canonical_residue
from cgal_plugin.oracle import hydrogens as protonation
from cgal_plugin.oracle.chains import END_CAPS, START_CAPS, check_caps, choose_residues
from cgal_plugin.oracle.links import check_other_bonds, find_bridges
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.structure_file import Residue, StructureFile, read_structure_file
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openmm import app

    Chains = list[list[Residue]]

PROTEIN_FORCE_FIELD = "amber14/protein.ff14SB.xml"
_CAPS = frozenset((*START_CAPS.values(), *END_CAPS.values()))
_CHAIN_IDS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BACKBONE = ("N", "CA", "C")
#: coordinates in a PDB text of which only the names are used
_NOWHERE = "   0.000   0.000   0.000"
#: PDBFixer needs a file; its content is replaced
_ONE_ATOM = "ATOM      1  CA  GLY A   1       0.000   0.000   0.000  1.00  0.00           C"


@dataclass(frozen=True, eq=False)
class PreparedStructure:
    """A molecule with all its atoms.

    Attributes
    ----------
    topology
        ``openmm.app.Topology`` with bonds, disulfides included. Residues have the names of the source.
    positions
        ``(n_atoms, 3)`` Å, not minimised.
    record
        What was read, added and left out.
    folded
        Whether the positions are a given or known fold, rather than a stretched chain.
    """

    topology: app.Topology
    positions: NDArray[np.float64]
    record: StructureRecord
    folded: bool


def read_structure(path: str | os.PathLike[str], options: ReadOptions | None = None) -> PreparedStructure:
    """Read the protein chains of a PDB or mmCIF file and add what they lack.

    Hydrogens and protonation states of the file are kept; missing hydrogens are added at
    :attr:`ReadOptions.ph`, and a missing OXT at the end of a chain. Caps (ACE, NME, NH2) are kept. Waters and
    ions of the solution are left out. Everything is recorded.

    Raises
    ------
    OracleError
        The file cannot be read, has no protein, has residues or bonds that the force field does not have,
        lacks atoms or has a gap. The message says which, and what to do.
    """
    options = options or ReadOptions()
    found = read_structure_file(path, options.model)
    return prepare(found, options, f"structure file {str(path)!r}", folded=True, built=False)


def prepare(
    found: StructureFile, options: ReadOptions, what: str, *, folded: bool, built: bool
) -> PreparedStructure:
    """Return a structure with all atoms; see :func:`read_structure`.

    ``what`` names it in errors; ``built`` says that its side chains were placed by a program.
    """
    chains, record = choose_residues(found, options, what)
    record = StructureRecord({"source": (what,), **record.facts})
    for residue in (r for chain in chains for r in chain if r.name not in _CAPS):
        residue.name = canonical_residue(residue.name)
    _standard_atom_names(chains, what)
    check_caps(chains, what)
    for chain in chains:
        for i, residue in enumerate(chain):
            first, last = i == 0, i == len(chain) - 1
            protonation.assign_hydrogens(residue, first=first, last=last, what=what)
            protonation.check_titration(residue, first=first, last=last, what=what)
    bridges = find_bridges(chains, found.bridges, what)
    if not built:  # side chains of a built peptide may overlap before the minimisation
        check_other_bonds(chains, bridges, what)
    variants, record = _variants(chains, bridges, options, record, what)
    n_given = sum(len(r.hydrogens) for chain in chains for r in chain)
    topology, positions, record = _add_heavy_atoms(chains, bridges, options, record, what)
    topology, positions, chosen = _add_hydrogens(topology, positions, variants, options.ph, what)
    record = _describe(chains, bridges, record)
    for residue, variant, given in zip(_residues(chains), chosen, variants, strict=True):
        if residue.name == "HIS" and given is None:
            text = f"{residue} as {variant} (pH {options.ph:g}, by hydrogen bonds)"
            record = record.with_fact("protonation", text)
    n_added = sum(a.element.symbol == "H" for a in topology.atoms()) - n_given
    record = record.with_fact("hydrogens", f"{n_given} of the source, {n_added} added at pH {options.ph:g}")
    for residue, source in zip(topology.residues(), _residues(chains), strict=True):
        if source.name not in _CAPS:
            residue.name = source.replaced or source.given
    return PreparedStructure(topology, positions, record, folded)


def _residues(chains: Chains) -> list[Residue]:
    return [r for chain in chains for r in chain]


def _standard_atom_names(chains: Chains, what: str) -> None:
    """Give atoms the names of the PDB, in place. OpenMM knows the names of other programs."""
    from openmm import app

    if len(chains) > len(_CHAIN_IDS):
        raise OracleError(f"{what} has {len(chains)} chains; at most {len(_CHAIN_IDS)} can be read")
    lines = []
    for chain, letter in zip(chains, _CHAIN_IDS, strict=False):
        for number, residue in enumerate(chain, 1):
            for atom in residue.atoms:
                name = atom.name if len(atom.name) > 3 else f" {atom.name}"
                lines.append(
                    f"ATOM      1 {name:<4} {residue.name:>3} {letter}{number % 10000:4d}    {_NOWHERE}"
                    f"  1.00  0.00          {atom.element.upper():>2}"
                )
    try:
        read = list(app.PDBFile(io.StringIO("\n".join([*lines, "END"]))).topology.residues())
    except (ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
        raise OracleError(f"{what} cannot be read: {error!r}") from error
    for residue, standard in zip(_residues(chains), read, strict=True):
        for atom, named in zip(residue.atoms, standard.atoms(), strict=True):
            atom.name = named.name


def _variants(
    chains: Chains, bridges: list[Any], options: ReadOptions, record: StructureRecord, what: str
) -> tuple[list[str | None], StructureRecord]:
    bridged = {id(r) for pair in bridges for r in pair}
    chosen: list[str | None] = []
    for chain in chains:
        for i, residue in enumerate(chain):
            if residue.name in _CAPS:
                chosen.append(None)
                continue
            variant, how = protonation.choose_variant(
                residue, options.ph, bridged=id(residue) in bridged, what=what
            )
            if variant in protonation.INNER_ONLY and i in (0, len(chain) - 1):
                remedy = (
                    f"or use system.replace: {{{residue.given}: {residue.name}}}"
                    if residue.given.upper() in protonation.VARIANTS
                    else "or choose another pH (system.ph)"
                    if how.startswith("pH")
                    else "or remove its hydrogens"
                )
                raise OracleError(
                    f"{what}: {residue} at the end of its chain would be {variant} ({how}), which the force "
                    f"field has inside a chain only. Cap the chain (ACE, NME), {remedy}"
                )
            standard = variant in (None, residue.name) or how == "disulfide"
            if not standard or (how.startswith("given by its hydrogens") and residue.name == "HIS"):
                record = record.with_fact("protonation", f"{residue} as {variant} ({how})")
            chosen.append("CYX" if variant == "CYM" else variant)  # OpenMM: CYS without HG
    return chosen, record


def _build(chains: Chains, bridges: list[Any]) -> tuple[app.Topology, NDArray[np.float64]]:
    from openmm import app

    topology = app.Topology()
    sulphurs, xyz = {}, []
    for chain, letter in zip(chains, _CHAIN_IDS, strict=False):
        new_chain = topology.addChain(chain[0].chain or letter)
        for residue in chain:
            new = topology.addResidue(residue.name, new_chain, residue.number)
            for atom in residue.atoms:
                element = app.element.Element.getBySymbol(atom.element.capitalize())
                made = topology.addAtom(atom.name, element, new)
                xyz.append(atom.xyz)
                if atom.name == "SG":
                    sulphurs[id(residue)] = made
    topology.createStandardBonds()
    for a, b in bridges:
        topology.addBond(sulphurs[id(a)], sulphurs[id(b)])
    return topology, np.array(xyz)


def _add_heavy_atoms(
    chains: Chains, bridges: list[Any], options: ReadOptions, record: StructureRecord, what: str
) -> tuple[app.Topology, Any, StructureRecord]:
    """Add the OXT of chain ends, and the side-chain atoms that may be added."""
    from pdbfixer import PDBFixer

    topology, xyz = _build(chains, bridges)
    fixer = PDBFixer(pdbfile=io.StringIO(_ONE_ATOM))
    fixer.topology, fixer.positions = topology, _as_vectors(xyz)
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    sources = dict(zip(topology.residues(), _residues(chains), strict=True))
    refused = []
    for residue, atoms in fixer.missingAtoms.items():
        source, names = sources[residue], [a.name for a in atoms]
        if not (options.repair or source.replaced) or set(names) & set(_BACKBONE):
            refused.append((source, names))
            continue
        record = record.with_fact("repaired", f"{source}: {', '.join(names)} added")
    if refused:
        found = ", ".join(f"{r} lacks {' '.join(names)}" for r, names in refused)
        backbone = any(set(names) & set(_BACKBONE) for _, names in refused)
        remedy = (
            "The backbone must be complete: model it with another program"
            if backbone
            else "Set system.repair: true to add them, or give a complete structure"
        )
        raise OracleError(f"{what} has missing atoms: {found}. {remedy}")
    for residue in fixer.missingTerminals:
        record = record.with_fact("repaired", f"{sources[residue]}: OXT added")
    if fixer.missingAtoms or fixer.missingTerminals:
        with seeded_random(0):
            fixer.addMissingAtoms(seed=1)
    return fixer.topology, fixer.positions, record


def _as_vectors(xyz: NDArray[np.float64]) -> Any:
    from openmm import Vec3, unit

    return [Vec3(*p) for p in xyz / ANGSTROM_PER_NM] * unit.nanometer


def _add_hydrogens(
    topology: app.Topology, positions: Any, variants: list[str | None], ph: float, what: str
) -> tuple[app.Topology, NDArray[np.float64], list[Any]]:
    from openmm import Platform, app, unit

    modeller = app.Modeller(topology, positions)
    with seeded_random(0):
        try:
            chosen = modeller.addHydrogens(
                app.ForceField(PROTEIN_FORCE_FIELD),
                pH=ph,
                variants=variants,
                platform=Platform.getPlatformByName("Reference"),
            )
        except ValueError as error:
            raise OracleError(f"{what}: hydrogens cannot be added: {error}") from error
    xyz = np.array(modeller.positions.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
    return modeller.topology, xyz, chosen


def _describe(chains: Chains, bridges: list[Any], record: StructureRecord) -> StructureRecord:
    for chain in chains:
        letters = "".join(THREE_TO_ONE.get(r.name, "") for r in chain if r.name not in _CAPS)
        inner = [r for r in chain if r.name not in _CAPS]
        name = f"{chain[0].chain}: " if chain[0].several else ""
        numbers = f" ({inner[0].number} to {inner[-1].number})" if inner else ""
        record = record.with_fact("chains", f"{name}{letters}, {len(inner)} residues{numbers}")
        ends = [r.name if r.name in _CAPS else "charged" for r in (chain[0], chain[-1])]
        record = record.with_fact("caps", f"{name}start {ends[0]}, end {ends[1]}")
    for a, b in bridges:
        record = record.with_fact("bridges", f"{a} – {b}")
    return record


@contextmanager
def seeded_random(seed: int) -> Iterator[None]:
    """Seed Python's generator, which OpenMM's Modeller uses, and restore its state afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
