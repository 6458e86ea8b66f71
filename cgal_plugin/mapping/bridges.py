"""Disulfide bridges of a structure, as pairs of residues."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from cgal_plugin.errors import CGALWarning, MappingError
from cgal_plugin.mapping.residues import BRIDGED_CYSTEINE, standard_name
from cgal_plugin.mapping.structure import Residue

if TYPE_CHECKING:
    from cgal_plugin.mapping.chain_ends import Evidence

#: Å, longest S–S bond (native: 2.05); sulfurs that share a metal are 3.3 Å apart or more
MAX_BRIDGE = 2.5
Pair = tuple[int, int]


def check_bridges(bridges: Iterable[Sequence[int]], names: Sequence[str]) -> list[Pair]:
    """Return given bridges as sorted pairs of 0-based residue indices.

    Parameters
    ----------
    bridges
        Pairs of 0-based residue indices, as in ``CGTopology.residue_index``.
    names
        Residue names of the molecule.

    Raises
    ------
    MappingError
        A pair is not two different cysteines of the molecule, or a cysteine has two bridges.
    """
    found: list[Pair] = []
    for pair in bridges:
        ends = tuple(pair)
        if len(ends) != 2 or any(isinstance(r, bool) or int(r) != r for r in ends) or ends[0] == ends[1]:
            raise MappingError(f"bridge {list(ends)} is not a pair of different residue indices")
        for r in ends:
            if not 0 <= r < len(names):
                raise MappingError(
                    f"bridge {list(ends)}: there is no residue {r}; residues are 0 to {len(names) - 1} "
                    "(bridges count residues from 0)"
                )
            if standard_name(names[r]) != "CYS":
                cysteines = [i for i, n in enumerate(names) if standard_name(n) == "CYS"]
                raise MappingError(
                    f"bridge {list(ends)}: residue {r} is {names[r]}, not a cysteine; cysteines are "
                    f"{cysteines} (bridges count residues from 0)"
                )
        found.append((int(min(ends)), int(max(ends))))
    return _once(sorted(set(found)), [f"{n}{i}" for i, n in enumerate(names)])


def find_bridges(chains: Sequence[Sequence[Residue]], evidence: Evidence) -> list[Pair]:
    """Return the bridges as sorted pairs of 0-based residue indices over all chains.

    From the bonds of the topology between two SG (in a file of beads: between two beads of cysteines that are
    not neighbours), then from sulfurs without hydrogen within 2.5 Å; without coordinates from the names of
    bridged cysteines (CYX, CYS2), if there are exactly two of them. Bridged names without a partner are
    named in a warning.

    Raises
    ------
    MappingError
        A cysteine has two bridges.
    """
    residues = [r for chain in chains for r in chain]
    cysteines = {i: r for i, r in enumerate(residues) if standard_name(r.name) == "CYS"}
    if not cysteines:
        return []
    labels = [r.label for r in residues]
    found = _once(sorted(_from_bonds(cysteines, _neighbours(chains), evidence)), labels)
    taken = {i for pair in found for i in pair}
    near = []
    for i, j in combinations([k for k in cysteines if k not in taken], 2):
        a, b = residues[i].atoms, residues[j].atoms
        if evidence.coordinates is None or {"HG", "HG1"} & (a.keys() | b.keys()):
            continue
        d = evidence.coordinates.distance(a.get("SG"), b.get("SG"))
        if d is not None and d <= MAX_BRIDGE:
            near.append((d, i, j))
    for _, i, j in sorted(near):
        if not {i, j} & taken:
            found.append((i, j))
            taken |= {i, j}
    named = [i for i, r in cysteines.items() if r.name in BRIDGED_CYSTEINE and i not in taken]
    visible = evidence.coordinates is not None and any("SG" in residues[i].atoms for i in named)
    if len(named) == 2 and not visible:
        found.append((named[0], named[1]))
    elif named:
        warnings.warn(
            f"{', '.join(labels[i] for i in named)}: named as bridged cysteines, but the partner is not "
            f"known (no bond, no sulfur within {MAX_BRIDGE} Å): no disulfide bridge was set for them; give "
            "bridges=[(i, j), ...], residues counted from 0",
            CGALWarning,
            stacklevel=2,
        )
    return sorted(found)


def _neighbours(chains: Sequence[Sequence[Residue]]) -> set[Pair]:
    found, start = set(), 0
    for chain in chains:
        found |= {(i, i + 1) for i in range(start, start + len(chain) - 1)}
        start += len(chain)
    return found


def _from_bonds(cysteines: dict[int, Residue], neighbours: set[Pair], evidence: Evidence) -> set[Pair]:
    owner = {atom: (i, name) for i, r in cysteines.items() for name, atom in r.atoms.items()}
    found = set()
    for atom, (i, first) in owner.items():
        for j, second in (owner[k] for k in evidence.bonded.get(atom, set()) if k in owner):
            sulfurs = first == second == "SG"
            beads = first == second == evidence.spec.bridge_bead("CYS")
            beads = beads and not ("SG" in cysteines[i].atoms or "SG" in cysteines[j].atoms)
            pair = (min(i, j), max(i, j))
            beads = beads and (pair not in neighbours or first != evidence.spec.link_of("CYS"))
            if i != j and (sulfurs or beads):
                found.add(pair)
    return found


def _once(pairs: list[Pair], labels: Sequence[str]) -> list[Pair]:
    ends = [i for pair in pairs for i in pair]
    twice = sorted({i for i in ends if ends.count(i) > 1})
    if twice:
        raise MappingError(
            f"{', '.join(labels[i] for i in twice)} has more than one disulfide bridge: "
            + ", ".join(f"{labels[i]}–{labels[j]}" for i, j in pairs if {i, j} & set(twice))
        )
    return pairs
