"""Hydrogens and protonation states: what a structure shows, and what is missing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.residues import canonical_residue
from cgal_plugin.oracle.structure_file import Atom, Residue

#: residue names of several programs → variant of OpenMM
VARIANTS = {
    "HID": "HID", "HSD": "HID", "HISD": "HID", "HISA": "HID",
    "HIE": "HIE", "HSE": "HIE", "HISE": "HIE", "HISB": "HIE",
    "HIP": "HIP", "HSP": "HIP", "HISH": "HIP",
    "ASH": "ASH", "ASPH": "ASH", "ASPP": "ASH",
    "GLH": "GLH", "GLUH": "GLH", "GLUP": "GLH",
    "LYN": "LYN", "LSN": "LYN",
    "CYX": "CYX", "CYS2": "CYX", "CYSS": "CYX", "CYM": "CYM", "CYN": "CYM",
    "LYSH": "LYS", "LYP": "LYS", "CYSH": "CYS", "HISP": "HIP", "HSH": "HIP", "HIH": "HIP",
}  # fmt: skip
_WITHOUT_PARAMETERS = {
    "ARN": "neutral arginine", "ARGN": "neutral arginine", "TYM": "charged tyrosine",
}  # fmt: skip
#: pH above which a site loses its proton, as in OpenMM's hydrogens.xml
_PKA = {"HIS": 6.5, "ASP": 4.4, "GLU": 4.4, "LYS": 10.0, "CYS": 8.5}
_PROTONATED = {"HIS": "HIP", "ASP": "ASH", "GLU": "GLH", "LYS": "LYS", "CYS": "CYS"}
_DEPROTONATED = {"HIS": None, "ASP": "ASP", "GLU": "GLU", "LYS": "LYN", "CYS": "CYM"}
#: ff14SB has these inside a chain only
INNER_ONLY = ("ASH", "GLH", "LYN", "CYM")
_MAX_HYDROGEN_BOND = 1.45  # Å, from hydrogen to its heavy atom (S–H is 1.34)


@dataclass(frozen=True)
class _Hydrogen:
    name: str
    parent: str
    terminal: str


@cache
def _definitions() -> dict[str, list[_Hydrogen]]:
    data = resources.files("openmm.app") / "data" / "hydrogens.xml"
    found = {}
    for residue in ElementTree.fromstring(data.read_text(encoding="utf-8")).iter("Residue"):
        found[residue.attrib["name"]] = [
            _Hydrogen(
                h.attrib["name"],
                h.attrib["parent"],
                h.attrib.get("terminal", ""),
            )
            for h in residue.iter("H")
        ]
    return found


@cache
def heavy_atoms(residue: str) -> tuple[str, ...]:
    """Return the names of a standard residue's heavy atoms, without the OXT of a chain end."""
    data = resources.files("openmm.app") / "data" / "residues.xml"
    names: set[str] = set()
    for entry in ElementTree.fromstring(data.read_text(encoding="utf-8")).iter("Residue"):
        if entry.attrib["name"] == residue:
            names = {b.attrib[end] for b in entry.iter("Bond") for end in ("from", "to")}
    return tuple(sorted(n for n in names if n[0] not in "H-" and n != "OXT"))


def assign_hydrogens(residue: Residue, *, first: bool, last: bool, what: str) -> None:
    """Give the hydrogens of a residue the names of the force field, in place.

    Each belongs to the heavy atom that it is bonded to. Names of other programs (HB1 and HB2 for HB2 and
    HB3) are replaced in order. A proton on OD1 or OE1 is moved to the equivalent OD2 or OE2 by exchanging the
    names of the oxygens.

    Raises
    ------
    OracleError
        A hydrogen is not bonded to an atom of its residue, or an atom has too many.
    """
    by_parent = _by_parent(residue, what)
    for base, (one, two) in (("ASP", ("OD1", "OD2")), ("GLU", ("OE1", "OE2"))):
        if residue.name == base and by_parent.get(one) and not by_parent.get(two):
            a, b = residue.atom(one), residue.atom(two)
            if a is not None and b is not None:
                a.name, b.name = two, one
                by_parent[two] = by_parent.pop(one)
    expected = _definitions().get(residue.name, [])
    for parent, hydrogens in by_parent.items():
        names = [h.name for h in expected if h.parent == parent and _at_end(h, first, last)]
        if len(hydrogens) > len(names):
            extra = ", ".join(h.name for h in hydrogens)
            raise OracleError(
                f"{what}: {residue} has {len(hydrogens)} hydrogens on {parent} ({extra}); "
                f"the force field has {len(names)} there. Remove the wrong ones; missing ones are added"
            )
        free = [n for n in names if n not in {h.name for h in hydrogens}]
        for hydrogen in sorted(hydrogens, key=lambda h: h.name):
            if hydrogen.name not in names:
                hydrogen.name = free.pop(0)
            hydrogen.element = "H"


def _at_end(hydrogen: _Hydrogen, first: bool, last: bool) -> bool:
    return (
        not hydrogen.terminal or (first and "N" in hydrogen.terminal) or (last and "C" in hydrogen.terminal)
    )


