"""The chains of a structure: which residues belong to them, which are left out, where a chain ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import gemmi
import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.residues import ONE_TO_THREE, WATER, canonical_residue, standard_name
from cgal_plugin.oracle.hydrogens import heavy_atoms
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.structure_file import Atom, Residue, StructureFile

#: monovalent ions of a solution
SOLVENT_IONS = frozenset(("NA", "NA+", "SOD", "CL", "CL-", "CLA", "K", "K+", "POT"))
#: caps that the force field has → name in the force field's files
START_CAPS = {"ACE": "ACE"}
END_CAPS = {"NME": "NME", "NMA": "NME", "NAC": "NME", "CT3": "NME", "NH2": "NH2", "NHE": "NH2"}
_CAP_ATOMS = {"ACE": 3, "NME": 2, "NH2": 1}
#: longest bond between C and the next residue's N, Å
MAX_PEPTIDE_BOND = 2.0
#: heavy atoms of two residues that are nearer than this are bonded, Å
_BONDED = 2.0
_LISTED = 6
#: a gap (Å) that may come from a periodic box, and the remedy
_FAR = 10.0
_WRAPPED = ". A molecule that is broken across a periodic box must be made whole (gmx trjconv -pbc whole)"


def choose_residues(
    found: StructureFile, options: ReadOptions, what: str
) -> tuple[list[list[Residue]], StructureRecord]:
    """Return the chains of amino acids and caps, and the record of what was left out.

    The residues get the names of the force field; :attr:`Residue.given` keeps the names of the file.

    Raises
    ------
    OracleError
        A chain does not exist, a residue is not known and may not be left out, or no chain is left.
    """
    record = StructureRecord()
    for note in found.notes:
        record = record.with_fact("notes", note)
    parts, record = _chosen_chains(found.parts, options, what, record)
    kept_parts: list[list[Residue]] = []
    left: list[Residue] = []
    replaced: list[str] = []
    for part in parts:
        kept = []
        for residue in part:
            residue.given = residue.name
            name = options.replace.get(residue.name.upper())
            if name is not None:
                replaced.append(_replace(residue, name))
            if not _belongs(residue, part):
                left.append(residue)
                continue
            kept.append(residue)
        kept_parts.append(kept)
    kept_all = [r for part in kept_parts for r in part]
    _check_left_out(left, kept_all, options, what)
    chains = [chain for part in kept_parts if part for chain in _split(part, left, what)]
    if left:
        counts = Counter(r.given for r in left)
        text = ", ".join(f"{n} {name}" for name, n in counts.items())
        record = record.with_fact("left out", text)
    for residue in (r for r in left if r.name.upper() not in WATER | SOLVENT_IONS):
        bonded = _bonded_residue(residue, kept_all)
        if bonded is not None:
            record = record.with_fact("left out", f"{residue} was bonded to {bonded}")
    for text in replaced:
        record = record.with_fact("replaced", text)
    if not any(standard_name(r.name) for r in kept_all):
        raise OracleError(f"{what} has no protein residue")
    return chains, record


def _chosen_chains(
    parts: list[list[Residue]], options: ReadOptions, what: str, record: StructureRecord
) -> tuple[list[list[Residue]], StructureRecord]:
    if options.chains is None:
        return parts, record
    names = list(dict.fromkeys(part[0].chain for part in parts))
    unknown = [name for name in options.chains if name not in names]
    if unknown:
        raise OracleError(
            f"{what} has no chain {', '.join(map(repr, unknown))}; its chains are "
            f"{', '.join(map(repr, names))} (system.chains)"
        )
    for name in names:
        if name not in options.chains:
            n = sum(len(part) for part in parts if part[0].chain == name)
            record = record.with_fact("left out", f"chain {name!r} with {n} residues (not in chains)")
    chosen = set(options.chains)
    kept = [part for part in parts if part[0].chain in chosen]
    return kept, record


def _belongs(residue: Residue, part: list[Residue]) -> bool:
    """Whether a residue is part of a chain; give it the name of the force field."""
    name = residue.name.upper()
    if name in START_CAPS or name in END_CAPS:
        residue.name = START_CAPS.get(name) or END_CAPS[name]
        return True
    if standard_name(name) is None:
        return False
    # an amino acid alone among hetero atoms is a ligand
    return not (residue.het and not any(standard_name(r.name) for r in part if r is not residue))


def _replace(residue: Residue, name: str) -> str:
    """Rename a residue; keep backbone atoms and the side-chain atoms that the new residue has too."""
    old = str(residue)
    residue.name = residue.replaced = name
    target = canonical_residue(name)
    if target == "MET":
        for atom in residue.atoms:
            if atom.name in ("SE", "SED") and atom.element.upper() == "SE":
                atom.name, atom.element = "SD", "S"
    kept = [*heavy_atoms(target), "OXT"]
    dropped = [a.name for a in residue.heavy if a.name not in kept]
    if _is_inverted(residue):
        # the side chain is on the wrong side of the backbone
        dropped += [a.name for a in residue.heavy if a.name not in ("N", "CA", "C", "O", "OXT", *dropped)]
    heavy = [a for a in residue.heavy if a.name not in dropped]
    # hydrogens of the side chain show the old residue
    residue.atoms = heavy + [a for a in residue.hydrogens if _nearest(a, residue.heavy).name == "N"]
    return f"{old} by {name}" + (f" (without {', '.join(dropped)})" if dropped else "")


def _is_inverted(residue: Residue) -> bool:
    atoms = [residue.atom(n) for n in ("CA", "N", "C", "CB")]
    if any(a is None for a in atoms):
        return False
    ca, n, c, cb = (a.xyz for a in atoms if a is not None)
    return float(np.dot(n - ca, np.cross(c - ca, cb - ca))) < 0


def _nearest(atom: Atom, others: list[Atom]) -> Atom:
    return min(others, key=lambda other: float(np.linalg.norm(other.xyz - atom.xyz)))


def _split(residues: list[Residue], left: list[Residue], what: str) -> list[list[Residue]]:
    """Split a part where a chain ends; refuse a gap.

    Raises
    ------
    OracleError
        Two neighbours are not bonded and neither is the end of a chain.
    """
    chains = [[residues[0]]]
    gaps = []
    for before, after in pairwise(residues):
        distance = _peptide_bond(before, after)
        if distance is not None and distance <= MAX_PEPTIDE_BOND:
            chains[-1].append(after)
        elif _is_end(before) or _is_start(after) or distance is None or _number(after) < _number(before):
            chains.append([after])
        else:
            gaps.append((before, after, distance))
            chains[-1].append(after)
    if gaps:
        texts = [f"{a} – {b} (C–N {d:.1f} Å{_lacking(a, b)})" for a, b, d in gaps]
        ignored = [r for a, b, _ in gaps for r in left if _is_between(r, a, b)]
        if ignored:
            pairs = dict.fromkeys(f"{r.given}: {_similar(r.given)}" for r in ignored)
            raise OracleError(
                f"{what} has broken chains (a gap): {', '.join(texts)}. The chain runs through "
                f"{', '.join(map(str, ignored))}, left out by ignore. Use system.replace: "
                f"{{{', '.join(pairs)}}} instead, to put a standard residue there"
            )
        raise OracleError(
            f"{what} has broken chains (a gap): {', '.join(texts)}. Add the missing residues with a "
            "modelling program, choose other chains (system.chains), or write a TER record at the gap to "
            f"simulate two chains{_WRAPPED * any(d > _FAR for *_, d in gaps)}"
        )
    return chains


def _is_between(residue: Residue, before: Residue, after: Residue) -> bool:
    """Whether a residue that was left out has a peptide bond to an end of a gap."""
    bonds = _peptide_bond(before, residue), _peptide_bond(residue, after)
    return any(d is not None and d <= MAX_PEPTIDE_BOND for d in bonds)


def _number(residue: Residue) -> int:
    return int("".join(c for c in residue.number if c.isdigit() or c == "-") or 0)


def _lacking(before: Residue, after: Residue) -> str:
    n = _number(after) - _number(before) - 1
    return f", {n} residue{'s' if n > 1 else ''} missing" if n > 0 else ""


def _peptide_bond(before: Residue, after: Residue) -> float | None:
    """Return the distance of C and the next N, Å; None if one of them is missing."""
    c = before.atom("C") or before.atom("CY")
    n = after.atom("N") or after.atom("NT")
    if c is None or n is None or before.name in END_CAPS.values():
        return None
    return float(np.linalg.norm(c.xyz - n.xyz))


def _is_end(residue: Residue) -> bool:
    names = {a.name for a in residue.atoms}
    return residue.name in END_CAPS.values() or bool(names & {"OXT", "OT2", "O2", "OC2"})


def _is_start(residue: Residue) -> bool:
    names = {a.name for a in residue.atoms}
    return residue.name in START_CAPS.values() or bool(names & {"H3", "HT3", "HN3"})


def _check_left_out(left: list[Residue], kept: list[Residue], options: ReadOptions, what: str) -> None:
    harmless = WATER | SOLVENT_IONS | set(options.ignore)
    serious = [r for r in left if r.name.upper() not in harmless]
    if not serious:
        return
    names = list(dict.fromkeys(r.given for r in serious))
    shown = []
    for residue in serious[:_LISTED]:
        bonded = _bonded_residue(residue, kept)
        shown.append(f"{residue}" + (f" (bonded to {bonded})" if bonded is not None else ""))
    more = f" and {len(serious) - _LISTED} more" if len(serious) > _LISTED else ""
    linked = [r for r in serious if all(r.atom(name) is not None for name in ("N", "CA", "C"))]
    remedies = [f"system.ignore: [{', '.join(names)}] to leave them out"]
    if linked:
        example = linked[0].given
        remedies.insert(
            0, f"system.replace: {{{example}: {_similar(example)}}} to put a standard residue there"
        )
    raise OracleError(
        f"{what} has residues that are not standard amino acids: {', '.join(shown)}{more}. "
        f"Leaving them out changes the molecule. Use {', or '.join(remedies)}"
    )


_SIMILAR = {
    "MSE": "MET", "NLE": "LEU", "AIB": "ALA", "SEP": "SER", "TPO": "THR", "PTR": "TYR", "HYP": "PRO",
    "ORN": "LYS", "CSO": "CYS", "SEC": "CYS", "PCA": "GLN", "MLY": "LYS", "KCX": "LYS", "CME": "CYS",
    "ABA": "ALA", "NVA": "VAL", "CIR": "ARG", "TYS": "TYR", "DAL": "ALA", "DVA": "VAL", "DPR": "PRO",
    "DLE": "LEU", "DLY": "LYS", "DTY": "TYR", "DPN": "PHE", "DTR": "TRP", "DSN": "SER", "DAR": "ARG",
}  # fmt: skip


def _similar(name: str) -> str:
    """Return the standard residue that a modified one is closest to, ALA if it is not known."""
    letter = gemmi.find_tabulated_residue(name.upper()).one_letter_code.upper()
    return _SIMILAR.get(name.upper(), ONE_TO_THREE.get(letter, "ALA"))


def _bonded_residue(residue: Residue, kept: Iterable[Residue]) -> Residue | None:
    """Return the residue of a chain that has a heavy atom at bonding distance, or None."""
    own = np.array([a.xyz for a in residue.heavy]).reshape(-1, 3)
    if not len(own):
        return None
    for other in kept:
        xyz = np.array([a.xyz for a in other.heavy]).reshape(-1, 3)
        if len(xyz) and np.linalg.norm(own[:, None] - xyz, axis=-1).min() < _BONDED:
            return other
    return None


def check_caps(chains: list[list[Residue]], what: str) -> None:
    """Check that caps are at the ends of their chains, complete, and next to a residue.

    Raises
    ------
    OracleError
        A cap is elsewhere, incomplete or alone.
    """
    for chain in chains:
        for i, residue in enumerate(chain):
            wrong = (residue.name in START_CAPS.values() and i > 0) or (
                residue.name in END_CAPS.values() and i < len(chain) - 1
            )
            if residue.name in _CAP_ATOMS and (wrong or len(chain) == 1):
                raise OracleError(
                    f"{what}: the cap {residue} is not bonded to the end of a chain (C–N longer than "
                    f"{MAX_PEPTIDE_BOND:g} Å, or wrong order in the file)"
                )
            if residue.name in _CAP_ATOMS and len(residue.heavy) != _CAP_ATOMS[residue.name]:
                raise OracleError(
                    f"{what}: the cap {residue} has heavy atoms {', '.join(a.name for a in residue.heavy)}; "
                    f"expected {_CAP_ATOMS[residue.name]}"
                )
