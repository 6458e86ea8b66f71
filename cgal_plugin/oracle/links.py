"""Bonds between residues that do not follow the chain: disulfides, and bonds that the force field lacks."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.structure_file import Residue

#: longest SG–SG distance of a disulfide, Å (as OpenMM's topology reader)
MAX_BRIDGE = 3.0
_MIN_THIOLS = 2.5  # Å, nearest approach of SG atoms that are not bonded
_BONDED = 1.9  # Å, nearest approach of heavy atoms that are not bonded

Pair = tuple[Residue, Residue]


def find_bridges(
    chains: list[list[Residue]], declared: list[tuple[tuple[str, str], tuple[str, str]]], what: str
) -> list[Pair]:
    """Return the pairs of cysteines whose SG atoms are bonded, the nearest partner first.

    Raises
    ------
    OracleError
        A disulfide that the file declares (SSBOND) is not formed, its partner is not among the chains, or SG
        atoms at bonding distance are protonated.
    """
    everyone = [(r, sg) for chain in chains for r in chain if r.name == "CYS" and (sg := r.atom("SG"))]
    sulphurs = [(r, sg) for r, sg in everyone if r.atom("HG") is None]
    candidates = sorted(
        (float(np.linalg.norm(a.xyz - b.xyz)), i, j)
        for (i, (_, a)), (j, (_, b)) in combinations(enumerate(sulphurs), 2)
    )
    free = set(range(len(sulphurs)))
    found: list[Pair] = []
    for distance, i, j in candidates:
        if distance <= MAX_BRIDGE and {i, j} <= free:
            free -= {i, j}
            found.append((sulphurs[i][0], sulphurs[j][0]))
    _check_declared(chains, declared, found, what)
    made = [{id(a), id(b)} for a, b in found]
    for (r, a), (s, b) in combinations(everyone, 2):
        distance = float(np.linalg.norm(a.xyz - b.xyz))
        if distance < _MIN_THIOLS and {id(r), id(s)} not in made:
            raise OracleError(
                f"{what}: SG of {r} and SG of {s} are {distance:.2f} Å apart, but do not form a bridge (one "
                "has a hydrogen, or another partner). Remove HG for a bridge, or correct the structure"
            )
    return found


def _check_declared(
    chains: list[list[Residue]],
    declared: list[tuple[tuple[str, str], tuple[str, str]]],
    found: list[Pair],
    what: str,
) -> None:
    present = {(r.chain, r.number): r for chain in chains for r in chain}
    made = [{(r.chain, r.number) for r in pair} for pair in found]
    for pair in declared:
        here = [key for key in pair if key in present]
        if here and set(pair) not in made:
            names = " and ".join(f"{chain}:{number}" for chain, number in pair)
            why = (
                "one of them is not among the chains that are read (system.chains)"
                if len(here) == 1
                else f"their SG atoms are farther apart than {MAX_BRIDGE:g} Å, or they have hydrogens or "
                "other partners"
            )
            raise OracleError(f"{what} declares a disulfide of {names}, but {why}")


def check_other_bonds(chains: list[list[Residue]], bridges: list[Pair], what: str) -> None:
    """Refuse bonds between residues other than peptide bonds and disulfides.

    Raises
    ------
    OracleError
        Heavy atoms of two residues are at bonding distance: a cyclic peptide, an isopeptide bond, or atoms
        that overlap.
    """
    bonded = {frozenset((id(a), id(b))) for a, b in bridges}
    bonded |= {frozenset((id(a), id(b))) for chain in chains for a, b in pairwise(chain)}
    residues = [r for chain in chains for r in chain]
    xyz = [np.array([a.xyz for a in r.heavy]).reshape(-1, 3) for r in residues]
    centres = np.array([x.mean(axis=0) if len(x) else np.full(3, np.inf) for x in xyz])
    for i, j in combinations(range(len(residues)), 2):
        if frozenset((id(residues[i]), id(residues[j]))) in bonded:
            continue
        if not np.linalg.norm(centres[i] - centres[j]) < 20.0:
            continue
        distance = np.linalg.norm(xyz[i][:, None] - xyz[j], axis=-1)
        if distance.min() < _BONDED:
            a, b = np.unravel_index(int(distance.argmin()), distance.shape)
            one, two = residues[i].heavy[a].name, residues[j].heavy[b].name
            kind = "a head-to-tail cyclic peptide" if {one, two} == {"N", "C"} else "a bond or an overlap"
            raise OracleError(
                f"{what}: {one} of {residues[i]} and {two} of {residues[j]} are "
                f"{distance.min():.2f} Å apart: {kind} that the force field does not have. Give a structure "
                "without it"
            )