def _by_parent(residue: Residue, what: str) -> dict[str, list[Atom]]:
    heavy = residue.heavy
    found: dict[str, list[Atom]] = {}
    for hydrogen in residue.hydrogens:
        distance = [float(np.linalg.norm(a.xyz - hydrogen.xyz)) for a in heavy]
        if not distance or min(distance) > _MAX_HYDROGEN_BOND:
            far = f"{min(distance):.2f} Å from the nearest heavy atom" if distance else "without a heavy atom"
            raise OracleError(
                f"{what}: hydrogen {hydrogen.name} of {residue} is {far}. Remove it; missing ones are added"
            )
        found.setdefault(heavy[int(np.argmin(distance))].name, []).append(hydrogen)
    return found


def choose_variant(residue: Residue, ph: float, *, bridged: bool, what: str) -> tuple[str | None, str]:
    """Return the protonation variant of a residue, and how it was found.

    The name of the residue in the file decides, then its hydrogens, then the pH. None: OpenMM chooses the
    tautomer of a neutral histidine by its hydrogen bonds, or the residue has no variants.

    Raises
    ------
    OracleError
        Name and hydrogens contradict each other.
    """
    base = canonical_residue(residue.name)
    if not residue.replaced and residue.given.upper() in _WITHOUT_PARAMETERS:
        raise OracleError(
            f"{what}: {residue} is a {_WITHOUT_PARAMETERS[residue.given.upper()]}, which the force field "
            f"does not have. Use system.replace: {{{residue.given}: {base}}}"
        )
    if base not in _PKA:
        return None, ""
    named = VARIANTS.get((residue.replaced or residue.given).upper())
    if bridged:
        if named == "CYM":
            raise OracleError(
                f"{what}: {residue} is named CYM, but its SG is bonded to another one. Rename it to CYS"
            )
        return "CYX", "disulfide"
    shown = _shown(residue, base)
    if named == "CYX":
        raise OracleError(
            f"{what}: {residue} is named as part of a disulfide, but no other SG without hydrogen is within "
            "3 Å of its SG. Rename it to CYS, or give a structure with the bridge formed"
        )
    if named is not None and shown is not None and named != shown:
        raise OracleError(
            f"{what}: {residue} is named {residue.given}, but its hydrogens are those of {shown}. "
            "Rename it, or remove its hydrogens"
        )
    if named is not None:
        return named, "given by its name"
    if shown is not None:
        return shown, "given by its hydrogens"
    if ph <= _PKA[base]:
        return _PROTONATED[base], f"pH {ph:g}"
    return _DEPROTONATED[base], f"pH {ph:g}"


def _shown(residue: Residue, base: str) -> str | None:
    """Return the variant that the hydrogens of a residue show, or None if they do not show one."""
    names = {h.name for h in residue.hydrogens}
    if not names:
        return None
    if base == "HIS":
        return {(True, True): "HIP", (True, False): "HID", (False, True): "HIE"}.get(
            ("HD1" in names, "HE2" in names)
        )
    if base == "ASP":
        return "ASH" if "HD2" in names else "ASP"
    if base == "GLU":
        return "GLH" if "HE2" in names else "GLU"
    n_site = sum(n.startswith("HZ") for n in names)
    if base == "LYS":
        return {2: "LYN", 3: "LYS"}.get(n_site)
    if "HG" in names:
        return "CYS"
    # without carbon-bound hydrogens the file may hold a part of the hydrogens only
    return "CYM" if "HB2" in names else None


def check_titration(residue: Residue, *, first: bool, last: bool, what: str) -> None:
    """Refuse protonation states that the hydrogens of a residue show and the force field does not have.

    Raises
    ------
    OracleError
        A neutral chain end, a neutral arginine, or a charged tyrosine.
    """
    names = {h.name for h in residue.hydrogens}
    if not {"HA", "HA2"} & names:
        return  # few or no hydrogens: the others are added
    on_n = len({"H", "H2", "H3"} & names)
    if first and on_n == (1 if residue.name == "PRO" else 2):
        raise OracleError(
            f"{what}: {residue} is a neutral chain start ({on_n} hydrogens on N); the force field has "
            "charged chain ends. Cap the chain with ACE, or remove these hydrogens to make it charged"
        )
    if last and "HXT" in names:
        raise OracleError(
            f"{what}: {residue} is a neutral chain end (HXT); the force field has charged chain ends. "
            "Cap the chain with NME, or remove HXT to make it charged"
        )
    if residue.name == "TYR" and "HH" not in names:
        raise OracleError(
            f"{what}: {residue} is a charged tyrosine (no HH), which the force field does not have. "
            "Remove its hydrogens to make it neutral"
        )
    if residue.name == "ARG" and len(names & {"HE", "HH11", "HH12", "HH21", "HH22"}) == 4:
        raise OracleError(
            f"{what}: {residue} is a neutral arginine, which the force field does not have. "
            "Remove its hydrogens to make it charged"
        )
