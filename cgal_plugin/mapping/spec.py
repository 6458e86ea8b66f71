"""Beads of each residue: the CA, CA+CB and five-bead maps, and user-defined maps in YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cgal_plugin.errors import ConfigError, MappingError
from cgal_plugin.mapping.bead_spec import BeadSpec
from cgal_plugin.mapping.dihedrals import FIVE_BEAD_DIHEDRALS, DihedralSpec
from cgal_plugin.mapping.embedding import CGAL, EMBEDDINGS, Embedding, resolve_embedding
from cgal_plugin.mapping.residues import CAPS, CAPS_BEFORE, STANDARD_RESIDUES, canonical_residue, same_cap
from cgal_plugin.provenance import hash_object

#: stands for the residue in the type of a bead that has one type in all residues
ALL = "ALL"
_FIRST_CUSTOM_TYPE = 2 * len(STANDARD_RESIDUES) + 1


@dataclass(frozen=True)
class MapSpec:
    """Beads of every residue, the bead that links residues along the chain, and bonds inside residues.

    Attributes
    ----------
    name
        ``"CA"``, ``"CACB"``, ``"5bead"``, or the name of a user-defined map.
    residues
        Three-letter code → beads, in order.
    backbone
        Name of the bead that is bonded to the bead of the same name in the next residue. A cap (ACE, FOR,
        NME, NH2, ...) may lack it: then the last bead of a cap at the start of a chain, and the first of one
        at its end, is bonded to the backbone bead of the neighbour.
    ends
        Names of the beads that are bonded to the previous and to the next residue, if these are not the
        backbone bead: ``("N", "C")``.
    bonds
        Three-letter code → pairs of bead names bonded inside the residue. In a residue
        without an entry every other bead is bonded to the backbone bead (:meth:`link_of`).
    shared
        Beads that have one type in all residues, ``"N_ALL"``.
    dihedrals
        Dihedrals of each residue; empty: every bonded path of four beads.
    table
        Embedding of the bead types; None: ``cgal``. It is not part of :attr:`hash`.

    Raises
    ------
    MappingError
        A residue has duplicate beads or no backbone bead, or a bond names an unknown bead.
    """

    name: str
    residues: Mapping[str, tuple[BeadSpec, ...]]
    backbone: str
    bonds: Mapping[str, tuple[tuple[str, str], ...]]
    table: Embedding | None = None
    ends: tuple[str, str] | None = None
    shared: tuple[str, ...] = ()
    dihedrals: tuple[DihedralSpec, ...] = ()

    def __post_init__(self) -> None:
        for residue, beads in self.residues.items():
            names = [bead.name for bead in beads]
            duplicates = sorted({n for n in names if names.count(n) > 1})
            if duplicates:
                raise MappingError(
                    f"mapping {self.name!r}: residue {residue} has duplicate beads {duplicates}"
                )
            if self.backbone not in names and residue not in CAPS:
                raise MappingError(
                    f"mapping {self.name!r}: residue {residue} has no backbone bead "
                    f"{self.backbone!r} (has {names})"
                )
        for residue, pairs in self.bonds.items():
            known = {bead.name for bead in self.residues.get(residue, ())}
            unknown = sorted({n for pair in pairs for n in pair} - known)
            if unknown:
                raise MappingError(
                    f"mapping {self.name!r}: bonds of {residue} name beads {unknown} that it does not have"
                )

    @cached_property
    def embedding(self) -> Embedding:
        """Bead type name (``"CA_TYR"``) → number; it depends on the map only, not on the sequence.

        In ``cgal``, CA beads are 1–20 and CB beads 21–40, alphabetical by three-letter code. 0 is not used.
        Other beads are numbered from 41 in sorted order.
        """
        if self.table is not None:
            return self.table
        ids = dict(EMBEDDINGS[CGAL].ids)
        own = {self.type_name(b.name, r) for r, beads in self.residues.items() for b in beads}
        other = sorted(own - ids.keys())
        return Embedding(CGAL, ids | {name: _FIRST_CUSTOM_TYPE + i for i, name in enumerate(other)})

    def with_embedding(self, value: str | os.PathLike[str] | Mapping[str, Any] | Embedding) -> MapSpec:
        """Return this map with bead types numbered by another embedding (:func:`resolve_embedding`).

        Raises :class:`MappingError` if the embedding is not known, or has one number for several bead types.
        """
        embedding = resolve_embedding(value).one_to_one()
        return replace(self, table=None if embedding.name == CGAL else embedding)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of residues, backbone bead, bonds, and what differs from a map of one bead per link."""
        content: dict[str, Any] = {
            "residues": {
                r: [[b.name, b.atoms, b.weights] for b in beads] for r, beads in self.residues.items()
            },
            "backbone": self.backbone,
            "bonds": dict(self.bonds),
        }
        if self.ends or self.shared or self.dihedrals:
            content |= {
                "ends": self.ends,
                "shared": self.shared,
                "dihedrals": [[d.beads, d.offsets, d.only, d.never] for d in self.dihedrals],
            }
        return hash_object(content)

    def type_name(self, bead: str, residue: str) -> str:
        """Return the type of a bead: ``"CA_TYR"``, or ``"N_ALL"`` if it has one type in all residues."""
        return f"{bead}_{ALL if bead in self.shared else residue}"

    def has_beads(self, residue: str) -> bool:
        """Return whether the map defines this residue by its name, or a cap by another name of it."""
        name = residue.strip().upper()
        return name in self.residues or same_cap(name) in self.residues

    def key_of(self, residue: str) -> str:
        """Return the entry of a residue: its own name, another name of a cap, or of the standard residue.

        Raises
        ------
        MappingError
            The residue is unknown or has no beads.
        """
        name = residue.strip().upper()
        if name in self.residues:
            return name
        other = same_cap(name)
        if other is not None and other in self.residues:
            return other
        canonical = canonical_residue(residue)
        if canonical not in self.residues:
            raise MappingError(f"mapping {self.name!r} has no beads for residue {canonical}")
        return canonical

    def beads_of(self, residue: str) -> tuple[BeadSpec, ...]:
        """Return the beads of a residue, by its name or the name of a variant (``HIE`` finds ``HIS``).

        Raises
        ------
        MappingError
            The residue is unknown or has no beads.
        """
        return self.residues[self.key_of(residue)]

    def link_of(self, residue: str) -> str:
        """Return the name of the bead that is bonded to the neighbours; see :attr:`backbone`."""
        key = self.key_of(residue)
        names = [bead.name for bead in self.residues[key]]
        if self.backbone in names:
            return self.backbone
        return names[-1] if key in CAPS_BEFORE else names[0]

    def ends_of(self, residue: str) -> tuple[str, str]:
        """Return the names of the beads that are bonded to the previous and to the next residue."""
        names = {bead.name for bead in self.beads_of(residue)}
        link = self.link_of(residue)
        first, last = self.ends or (link, link)
        return first if first in names else link, last if last in names else link

    def bonds_of(self, residue: str) -> tuple[tuple[str, str], ...]:
        """Return the pairs of bead names that are bonded inside the residue."""
        key = self.key_of(residue)
        if key in self.bonds:
            return self.bonds[key]
        link = self.link_of(residue)
        return tuple((link, b.name) for b in self.residues[key] if b.name != link)

    def bridge_bead(self, residue: str) -> str:
        """Return the bead where a disulfide bridge ends: that of SG, else of CB, else the backbone bead."""
        for atom in ("SG", "CB"):
            for bead in self.beads_of(residue):
                if atom in bead.atoms:
                    return bead.name
        return self.link_of(residue)


