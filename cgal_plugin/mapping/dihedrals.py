"""Dihedrals that a map names: a few per residue, in place of every bonded path of four beads.

With all backbone atoms as beads, several paths turn about each bond, and none keeps the chirality of CA or
the plane of the peptide bond. The maps of mlcg name φ, ψ, ω and two improper dihedrals per residue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DihedralSpec:
    """One dihedral of each residue.

    Attributes
    ----------
    name
        ``"phi"``, ``"psi"``, ``"omega"``, ``"gamma_1"``, ...
    beads
        Names of the four beads.
    offsets
        The residue of each bead, relative to the residue of the dihedral.
    stiff
        Highest multiplicity of a dihedral that stays in one well (ω, impropers); its force constant follows
        the width of the well. 0: a soft dihedral, with the settings of the fit.
    only, never
        Residues that have, or do not have, this dihedral; empty: all.
    """

    name: str
    beads: tuple[str, str, str, str]
    offsets: tuple[int, int, int, int]
    stiff: int = 0
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def applies(self, residue: str) -> bool:
        """Return whether a residue has this dihedral."""
        return residue not in self.never and (not self.only or residue in self.only)


_PRO = ("PRO",)
#: φ, ψ, ω and the improper dihedrals of CA (the sign of γ1 is the chirality) and C, as in mlcg-tk. Before
#: proline, ω has a second multiplicity, for a cis peptide bond
FIVE_BEAD_DIHEDRALS = (
    DihedralSpec("phi", ("C", "N", "CA", "C"), (-1, 0, 0, 0), never=_PRO),
    DihedralSpec("phi", ("C", "N", "CA", "C"), (-1, 0, 0, 0), stiff=1, only=_PRO),
    DihedralSpec("psi", ("N", "CA", "C", "N"), (0, 0, 0, 1)),
    DihedralSpec("omega", ("CA", "C", "N", "CA"), (-1, -1, 0, 0), stiff=1, never=_PRO),
    DihedralSpec("omega", ("CA", "C", "N", "CA"), (-1, -1, 0, 0), stiff=2, only=_PRO),
    DihedralSpec("gamma_1", ("N", "CB", "C", "CA"), (0, 0, 0, 0), stiff=1),
    DihedralSpec("gamma_2", ("CA", "O", "N", "C"), (0, 0, 1, 0), stiff=1),
)


#: the dihedral whose sign is the chirality of CA
CHIRALITY = "gamma_1"


def named_dihedrals(
    beads: Sequence[tuple[int, int, str, str]], specs: Sequence[DihedralSpec]
) -> tuple[tuple[tuple[int, int, int, int], DihedralSpec], ...]:
    """Return beads and kind of each dihedral of a molecule, sorted by beads.

    ``beads`` has chain, residue, name of the residue and name of each bead. Residues that follow each other
    in a chain are bonded.
    """
    place = {(chain, residue, name): i for i, (chain, residue, _, name) in enumerate(beads)}
    found = []
    for chain, residue, kind in dict.fromkeys(bead[:3] for bead in beads):
        for spec in specs:
            ends = zip(spec.offsets, spec.beads, strict=True)
            own = [place.get((chain, residue + offset, name)) for offset, name in ends]
            if spec.applies(kind) and None not in own:
                a, b, c, d = (int(i) for i in own if i is not None)
                # a dihedral and its reverse are equal
                found.append(((a, b, c, d) if a < d else (d, c, b, a), spec))
    return tuple(sorted(found, key=lambda one: one[0]))
