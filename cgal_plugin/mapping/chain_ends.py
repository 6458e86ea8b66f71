"""Which consecutive residues of a file are bonded: a gap or a chain end never is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cgal_plugin.mapping.residues import CAPS, CAPS_AFTER, CAPS_BEFORE
from cgal_plugin.mapping.structure import Coordinates, Residue

if TYPE_CHECKING:
    from cgal_plugin.mapping.spec import MapSpec

#: Å, longest distance of C and N of a peptide bond; the next closest distance, without a bond, is above 3 Å
MAX_PEPTIDE_BOND = 2.5
#: Å, CA–CA distance of bonded residues (native: 3.8) in a file without C and N: certain up to the first
#: value, never above the second (over a missing residue: 5 to 7)
_CA_CERTAIN, _CA_LARGEST = 4.3, 5.0
#: Å, the same limit for beads other than CA
_BEAD_LARGEST = 8.0
_END_ATOMS = frozenset({"OXT", "OT2", "OT1", "OC2", "OC1", "O2", "NT", "CAT"})
_START_ATOMS = (
    {"H2", "H3"}, {"H1", "H2"}, {"HT1", "HT2"}, {"HN1", "HN2"}, {"1H", "2H"}, {"CAY"},
)  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What is known about the bonds of a structure.

    ``bonded`` gives the atoms bonded to each atom. ``complete``: the file lists all bonds, so that they
    decide (a PSF file). Otherwise a bond between neighbours may have been added by their names and proves
    nothing; only a missing one does.
    """

    spec: MapSpec
    coordinates: Coordinates | None
    bonded: Mapping[int, set[int]]
    complete: bool = False


def link_atom(residue: Residue, spec: MapSpec) -> int | None:
    """Return the atom that stands for the link bead in a file of beads, or the CA atom; None if absent."""
    return residue.atoms.get(spec.link_of(residue.name), residue.atoms.get("CA"))


def peptide_distance(a: Residue, b: Residue, coordinates: Coordinates | None) -> float | None:
    """Return the distance from C of ``a`` to N of ``b``, Å; None if it is not known."""
    return None if coordinates is None else coordinates.distance(a.atoms.get("C"), b.atoms.get("N"))


def is_bonded(
    a: Residue, b: Residue, evidence: Evidence, between: Sequence[str] = ()
) -> tuple[bool, str | None]:
    """Return whether two consecutive residues are bonded, and the reason if this is a gap.

    Coordinates decide if there are any, then the bonds of the file, then the atoms of chain ends, caps, and
    residue numbers. The reason is None at a regular chain end.

    Parameters
    ----------
    a, b
        Residues with beads that follow each other in the file.
    evidence
        Coordinates and bonds.
    between
        Names of the residues without beads between them.
    """
    if a.chain != b.chain:
        return False, None
    coordinates = evidence.coordinates
    clean = _regular_end(a, b, between)
    if evidence.complete and _has_link(a, b, evidence):
        return True, None
    d = peptide_distance(a, b, coordinates)
    if d is not None:
        return d <= MAX_PEPTIDE_BOND, None if clean or d <= MAX_PEPTIDE_BOND else f"C–N {d:.1f} Å"
    first, second = link_atom(a, evidence.spec), link_atom(b, evidence.spec)
    d = None if coordinates is None else coordinates.distance(first, second)
    if d is not None and not clean:
        alpha = evidence.spec.link_of(a.name) == evidence.spec.link_of(b.name) == "CA"
        what = "CA–CA" if alpha else "bead–bead"
        if d > (_CA_LARGEST if alpha else _BEAD_LARGEST):
            return False, f"{what} {d:.1f} Å"
        if alpha and d <= _CA_CERTAIN:
            return True, None
    if clean:
        return False, None
    if (evidence.complete or _bonds_known(a, b, evidence)) and not _has_link(a, b, evidence):
        return False, "no bond in the topology"
    jump = _numbers_jump(a, b)
    return not jump, f"residue numbers {a.number} and {b.number}" if jump else None


def _regular_end(a: Residue, b: Residue, between: Sequence[str]) -> bool:
    """Return whether the residues look like the end of a chain and the start of the next."""
    falls = a.number is not None and b.number is not None and b.number < a.number and a.number < 9999
    capped = bool(CAPS & set(between)) or a.name in CAPS_AFTER or b.name in CAPS_BEFORE
    ends = "N" in a.atoms and bool(_END_ATOMS & a.atoms.keys()) and a.name not in CAPS
    starts = any(group <= b.atoms.keys() for group in _START_ATOMS) and b.name not in CAPS
    # OpenMM names the two hydrogens of a charged N-terminal proline H2 and H3, like all others
    return falls or capped or ends or starts or (a.segment != b.segment and bool(a.segment and b.segment))


def _numbers_jump(a: Residue, b: Residue) -> bool:
    if a.number is None or b.number is None:
        return False
    # insertions repeat a number; after 9999 and 99999 files start again
    return b.number - a.number not in (0, 1) and not (a.number >= 9999 and b.number <= 1)


def _bonds_known(a: Residue, b: Residue, evidence: Evidence) -> bool:
    """Return whether the topology has the bonds of both residues, inside them or of their only bead."""
    known = []
    for residue in (a, b):
        atoms = set(residue.atoms.values())
        partners: set[int] = set().union(*(evidence.bonded.get(i, set()) for i in atoms))
        known.append(bool(partners & atoms) or (len(atoms) == 1 and bool(partners)))
    return all(known)


def _has_link(a: Residue, b: Residue, evidence: Evidence) -> bool:
    ends = (
        (a.atoms.get("C"), b.atoms.get("N")),
        (link_atom(a, evidence.spec), link_atom(b, evidence.spec)),
    )
    return any(i is not None and j in evidence.bonded.get(i, set()) for i, j in ends)
