"""A set of priors, fitted or imported: table, file, hash, and the values for a TorchMD-Net YAML file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from cgal_plugin.errors import CGALWarning, ConfigError, MappingError
from cgal_plugin.mapping.embedding import CGAL
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.priors.prior_file import EDITED, read_content, write_content
from cgal_plugin.priors.resolve import rows_for
from cgal_plugin.priors.tables import describe_molecule
from cgal_plugin.provenance import hash_object

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
            Molecule. Fitted priors are for theirs only, in any embedding: their rows have names.
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
        mine = self._renumbered(topology)
        other = mine is not None and mine != topology
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
        if mine is not None:
            return made if mine is self.topology else replace(made, topology=mine)
        rows = rows_for(self.rows, self.terms, self.ordered, self.exclude_bonds, topology, source)
        known = {(row["term"], tuple(row["types"])) for row in rows}
        shown = tuple(h for h in self.histograms if (h["term"], tuple(h["types"])) in known)
        return replace(made, topology=topology, rows=tuple(rows), histograms=shown)

    def _renumbered(self, topology: CGTopology) -> CGTopology | None:
        """Return the molecule of the priors, or ``topology`` if this is the same with other bead numbers."""
        own = self.topology
        if own is None or own.embedding == topology.embedding:
            return own
        named = all(isinstance(t, str) for row in self.rows for t in row["types"])
        same = len(own.types) == len(topology.types) and own == replace(
            topology, types=own.types, embedding=own.embedding
        )
        return topology if named and same else own

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
            "topology": None if self.topology is None else self.topology.to_dict(),
            "terms": list(self.terms),
            "rows": [dict(r) for r in self.rows],
            "histograms": [dict(h) for h in self.histograms],
            "pair_range": None if self.pair_range is None else list(self.pair_range),
            "rejected": [dict(r) for r in self.rejected],
            "ordered": list(self.ordered),
            "hash": self.hash,
        }
        write_content(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PriorSet:
        """Read a file written by :meth:`save` and check its checksum and hash.

        A file without the lines ``hash`` and ``seal`` was edited on purpose; it is read with a warning.

        Raises
        ------
        ConfigError
            The file is missing, is not a saved prior set, or was changed after it was saved.
        """
        content = read_content(path, {f.name for f in fields(cls)})
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
                f"{str(content['hash'])[:12]}); {EDITED}"
            )
        return priors

    def __repr__(self) -> str:
        molecule = "any molecule" if self.topology is None else repr(self.topology.sequence)
        temperature = "any temperature" if self.temperature is None else f"{self.temperature} K"
        return f"PriorSet({', '.join(self.terms)}; {molecule}, {temperature}, {self.hash[:12]})"
