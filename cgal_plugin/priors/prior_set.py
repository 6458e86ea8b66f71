"""A set of priors, fitted or imported: table, file, hash, and the values for a TorchMD-Net YAML file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cgal_plugin.errors import CGALWarning, ConfigError, MappingError
from cgal_plugin.mapping.embedding import CGAL
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.priors.resolve import rows_for
from cgal_plugin.priors.tables import describe_molecule
from cgal_plugin.provenance import atomic_write, hash_object, sealed, unsealed, versions

#: terms that are fitted by default; bridges are added to the bonds of a molecule that has them
DEFAULT_TERMS = ("bonds", "angles", "dihedrals", "repulsion")
#: terms that are fitted by maximum likelihood
LIKELIHOOD_TERMS = ("bonds", "bridges", "angles", "dihedrals", "repulsion")
#: terms that are fitted to forces
FORCE_TERMS = ("angle_series", "dihedrals", "pairs")
TERMS = (*LIKELIHOOD_TERMS, "angle_series", "pairs")
_CLASSES = {
    "bonds": "CGBonds",
    "bridges": "CGBridges",
    "angles": "CGAngles",
    "angle_series": "CGAngleSeries",
    "dihedrals": "CGDihedrals",
    "repulsion": "CGRepulsion",
    "pairs": "CGPairs",
}
FORMAT_VERSION = 1
_EDITED = (
    "it is damaged or was edited. Fit the priors again; if you edited the file on purpose, delete its lines "
    "'hash:' and 'seal:'"
)
_UNITS = {"length": "angstrom", "energy": "kcal/mol", "angle": "rad", "temperature": "K"}
#: fields that are missing in files of earlier releases
_LATER: dict[str, Any] = {"pair_range": None, "rejected": [], "ordered": [], "source": None}
# libyaml's safe loader and dumper are ten times faster, but PyYAML may lack them
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class PriorSet:
    """Priors, fitted to one molecule at one temperature or imported. Made by :func:`fit_priors`.

    Imported priors are for any molecule whose bead types they have: :meth:`for_topology`.

    Attributes
    ----------
    topology, temperature
        Molecule, or None for any; temperature, K, or None if it is not known.
    terms
        The terms.
    angle_form, power, exclude_bonds
        Settings of angles, and of repulsion and pairs.
    rows
        The table, see :meth:`table`.
    histograms
        Histogram of the data and density of the model, one record per fitted row, for the plot.
    n_frames
        Number of frames of the fit; 0 without one.
    pair_range
        First and last centre of the pair energy, Å; None without pairs.
    rejected
        Frames that were left out of the fit: records with ``reason``, ``n``, ``n_frames`` and ``frames``.
    ordered
        Terms whose parameters depend on the order of the beads (N→C), such as bonds of torchmd-cg.
    source
        Imported priors: ``format``, ``file``, ``sha256`` of the file, and what it has besides parameters.
    """

    topology: CGTopology | None
    temperature: float | None
    terms: tuple[str, ...]
    angle_form: str
    power: int
    exclude_bonds: int
    rows: tuple[dict[str, Any], ...]
    histograms: tuple[dict[str, Any], ...]
    n_frames: int
    pair_range: tuple[float, float] | None = None
    rejected: tuple[dict[str, Any], ...] = ()
    ordered: tuple[str, ...] = ()
    source: dict[str, Any] | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all values that determine the energy."""
        fitted = [r for r in self.rows if r["parameters"] is not None]
        parameters = [[r["term"], r["types"], r["parameters"]] for r in fitted]
        settings: list[Any] = [self.angle_form, self.power, self.exclude_bonds, list(self.terms)]
        if self.pair_range is not None:
            settings.append(list(self.pair_range))
        if self.ordered:
            settings.append({"ordered": sorted(self.ordered)})
        molecule = None if self.topology is None else self.topology.hash
        return hash_object([molecule, self.temperature, settings, parameters])

    @property
    def molecule(self) -> CGTopology:
        """The topology.

        Raises
        ------
        ConfigError
            The priors are for any molecule.
        """
        if self.topology is None:
            raise ConfigError(f"{self!r} is for any molecule: choose one with for_topology(topology)")
        return self.topology

    def for_topology(
        self,
        topology: CGTopology,
        temperature: float | None = None,
        *,
        source: str = "the priors",
        say: bool = True,
    ) -> PriorSet:
        """Return the priors of one molecule: priors for any molecule restricted to the rows that it uses.

        Parameters
        ----------
        topology
            Molecule. Fitted priors are for theirs only.
        temperature
            Temperature of the data, K. Priors that record none take it, with a warning (unless ``say`` is
            False). None: not checked.
        source
            What the priors are, for messages.
        say
            Warn if the temperature is assumed.

        Raises
        ------
        ConfigError
            The priors are for another molecule or temperature, or have no parameters for a term of the
            molecule.
        """
        other = self.topology is not None and self.topology != topology
        own = self.temperature
        if other or (own is not None and temperature is not None and abs(own - temperature) > 1e-6):
            places = [
                ("any molecule" if molecule is None else repr(molecule))
                + ("" if at is None else f" at {at:g} K")
                for molecule, at in ((self.topology, own), (topology, temperature))
            ]
            raise ConfigError(
                f"{source} are for {places[0]}; the data are for {places[1]}: fit the priors to these data "
                "(cgal fit-priors), or import priors of this temperature (cgal import-priors)"
            )
        if own is None and temperature is not None and say:
            warnings.warn(
                f"{source} do not record their temperature: they are used at {temperature:g} K (cgal "
                "import-priors --temperature records it)",
                CGALWarning,
                stacklevel=2,
            )
        made = replace(self, temperature=float(temperature)) if own is None and temperature else self
        if self.topology is not None:
            return made
        rows = rows_for(self.rows, self.terms, self.ordered, self.exclude_bonds, topology, source)
        return replace(made, topology=topology, rows=tuple(rows))

    def with_terms(self, terms: Collection[str]) -> PriorSet:
        """Return only some terms of the priors.

        Raises
        ------
        ConfigError
            The priors do not have a term, or none is given.
        """
        unknown = [term for term in terms if term not in self.terms]
        if unknown or not terms:
            raise ConfigError(
                f"the priors have no term {', '.join(map(repr, unknown)) or 'of an empty list'}; they have "
                f"{', '.join(self.terms)}"
            )
        return replace(
            self,
            terms=tuple(t for t in self.terms if t in terms),
            ordered=tuple(t for t in self.ordered if t in terms),
            rows=tuple(r for r in self.rows if r["term"] in terms),
            histograms=tuple(h for h in self.histograms if h["term"] in terms),
            pair_range=self.pair_range if "pairs" in terms else None,
        )

    def table(self) -> list[dict[str, Any]]:
        """Return one dict per term and tuple of bead types.

        Keys: ``term``, ``types``, ``n`` (samples), ``n_effective`` (independent samples),
        ``parameters`` (None if the wildcard is used), ``fallback`` (that wildcard, or None),
        ``standard_error``, ``ks`` (Kolmogorov–Smirnov distance of data and model), ``overlap`` (of
        histogram and model), ``at_bound``; repulsion: ``contact`` and ``closest`` distance, Å.
        Rows fitted to forces have ``term``, ``types``, ``n``, ``parameters``, ``standard_error``,
        ``at_bound`` and ``fallback``.
        """
        return [dict(row) for row in self.rows]

    def arguments(self, term: str) -> dict[str, Any]:
        """Return the constructor arguments of the prior class of ``term``, plain Python values.

        Raises
        ------
        ConfigError
            The priors do not have the term.
        """
        if term not in self.terms:
            raise ConfigError(f"the priors have no term {term!r}; they have {', '.join(self.terms)}")
        embedding = CGAL if self.topology is None else self.topology.embedding
        settings: dict[str, Any] = {}
        if term == "angles":
            settings = {"angle_form": self.angle_form}
        elif term == "repulsion":
            settings = {"power": self.power, "exclude_bonds": self.exclude_bonds}
        elif term == "pairs" and self.pair_range is not None:
            first, last = self.pair_range
            settings = {"first": first, "last": last, "exclude_bonds": self.exclude_bonds}
        return {
            "table": [
                {"types": list(row["types"]), **row["parameters"]}
                for row in self.rows
                if row["term"] == term and row["parameters"] is not None
            ],
            "molecule": None if self.topology is None else describe_molecule(self.topology, term),
            **({} if embedding == CGAL else {"embedding": embedding}),
            **({"ordered": True} if term in self.ordered else {}),
            **settings,
        }

    def to_prior_model(self) -> list[dict[str, Any]]:
        """Return the value of TorchMD-Net's ``prior_model`` key: the terms with all parameters inline."""
        return [{_CLASSES[term]: self.arguments(term)} for term in self.terms]

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a YAML file with a checksum of its content in the key ``seal``, atomically."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {
            "format_version": FORMAT_VERSION,
            "topology": None if self.topology is None else self.topology.to_dict(),
            "terms": list(self.terms),
            "rows": [dict(r) for r in self.rows],
            "histograms": [dict(h) for h in self.histograms],
            "pair_range": None if self.pair_range is None else list(self.pair_range),
            "rejected": [dict(r) for r in self.rejected],
            "ordered": list(self.ordered),
            "hash": self.hash,
            "units": dict(_UNITS),
            "versions": versions(),
        }
        with atomic_write(path, "w") as handle:
            yaml.dump(sealed(content), handle, Dumper=_Dumper, sort_keys=False, width=110)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PriorSet:
        """Read a file written by :meth:`save` and check its checksum and hash.

        A file without the lines ``hash`` and ``seal`` was edited on purpose; it is read with a warning.

        Raises
        ------
        ConfigError
            The file is missing, is not a saved prior set, or was changed after it was saved.
        """
        if not Path(path).is_file():
            raise ConfigError(f"prior file {str(path)!r} does not exist")
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_LOADER)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"prior file {str(path)!r} is not YAML: {error}") from error
        try:
            content = unsealed(content) if isinstance(content, dict) else content
        except (ValueError, TypeError) as error:
            raise ConfigError(f"prior file {str(path)!r}: {error}; {_EDITED}") from error
        wanted = {f.name for f in fields(cls)} | {"format_version", "hash", "versions"}
        if isinstance(content, dict):
            content = _LATER | content
            if content.pop("units", _UNITS) != _UNITS:  # files of earlier releases have none
                raise ConfigError(f"prior file {str(path)!r} is in other units; this release reads {_UNITS}")
        if isinstance(content, dict) and set(content) == wanted - {"hash"}:
            warnings.warn(
                f"prior file {str(path)!r} has no hash: its values are used as edited", stacklevel=2
            )
            content["hash"] = None
        if not isinstance(content, dict) or set(content) != wanted:
            raise ConfigError(f"{str(path)!r} is not a prior file: it must have the keys {sorted(wanted)}")
        if content["format_version"] != FORMAT_VERSION:
            raise ConfigError(
                f"prior file {str(path)!r} has format version {content['format_version']}; "
                f"this release reads {FORMAT_VERSION}"
            )
        try:
            values: dict[str, Any] = {
                name: tuple(content[name]) if isinstance(content[name], list) else content[name]
                for name in (f.name for f in fields(cls))
                if name != "topology"
            }
            where = f"prior file {str(path)!r}"
            molecule = content["topology"]
            topology = None if molecule is None else CGTopology.from_dict(molecule, where)
            priors = cls(topology=topology, **values)
            actual = priors.hash
        except (KeyError, TypeError, ValueError, MappingError) as error:
            raise ConfigError(f"prior file {str(path)!r} is damaged: {error!r}") from error
        if content["hash"] is not None and actual != content["hash"]:
            raise ConfigError(
                f"prior file {str(path)!r} was changed after it was saved (hash {actual[:12]}, recorded "
                f"{str(content['hash'])[:12]}); {_EDITED}"
            )
        return priors

    def __repr__(self) -> str:
        molecule = "any molecule" if self.topology is None else repr(self.topology.sequence)
        temperature = "any temperature" if self.temperature is None else f"{self.temperature} K"
        return f"PriorSet({', '.join(self.terms)}; {molecule}, {temperature}, {self.hash[:12]})"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # chosen at run time
    """Write lists of plain values on one line, without YAML anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _represent_list)
