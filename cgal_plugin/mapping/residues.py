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

_VARIANTS = {
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip
#: residues without beads, ignored by every mapping
CAPS_AND_SOLVENT = frozenset(
    (
        "ACE",
        "NME",
        "NH2",
        "HOH",
        "WAT",
        "TIP3",
        "SOL",
        "NA",
        "CL",
        "K",
        "NA+",
        "CL-",
        "K+",
        "SOD",
        "CLA",
        "POT",
    )
)


def canonical_residue(name: str) -> str:
    """Return the three-letter code of a standard residue, given its name or a variant (``HIE`` → ``HIS``).

    Raises
    ------
    MappingError
        The name is not known.
    """
    upper = name.strip().upper()
    upper = _VARIANTS.get(upper, upper)
    if upper not in THREE_TO_ONE:
        raise MappingError(
            f"residue {name!r} is not known; standard residues are {', '.join(STANDARD_RESIDUES)} "
            f"and the variants {', '.join(sorted(_VARIANTS))}. Rename it, or use a mapping that defines it."
        )
    return upper


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