_CA, _CB, _N, _C, _O = (BeadSpec(name, (name,)) for name in ("CA", "CB", "N", "C", "O"))
CA = MapSpec("CA", {res: (_CA,) for res in STANDARD_RESIDUES}, "CA", {})
CACB = MapSpec("CACB", {res: (_CA,) if res == "GLY" else (_CA, _CB) for res in STANDARD_RESIDUES}, "CA", {})
#: beads, bonds and dihedrals of the five-bead maps of mlcg
FIVE_BEAD = MapSpec(
    "5bead",
    {res: (_N, _CA, _C, _O) if res == "GLY" else (_N, _CA, _CB, _C, _O) for res in STANDARD_RESIDUES},
    "CA",
    {
        res: (("N", "CA"), ("CA", "C"), ("C", "O"), *((("CA", "CB"),) if res != "GLY" else ()))
        for res in STANDARD_RESIDUES
    },
    ends=("N", "C"),
    shared=("N", "C", "O"),
    dihedrals=FIVE_BEAD_DIHEDRALS,
)
BUILTIN = {"CA": CA, "CACB": CACB, "5BEAD": FIVE_BEAD}
#: names of the built-in maps, as users write them
BUILT_IN_NAMES = tuple(spec.name for spec in BUILTIN.values())
_BY_HASH = {spec.hash: spec for spec in BUILTIN.values()}


