"""A peptide built from its one-letter sequence, and the known fold of CLN025."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cgal_plugin.errors import MappingError, OracleError
from cgal_plugin.mapping.residues import ONE_TO_THREE, sequence_to_residues
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.structure import PreparedStructure, prepare
from cgal_plugin.oracle.structure_file import read_pdb_text

#: backbone angles (degrees) of the folded hairpin CLN025; φ of residues 2..10, ψ of residues 1..9
CLN025_SEQUENCE = "YYDPETGTWY"
CLN025_PHI = (-93.0, -76.0, -72.0, -92.0, -106.0, 70.0, -104.0, -81.0, -137.0)
CLN025_PSI = (150.0, 138.0, 134.0, -21.0, -41.0, -17.0, 17.0, 153.0, 133.0)
EXTENDED_PHI, EXTENDED_PSI, _PROLINE_PHI = -120.0, 140.0, -65.0


def backbone_angles(
    sequence: str, phi: Sequence[float] | None = None, psi: Sequence[float] | None = None
) -> tuple[list[float], list[float]]:
    """Return φ of residues 2..n and ψ of residues 1..n-1, degrees.

    Defaults: the hairpin for the sequence of CLN025, an extended β strand for any other sequence.

    Raises
    ------
    OracleError
        Only one list is given, or a list has the wrong length.
    """
    n = len(sequence)
    if (phi is None) != (psi is None):
        raise OracleError("give both phi and psi, or neither")
    if phi is None or psi is None:
        if sequence == CLN025_SEQUENCE:
            return list(CLN025_PHI), list(CLN025_PSI)
        phi = [_PROLINE_PHI if letter == "P" else EXTENDED_PHI for letter in sequence[1:]]
        return phi, [EXTENDED_PSI] * (n - 1)
    if len(phi) != n - 1 or len(psi) != n - 1:
        raise OracleError(
            f"{n} residues need {n - 1} phi (residues 2..{n}) and {n - 1} psi (residues 1..{n - 1}); "
            f"got {len(phi)} and {len(psi)}"
        )
    return [float(p) for p in phi], [float(p) for p in psi]


def build_peptide(
    sequence: str,
    *,
    phi: Sequence[float] | None = None,
    psi: Sequence[float] | None = None,
    ph: float = 7.0,
) -> PreparedStructure:
    """Build a zwitterionic peptide with hydrogens from its one-letter sequence; not minimised.

    Raises
    ------
    MappingError
        A letter is not a standard residue.
    OracleError
        There are fewer than two residues, or the number of angles is wrong.
    """
    sequence_to_residues(sequence)
    sequence = "".join(sequence.split()).upper()
    if len(sequence) < 2:
        raise OracleError(f"sequence {sequence!r} has one residue; the oracle needs two or more")
    folded = phi is not None or sequence == CLN025_SEQUENCE
    phi, psi = backbone_angles(sequence, phi, psi)
    import PeptideBuilder
    from Bio.PDB.PDBIO import PDBIO

    structure = PeptideBuilder.make_structure(sequence, phi, psi)
    PeptideBuilder.add_terminal_OXT(structure)
    new_writer: Callable[[], Any] = PDBIO  # Bio.PDB has no annotations
    writer = new_writer()
    writer.set_structure(structure)
    text = io.StringIO()
    writer.save(text)
    source = f"sequence {sequence!r}"
    found = read_pdb_text(text.getvalue(), source)
    return prepare(found, ReadOptions(ph=ph), source, folded=folded, built=True)


def is_sequence(text: str | os.PathLike[str]) -> bool:
    """Return whether the text is a one-letter sequence rather than a file name.

    Raises
    ------
    MappingError
        The text is neither.
    """
    if not isinstance(text, str):
        return False
    if Path(text).suffix or "/" in text or os.sep in text or Path(text).is_file():
        return False
    letters = "".join(text.split()).upper()
    if letters and letters.isalpha():
        sequence_to_residues(letters)
        return True
    raise MappingError(
        f"{text!r} is neither a one-letter sequence ({''.join(sorted(ONE_TO_THREE))}) nor a structure file. "
        "Caps and several chains need a structure file"
    )
