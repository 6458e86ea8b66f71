"""All-atom structures: a peptide built from its sequence, or read from a PDB file, with hydrogens.

Both return an OpenMM topology with a fixed atom order, and coordinates in Å.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError, OracleError
from cgal_plugin.mapping.residues import ONE_TO_THREE, sequence_to_residues
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openmm import app

#: backbone angles (degrees) of the folded hairpin CLN025; φ of residues 2..10, ψ of residues 1..9
CLN025_SEQUENCE = "YYDPETGTWY"
CLN025_PHI = (-93.0, -76.0, -72.0, -92.0, -106.0, 70.0, -104.0, -81.0, -137.0)
CLN025_PSI = (150.0, 138.0, 134.0, -21.0, -41.0, -17.0, 17.0, 153.0, 133.0)
EXTENDED_PHI, EXTENDED_PSI, _PROLINE_PHI = -120.0, 140.0, -65.0
_MAX_PEPTIDE_BOND = 2.5  # Å, between C and the next residue's N
PROTEIN_FORCE_FIELD = "amber14/protein.ff14SB.xml"


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
) -> tuple[app.Topology, NDArray[np.float64]]:
    """Build a zwitterionic peptide with hydrogens from its one-letter sequence.

    Returns
    -------
    ``(openmm.app.Topology, positions (n_atoms, 3) Å)``; not minimised.

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
    return _prepare(text.getvalue(), f"sequence {sequence!r}", ph)


def read_pdb(path: str | os.PathLike[str], *, ph: float = 7.0) -> tuple[app.Topology, NDArray[np.float64]]:
    """Read the protein of a PDB file (first model) and rebuild its hydrogens.

    Remove water, ions and ligands; add a missing C-terminal OXT. Side chains must be complete, because
    rebuilt side chains are not reliable enough for labels.

    Returns
    -------
    ``(openmm.app.Topology, positions (n_atoms, 3) Å)``; not minimised.

    Raises
    ------
    OracleError
        The file is missing or cannot be read, or it has no protein, non-standard residues, missing heavy
        atoms or a broken chain.
    """
    path = Path(path)
    if not path.is_file():
        raise OracleError(f"PDB file {str(path)!r} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OracleError(f"{str(path)!r} is not a text file: {error}") from error
    return _prepare(text, f"PDB file {str(path)!r}", ph)


def _prepare(text: str, source: str, ph: float) -> tuple[app.Topology, NDArray[np.float64]]:
    from openmm import Platform, app, unit
    from pdbfixer import PDBFixer

    if not any(line.startswith(("ATOM", "HETATM")) for line in text.splitlines()):
        raise OracleError(f"{source} has no protein residue: no ATOM record")
    try:
        fixer = PDBFixer(pdbfile=io.StringIO(text))
    except (ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
        raise OracleError(f"{source} cannot be read as PDB: {error!r}") from error
    fixer.findNonstandardResidues()
    if fixer.nonstandardResidues:
        found = ", ".join(f"{r.name}{r.id}" for r, _ in fixer.nonstandardResidues)
        raise OracleError(f"{source} has non-standard residues: {found}; replace them")
    fixer.removeHeterogens(keepWater=False)
    if fixer.topology.getNumAtoms() == 0:
        raise OracleError(f"{source} has no protein residue")
    modeller = app.Modeller(fixer.topology, fixer.positions)
    hydrogens = [a for a in modeller.topology.atoms() if a.element is app.element.hydrogen]
    if hydrogens:
        modeller.delete(hydrogens)
        fixer.topology, fixer.positions = modeller.topology, modeller.positions
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    if fixer.missingAtoms:
        found = ", ".join(
            f"{r.name}{r.id} lacks {' '.join(a.name for a in atoms)}"
            for r, atoms in fixer.missingAtoms.items()
        )
        raise OracleError(f"{source} has missing atoms: {found}. Add them, or give the sequence instead")
    with seeded_random(0):
        if fixer.missingTerminals:
            fixer.addMissingAtoms(seed=1)
        _check_chain(fixer.topology, np.array(fixer.positions.value_in_unit(unit.angstrom)), source)
        modeller = app.Modeller(fixer.topology, fixer.positions)
        try:
            modeller.addHydrogens(
                app.ForceField(PROTEIN_FORCE_FIELD), pH=ph, platform=Platform.getPlatformByName("Reference")
            )
        except ValueError as error:
            raise OracleError(f"{source}: hydrogens cannot be added: {error}") from error
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
    return modeller.topology, positions


def _check_chain(topology: app.Topology, positions: NDArray[np.float64], source: str) -> None:
    broken = []
    for chain in topology.chains():
        for a, b in pairwise(chain.residues()):
            left, right = ({atom.name: atom.index for atom in r.atoms()} for r in (a, b))
            if "C" in left and "N" in right:
                distance = float(np.linalg.norm(positions[left["C"]] - positions[right["N"]]))
                if distance > _MAX_PEPTIDE_BOND:
                    broken.append(f"{a.name}{a.id}-{b.name}{b.id} (C-N {distance:.1f} Å)")
    if broken:
        raise OracleError(f"{source} has broken chains: {', '.join(broken)}")


@contextmanager
def seeded_random(seed: int) -> Iterator[None]:
    """Seed Python's generator, which OpenMM's Modeller uses, and restore its state afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


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
        f"{text!r} is neither a one-letter sequence ({''.join(sorted(ONE_TO_THREE))}) nor a PDB file"
    )
