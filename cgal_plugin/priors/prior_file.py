"""YAML files of prior sets: checksum, version, units, and fields that earlier releases did not have."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cgal_plugin.config.yaml_files import read_yaml
from cgal_plugin.errors import ConfigError
from cgal_plugin.provenance import atomic_write, sealed, unsealed, versions

FORMAT_VERSION = 1
EDITED = (
    "it is damaged or was edited. Fit or import the priors again; if you edited the file on purpose, delete "
    "its lines 'hash:' and 'seal:'"
)
_UNITS = {"length": "angstrom", "energy": "kcal/mol", "angle": "rad", "temperature": "K"}
#: fields that are missing in files of earlier releases
_LATER: dict[str, Any] = {"pair_range": None, "rejected": [], "ordered": [], "source": None}


def write_content(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the fields of a prior set, atomically, with units, versions and a checksum."""
    facts = {"format_version": FORMAT_VERSION, "units": dict(_UNITS), "versions": versions()}
    with atomic_write(path, "w") as handle:
        yaml.dump(sealed({**content, **facts}), handle, Dumper=_Dumper, sort_keys=False, width=110)


def read_content(path: str | os.PathLike[str], names: set[str]) -> dict[str, Any]:
    """Return the fields ``names`` of a prior set and its ``hash``, which is None if the file was edited.

    Raises
    ------
    ConfigError
        The file is missing, is not a saved prior set, or was changed after it was saved.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise ConfigError(f"prior file {name!r} does not exist")
    try:
        content = read_yaml(path, fast=True)[0]
    except ConfigError as error:
        raise ConfigError(f"prior file {name!r} is not YAML: {error}") from error
    try:
        content = unsealed(content) if isinstance(content, dict) else content
    except (ValueError, TypeError) as error:
        raise ConfigError(f"prior file {name!r}: {error}; {EDITED}") from error
    wanted = names | {"format_version", "hash", "versions"}
    if isinstance(content, dict):
        content = _LATER | content
        if content.pop("units", _UNITS) != _UNITS:  # files of earlier releases have none
            raise ConfigError(f"prior file {name!r} is in other units; this release reads {_UNITS}")
    if isinstance(content, dict) and set(content) == wanted - {"hash"}:
        warnings.warn(f"prior file {name!r} has no hash: its values are used as edited", stacklevel=3)
        content["hash"] = None
    if not isinstance(content, dict) or set(content) != wanted:
        raise ConfigError(
            f"{name!r} is not a prior file: it must have the keys {sorted(wanted)}. Read the files of other "
            "programs with cgal import-priors"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise ConfigError(
            f"prior file {name!r} has format version {content['format_version']}; this release reads "
            f"{FORMAT_VERSION}"
        )
    _check_values(content, name)
    return content


def _check_values(content: Mapping[str, Any], name: str) -> None:
    """Check values of a file that may have been edited; the rows are checked by the priors made from them."""
    temperature, terms, ordered = content["temperature"], content["terms"], content["ordered"]
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    good = {
        "temperature": temperature is None or (number and 0 < temperature < float("inf")),
        "terms": isinstance(terms, list) and all(isinstance(t, str) for t in terms),
        "ordered": isinstance(ordered, list) and isinstance(terms, list) and all(t in terms for t in ordered),
        "rows": isinstance(content["rows"], list)
        and all(isinstance(r, dict) and {"term", "types", "parameters"} <= set(r) for r in content["rows"]),
        **{
            key: type(content[key]) is int and content[key] >= least
            for key, least in (("power", 1), ("exclude_bonds", 0), ("n_frames", 0))
        },
    }
    for key, fine in good.items():
        if not fine:
            raise ConfigError(f"prior file {name!r}: {key} is {content[key]!r:.80}, which is not valid")


# libyaml's safe dumper is ten times faster, but PyYAML may lack it
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # chosen at run time
    """Write lists of plain values on one line, without YAML anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _represent_list)
