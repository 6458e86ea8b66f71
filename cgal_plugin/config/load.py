"""Load a :class:`Config` from YAML, with errors that point at the line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cgal_plugin.config.decisions import BASE
from cgal_plugin.config.external import LOOK_UP
from cgal_plugin.config.force_field import changed, content_hashes, openmm_file
from cgal_plugin.config.models import Config
from cgal_plugin.config.paths import PATH_KEYS
from cgal_plugin.config.section import kinds
from cgal_plugin.config.yaml_files import read_yaml
from cgal_plugin.errors import ConfigError


def load_yaml(path: str | os.PathLike[str], *, new: Collection[tuple[str, ...]] = ()) -> Config:
    """Read and check a configuration file. Relative paths in it are relative to the file.

    ``new`` names keys, such as ``("seed_data", "store")``, whose files need not exist yet.

    Raises
    ------
    ConfigError
        The file is missing or not YAML, or keys, types, units or values are wrong: each problem is
        listed with file, line, key, value, the allowed values and the nearest valid key.
    """
    content, lines = read_mapping(path)
    return parse_config(content, base=Path(path).parent, source=str(path), lines=lines, new=new)


def read_mapping(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """Return a YAML file's top-level mapping, and the line of every key path in it.

    Raises
    ------
    ConfigError
        The file is missing, is not YAML, has a duplicate key or does not hold a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration file {str(path)!r} does not exist")
    content, lines = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds {type(content).__name__}; expected keys such as 'system' and 'oracle'"
        )
    return content, lines


def parse_config(
    content: dict[str, Any],
    *,
    base: str | os.PathLike[str] = ".",
    source: str = "config",
    lines: dict[tuple[Any, ...], int] | None = None,
    look_up: bool = True,
    new: Collection[tuple[str, ...]] = (),
) -> Config:
    """Check a dictionary with the keys of a configuration file; return the configuration.

    Parameters
    ----------
    content
        Keys and values as in the YAML.
    base
        Folder that relative paths start from.
    source, lines
        For error messages: the file's name, and the line of each key path.
    look_up
        Require that the components that the configuration names are installed, and its files exist. Use False
        to read the record of a run, which does not need them.
    new
        As in :func:`load_yaml`.

    Raises
    ------
    ConfigError
        See :func:`load_yaml`.
    """
    try:
        config = Config.model_validate(content, context={LOOK_UP: look_up, BASE: base})
    except ValidationError as error:
        problems = [describe(e, lines or {}, source, Config) for e in error.errors()]
        raise ConfigError("\n".join(problems)) from None
    return _resolve_paths(config, Path(base), lines or {}, source, look_up, new)


def dump_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML text."""
    return yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------------- place of a problem


def _place(loc: tuple[Any, ...], lines: dict[tuple[Any, ...], int], source: str) -> str:
    for end in range(len(loc), 0, -1):
        if loc[:end] in lines:
            return f"{source}:{lines[loc[:end]]}: {_dotted(loc)}"
    return f"{source}: {_dotted(loc)}" if loc else source


def _dotted(loc: tuple[Any, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def describe(error: Any, lines: dict[tuple[Any, ...], int], source: str, root: type[BaseModel]) -> str:
    """Format one pydantic error of the model ``root`` as a line: place, value, allowed values."""
    full = tuple(error["loc"])
    loc = _model_at(full, root)[1]
    place, kind, value = _place(loc, lines, source), error["type"], error.get("input")
    if kind == "extra_forbidden":
        allowed = _keys(_model_at(full[:-1], root)[0])
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{place} = {value!r}: unknown key{hint} Allowed keys: {', '.join(allowed)}"
    if kind == "missing":
        return f"{place}: this key is required"
    if kind == "union_tag_invalid":
        return f"{place}.kind = {error['ctx']['tag']!r}: allowed kinds are {error['ctx']['expected_tags']}"
    if kind == "union_tag_not_found" and isinstance(value, dict):
        return f"{place}.kind = {value.get('kind')!r}: expected text"
    message = error["msg"].removeprefix("Value error, ")
    if kind in ("model_type", "model_attributes_type", "dict_type", "union_tag_not_found"):
        message = "expected a section of keys and values"
    if kind == "literal_error" and isinstance(value, str):
        choices = [c.strip(" '") for c in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(value, choices, n=1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    shown = "" if isinstance(value, dict | BaseModel) else f" = {value!r}"
    return f"{place}{shown}: {message}"


def _model_at(loc: tuple[Any, ...], root: type[BaseModel]) -> tuple[type[BaseModel] | None, tuple[Any, ...]]:
    """Return the model at a location, and the location without pydantic's union tags."""
    model: type[BaseModel] | None = root
    clean: list[Any] = []
    options: dict[str, type[BaseModel]] = {}
    of_entries: type[BaseModel] | None = None
    for part in loc:
        if options:
            if part in options:
                model, options = options[part], {}
                continue
            options = {}
        clean.append(part)
        if of_entries is not None:  # the key of an entry, such as an arm's name
            model, of_entries = of_entries, None
            continue
        field = None if model is None else _field(model, part)
        model = None
        if field is not None:
            found = kinds(field.annotation)
            if field.discriminator:
                options = found
            model = next(iter(found.values())) if len(found) == 1 else None
            if getattr(field.annotation, "__origin__", None) is dict:
                model, of_entries = None, model
    return model, tuple(clean)


def _field(model: type[BaseModel], key: Any) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def _keys(model: type[BaseModel] | None) -> list[str]:
    return [] if model is None else [f.alias or n for n, f in model.model_fields.items()]


# ---------------------------------------------------------------------- paths in the configuration


def _resolve_paths(
    config: Config,
    base: Path,
    lines: dict[tuple[Any, ...], int],
    source: str,
    look_up: bool,
    new: Collection[tuple[str, ...]],
) -> Config:
    data = config.model_dump(by_alias=True)
    problems: list[str] = []

    def absolute(value: Path, loc: tuple[Any, ...]) -> Path:
        found = (base / Path(value).expanduser()).resolve()
        if look_up and not found.exists() and loc not in new:
            problems.append(
                f"{_place(loc, lines, source)} = {str(value)!r}: no such file or folder ({found})"
            )
        return found

    for keys in PATH_KEYS:
        section = data
        for key in keys[:-1]:
            section = section.get(key) or {}
        value = section.get(keys[-1])
        if isinstance(value, tuple):
            section[keys[-1]] = tuple(absolute(v, (*keys, i)) for i, v in enumerate(value))
        elif value is not None:
            section[keys[-1]] = absolute(value, keys)
    for key in ("mapping", "embedding"):
        value = data["system"][key]
        if isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            data["system"][key] = str(absolute(Path(value), ("system", key)))
    own = data["system"]["force_field"]
    if own is not None:
        place = ("system", "force_field", "files")
        own["files"] = tuple(
            f
            if own["kind"] == "openmm_xml" and not (base / f).is_file() and openmm_file(f) is not None
            else str(absolute(Path(f), (*place, i)))
            for i, f in enumerate(own["files"])
        )
        if look_up and not problems:
            structure = [data["system"]["structure"]] if data["system"]["structure"] is not None else []
            now = content_hashes(own["kind"], own["files"], own["include"], structure)
            problems += [
                f"{source}: {name} has changed since system.force_field.sha256 was recorded. Restore it, or "
                "remove the key sha256"
                for name in changed(own["sha256"], now)
            ]
            own["sha256"] = now
    if problems:
        raise ConfigError("\n".join(problems))
    # every key has its value by now, so that the second check decides nothing
    return Config.model_validate(data, context={LOOK_UP: look_up}).with_decided(config.decided)
