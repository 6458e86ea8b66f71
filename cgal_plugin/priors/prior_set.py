"""A fitted set of priors: table, file, hash, and the values for a TorchMD-Net YAML file."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cgal_plugin.errors import ConfigError, MappingError
from cgal_plugin.mapping.embedding import CGAL
from cgal_plugin.mapping.topology import CGTopology
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
_LATER: dict[str, Any] = {"pair_range": None, "rejected": []}
# libyaml's safe loader and dumper are ten times faster, but PyYAML may lack them
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class PriorSet:
    """Fitted priors of one molecule at one temperature. Made by :func:`fit_priors`.

    Attributes
    ----------
    topology, temperature
        Molecule; temperature, K.
    terms
        The fitted terms.
    angle_form, power, exclude_bonds
        Settings of angles, and of repulsion and pairs.
    rows
        The table, see :meth:`table`.
    histograms
        Histogram of the data and density of the model, one record per fitted row, for the plot.
    n_frames
        Number of frames of the fit.
    pair_range
        First and last centre of the pair energy, Å; None without pairs.
    rejected
        Frames that were left out of the fit: records with ``reason``, ``n``, ``n_frames`` and ``frames``.
    """

    topology: CGTopology
    temperature: float
    terms: tuple[str, ...]
    angle_form: str
    power: int
    exclude_bonds: int
    rows: tuple[dict[str, Any], ...]
    histograms: tuple[dict[str, Any], ...]
    n_frames: int
    pair_range: tuple[float, float] | None = None
    rejected: tuple[dict[str, Any], ...] = ()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all values that determine the energy."""
        fitted = [r for r in self.rows if r["parameters"] is not None]
        parameters = [[r["term"], r["types"], r["parameters"]] for r in fitted]
        settings: list[Any] = [self.angle_form, self.power, self.exclude_bonds, list(self.terms)]
        if self.pair_range is not None:
            settings.append(list(self.pair_range))
        return hash_object([self.topology.hash, self.temperature, settings, parameters])

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
            The term was not fitted.
        """
        if term not in self.terms:
            raise ConfigError(f"term {term!r} was not fitted; fitted terms: {', '.join(self.terms)}")
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
            "molecule": describe_molecule(self.topology, term),
            **({} if self.topology.embedding == CGAL else {"embedding": self.topology.embedding}),
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
            "topology": self.topology.to_dict(),
            "terms": list(self.terms),
            "rows": [dict(r) for r in self.rows],
            "histograms": [dict(h) for h in self.histograms],
            "pair_range": None if self.pair_range is None else list(self.pair_range),
            "rejected": [dict(r) for r in self.rejected],
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
            priors = cls(
                topology=CGTopology.from_dict(content["topology"], f"prior file {str(path)!r}"), **values
            )
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
        terms = ", ".join(self.terms)
        return f"PriorSet({terms}; {self.topology.sequence!r}, {self.temperature} K, {self.hash[:12]})"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # chosen at run time
    """Write lists of plain values on one line, without YAML anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _represent_list)
