"""The residues of a structure that have beads: chains, bridges, and what is left out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import CGALWarning, MappingError
from cgal_plugin.mapping.bridges import Pair, check_bridges, find_bridges
from cgal_plugin.mapping.chain_ends import Evidence, is_bonded, peptide_distance
from cgal_plugin.mapping.residues import CAPS, IONS, WATER
from cgal_plugin.mapping.structure import Residue, read_bonds, read_coordinates, read_residues

if TYPE_CHECKING:
    from cgal_plugin.mapping.spec import MapSpec

#: Å, C–N bond that closes a ring
_RING_BOND = 1.8


@dataclass(frozen=True)
class Molecule:
    """Residues with beads by chain, bridges as pairs of residue indices, and what is left out by name."""

    chains: list[list[Residue]]
    bridges: list[Pair]
    left_out: dict[str, int]


def say_left_out(source: str, left_out: Mapping[str, int]) -> None:
    """Warn of the residues of a file that have no beads, such as ``2 ACE, 310 HOH``."""
    if left_out:
        text = ", ".join(f"{n} {name}" for name, n in sorted(left_out.items()))
        warnings.warn(f"{source}: left out of the CG topology: {text}", CGALWarning, stacklevel=3)


def read_molecule(
    structure: Any,
    spec: MapSpec,
    *,
    positions: Any = None,
    ignore: Collection[str] = (),
    bridges: Iterable[Sequence[int]] | None = None,
    complete: bool = False,
) -> Molecule:
    """Read chains and bridges of a structure; warn of gaps.

    Parameters
    ----------
    structure
        ``mdtraj.Trajectory``, ``mdtraj.Topology`` or ``openmm.app.Topology``.
    spec
        Map: residues that it defines by name have beads, also caps.
    positions
        ``(n_atoms, 3)`` or ``(n_frames, n_atoms, 3)`` Å; default: those of a trajectory.
    ignore
        Names of further residues to leave out, such as ligands.
    bridges
        Pairs of 0-based residue indices; None: from the structure.
    complete
        Whether the topology lists all bonds.

    Raises
    ------
    MappingError
        A residue is unknown or has two atoms of one name, no residue is left, or bridges are not valid.
    """
    coordinates = read_coordinates(structure, positions)
    topology = getattr(structure, "topology", structure)
    residues = _known(read_residues(topology, coordinates), spec, ignore)
    evidence = Evidence(spec, coordinates, read_bonds(topology, residues), complete)
    chains: list[list[Residue]] = []
    gaps: list[str] = []
    left_out: Counter[str] = Counter()
    between: list[str] = []
    previous: Residue | None = None
    for residue in residues:
        if _is_left_out(residue, spec, ignore):
            left_out[residue.name] += 1
            between.append(residue.name)
            continue
        if residue.duplicates:
            raise MappingError(
                f"residue {residue.label} has atoms of the same name: {', '.join(residue.duplicates)}"
            )
        bonded_here, reason = (
            (False, None) if previous is None else is_bonded(previous, residue, evidence, between)
        )
        if not bonded_here:
            if previous is not None and reason is not None:
                gaps.append(f"{previous.label} and {residue.label} ({reason})")
            chains.append([])
        chains[-1].append(residue)
        previous, between = residue, []
    if not chains:
        raise MappingError("no residue to map: the topology has only caps, water and ions, or no residue")
    if gaps:
        warnings.warn(
            f"the chain is broken between {', '.join(gaps)}: these residues are not bonded, and the pieces "
            "are separate chains",
            CGALWarning,
            stacklevel=4,
        )
    _warn_of_rings(chains, evidence)
    if bridges is None:
        pairs = find_bridges(chains, evidence)
    else:
        pairs = check_bridges(bridges, [r.name for chain in chains for r in chain])
    return Molecule(chains, pairs, dict(left_out))


def _is_left_out(residue: Residue, spec: MapSpec, ignore: Collection[str]) -> bool:
    if residue.name in ignore:
        return True
    if spec.has_beads(residue.name):
        return False
    return residue.name in CAPS | WATER or (residue.name in IONS and len(residue.atoms) == 1)


def _known(residues: list[Residue], spec: MapSpec, ignore: Collection[str]) -> list[Residue]:
    """Check that all residues have beads or are left out."""
    labels: list[str] = []
    reasons: dict[str, str] = {}
    for residue in residues:
        if not _is_left_out(residue, spec, ignore):
            try:
                spec.beads_of(residue.name)
            except MappingError as error:
                labels.append(residue.label)
                reasons.setdefault(residue.name, str(error))
    if labels:
        raise MappingError(
            f"{len(labels)} residues without beads: {', '.join(labels)}. {next(iter(reasons.values()))}. "
            "Use a mapping that defines them, rename them, or leave them out "
            f"(ignore={sorted(reasons)}, or remove them from the file)"
        )
    return residues


def _warn_of_rings(chains: list[list[Residue]], evidence: Evidence) -> None:
    for chain in chains:
        if len(chain) < 3:
            continue
        d = peptide_distance(chain[-1], chain[0], evidence.coordinates)
        if d is not None and d <= _RING_BOND:
            warnings.warn(
                f"{chain[-1].label} and {chain[0].label} are bonded (C–N {d:.1f} Å): the ring is open in the "
                "CG topology, without this bond",
                CGALWarning,
                stacklevel=5,
            )


def check_atoms(molecule: Molecule, spec: MapSpec, *, beads_suffice: bool) -> None:
    """Check that each residue has the atoms of its beads.

    With ``beads_suffice``, an atom of the name of the bead counts as well (a file of beads).

    Raises
    ------
    MappingError
        Atoms are missing; the message names residues, atoms and beads.
    """
    missing = []
    for residue in (r for chain in molecule.chains for r in chain):
        for bead in spec.beads_of(residue.name):
            absent = [a for a in bead.atoms if residue.atom(a) is None]
            if absent and not (beads_suffice and bead.name in residue.atoms):
                missing.append(f"{residue.label} lacks {', '.join(absent)} (bead {bead.name})")
    if missing:
        raise MappingError(f"missing atoms for mapping {spec.name!r}: {'; '.join(missing)}")
