"""Residue names: one- and three-letter codes and the protonation or terminal variants of force fields."""

from __future__ import annotations

from cgal_plugin.errors import MappingError

ONE_TO_THREE = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU",
    "G": "GLY", "H": "HIS", "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE",
    "P": "PRO", "S": "SER", "T": "THR", "W": "TRP", "Y": "TYR", "V": "VAL",
}  # fmt: skip
THREE_TO_ONE = {three: one for one, three in ONE_TO_THREE.items()}
#: alphabetical by three-letter code; the position + 1 is the bead type of the CA bead
STANDARD_RESIDUES = tuple(sorted(THREE_TO_ONE))

#: variants of protonation, in the names of PDB, AMBER, CHARMM, GROMACS and OPLS
_VARIANTS = {
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "HISD": "HIS", "HISE": "HIS", "HISH": "HIS", "HISP": "HIS", "HIS1": "HIS", "HIS2": "HIS",
    "HISA": "HIS", "HISB": "HIS", "HSH": "HIS", "HIH": "HIS",
    "CYX": "CYS", "CYM": "CYS", "CYN": "CYS", "CYS1": "CYS", "CYS2": "CYS", "CYSH": "CYS", "CYSS": "CYS",
    "ASH": "ASP", "ASPH": "ASP", "ASPP": "ASP",
    "GLH": "GLU", "GLUH": "GLU", "GLUP": "GLU",
    "LYN": "LYS", "LSN": "LYS", "LYSH": "LYS", "LYP": "LYS",
    "ARN": "ARG", "ARGN": "ARG", "TYM": "TYR",
}  # fmt: skip
#: names of a cysteine in a disulfide bridge
BRIDGED_CYSTEINE = frozenset({"CYX", "CYS2", "CYSS"})
CAPS_BEFORE = frozenset({"ACE", "FOR"})
CAPS_AFTER = frozenset({"NME", "NMA", "NAC", "NH2", "NHE", "ETA"})
#: groups at a chain end; only a user-defined map has beads for them
CAPS = CAPS_BEFORE | CAPS_AFTER
_SAME_CAP = {"NMA": "NME", "NAC": "NME", "NME": "NMA", "NHE": "NH2", "NH2": "NHE"}
WATER = frozenset([
    "HOH", "WAT", "H2O", "DOD", "D2O", "OH2", "SOL", "SPC", "TIP", "TIP3", "TIP4", "TIP5", "TIP3P",
    "TIP4P", "TIP5P", "TP3", "TP4", "TP5", "T3P", "T4P", "T5P", "T3H", "T4E", "OPC", "SPCE", "HO4",
])  # fmt: skip
#: residues of one atom only; CA is calcium
IONS = frozenset([
    "NA", "NA+", "CL", "CL-", "K", "K+", "SOD", "CLA", "POT", "LI", "LI+", "LIT", "RB", "RB+", "RUB",
    "CS", "CS+", "CES", "MG", "MG2", "MG2+", "MG+2", "CA", "CA2", "CA2+", "CA+2", "CAL", "ZN", "ZN2",
    "ZN2+", "ZN+2", "MN", "MN2", "MN3", "FE", "FE2", "FE3", "CU", "CU1", "CU2", "NI", "CO", "3CO", "CD",
    "CD2", "HG", "BA", "BAR", "SR", "F", "F-", "BR", "BR-", "IOD", "I", "I-", "NA1", "NIO", "CIO", "IM",
    "IP",
])  # fmt: skip


def standard_name(name: str) -> str | None:
    """Return the three-letter code of a standard residue, of a variant or of a chain end; None if unknown.

    ``HIE`` and ``HISE`` give ``HIS``; ``NALA`` and ``CALA`` (AMBER's names of chain ends) give ``ALA``.
    """
    upper = name.strip().upper()
    for candidate in (upper, upper[1:] if len(upper) == 4 and upper[0] in "NC" else ""):
        found = _VARIANTS.get(candidate, candidate)
        if found in THREE_TO_ONE:
            return found
    return None


def canonical_residue(name: str) -> str:
    """Return the three-letter code of a standard residue, given its name or a variant (``HIE`` → ``HIS``).

    Raises
    ------
    MappingError
        The name is not known.
    """
    found = standard_name(name)
    if found is None:
        raise MappingError(
            f"residue {name!r} is not known; known are {', '.join(STANDARD_RESIDUES)}, their variants in "
            "PDB, AMBER, CHARMM and GROMACS (HIE, CYX, GLUH, NALA ...), and those of the mapping"
        )
    return found


def same_cap(name: str) -> str | None:
    """Return another name of the same cap (``NMA`` for ``NME``), or None."""
    return _SAME_CAP.get(name)


def sequence_to_residues(sequence: str) -> tuple[str, ...]:
    """Return the three-letter codes of a one-letter sequence such as ``"YYDPETGTWY"``.

    Raises
    ------
    MappingError
        The sequence is empty or contains unknown letters; the message lists them with their positions.
    """
    letters = "".join(sequence.split()).upper()
    if not letters:
        raise MappingError("the sequence is empty; give one-letter codes such as 'YYDPETGTWY'")
    bad = [
        f"{letter!r} at position {i + 1}" for i, letter in enumerate(letters) if letter not in ONE_TO_THREE
    ]
    if bad:
        raise MappingError(
            f"sequence {sequence!r} has unknown residues: {', '.join(bad)}; "
            f"allowed one-letter codes are {''.join(sorted(ONE_TO_THREE))}"
        )
    return tuple(ONE_TO_THREE[letter] for letter in letters)