def built_in(mapping_hash: str) -> MapSpec | None:
    """Return the built-in map of a hash; None for a user's map."""
    return _BY_HASH.get(mapping_hash)


def named_of(mapping_hash: str) -> tuple[DihedralSpec, ...]:
    """Return the dihedrals that the map of a hash names; empty if these are all bonded paths."""
    spec = built_in(mapping_hash)
    return () if spec is None else spec.dihedrals


def resolve_spec(
    mapping: str | os.PathLike[str] | Mapping[str, Any] | MapSpec, embedding: Any = None
) -> MapSpec:
    """Return a :class:`MapSpec` for a built-in name, a YAML file or its content, or a ``MapSpec``.

    ``embedding``, if it is given, numbers the bead types (:func:`resolve_embedding`).

    The YAML has ``name``, ``residues`` (three-letter code or ``"*"`` for all others → bead name →
    list of atoms or ``{atoms: [...], weights: center | mass | [...]}``), and optionally ``backbone``
    (default ``CA``) and ``bonds`` (residue → list of pairs). Caps (``ACE``, ``NME``, ...) have beads if they
    are listed by name.

    Raises
    ------
    MappingError
        The name is unknown, the file is missing, or the content does not define the beads.
    """
    if embedding is not None:
        return resolve_spec(mapping).with_embedding(embedding)
    if isinstance(mapping, MapSpec):
        return mapping
    if isinstance(mapping, Mapping):
        return _from_dict(mapping, "the mapping given")
    if str(mapping).upper().replace("+", "") in BUILTIN:
        return BUILTIN[str(mapping).upper().replace("+", "")]
    path = Path(mapping)
    if not path.is_file():
        raise MappingError(
            f"mapping {str(mapping)!r} is neither built in ({', '.join(BUILT_IN_NAMES)}) nor an existing "
            "YAML file"
        )
    from cgal_plugin.config.yaml_files import read_yaml

    try:
        content = read_yaml(path)[0]
    except ConfigError as error:
        raise MappingError(str(error)) from error
    if not isinstance(content, dict):
        raise MappingError(
            f"{path} contains {type(content).__name__}; expected name, residues, backbone, bonds"
        )
    return _from_dict(content, str(path))


def _from_dict(content: Mapping[str, Any], source: str) -> MapSpec:
    unknown = sorted(set(content) - {"name", "residues", "backbone", "bonds"})
    if unknown:
        raise MappingError(f"{source}: unknown keys {unknown}; allowed are name, residues, backbone, bonds")
    if not isinstance(content.get("residues"), Mapping) or not content["residues"]:
        raise MappingError(f"{source}: 'residues' must map residue names to beads")
    residues = {
        str(r).upper(): _beads(beads, f"{source}: residue {r}") for r, beads in content["residues"].items()
    }
    default = residues.pop("*", None)
    if default is not None:
        residues = {res: default for res in STANDARD_RESIDUES} | residues
    bonds_given = content.get("bonds") or {}
    if not isinstance(bonds_given, Mapping):
        raise MappingError(f"{source}: 'bonds' must map residue names to lists of bead-name pairs")
    bonds = {}
    for residue, pairs in bonds_given.items():
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
            raise MappingError(f"{source}: bonds of {residue} are {pairs!r}; expected pairs of bead names")
        bonds[str(residue).upper()] = tuple((str(a), str(b)) for a, b in pairs)
    return MapSpec(str(content.get("name", "custom")), residues, str(content.get("backbone", "CA")), bonds)


def _beads(beads: Any, where: str) -> tuple[BeadSpec, ...]:
    if not isinstance(beads, Mapping) or not beads:
        raise MappingError(f"{where}: expected bead names with their atoms, found {beads!r}")
    specs = []
    for name, value in beads.items():
        weights: Any = "center"
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - {"atoms", "weights"})
            if unknown or "atoms" not in value:
                raise MappingError(
                    f"{where}, bead {name}: allowed keys are atoms and weights, found {sorted(value)}"
                )
            weights = value.get("weights", "center")
            value = value["atoms"]
        atoms = [value] if isinstance(value, str) else value
        if not isinstance(atoms, list) or not all(isinstance(a, str) for a in atoms):
            raise MappingError(f"{where}, bead {name}: atoms {value!r} is not a list of atom names")
        if not isinstance(weights, str):
            try:
                weights = tuple(float(w) for w in weights)
            except (TypeError, ValueError) as error:
                raise MappingError(f"{where}, bead {name}: weights {weights!r} are not numbers") from error
        specs.append(BeadSpec(str(name), tuple(atoms), weights))
    return tuple(specs)
