"""Write a commented configuration and the JSON schema from the models."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cgal_plugin.config.external import GROUPS, INSTALLED
from cgal_plugin.config.models import Config
from cgal_plugin.config.preset import check_name, load_preset
from cgal_plugin.config.section import AUTO, autos, kinds
from cgal_plugin.config.system import System
from cgal_plugin.config.systems import COMMON, ENTRY_KEYS, OWN, ROLES, SHARES
from cgal_plugin.errors import ConfigError

#: what the keys of several molecules mean
SYSTEMS = (
    "Several molecules, one potential: in place of system. role train: its frames are labelled; test: it is "
    "simulated and evaluated, and needs a reference. weight (1 or more): how often the frames of a molecule "
    "count in a training. Sections of their own: " + ", ".join(OWN) + ". What all share "
    "is at the top of the file: " + ", ".join(COMMON) + ", and the other sections."
)
SHARE = (
    "The labels go to the frames that the data cover least, equally to the molecules, or to random frames."
)

_EXAMPLE: dict[str, Any] = {"name": "chignolin", "system": {"sequence": "YYDPETGTWY", "temperature": 400.0}}


def template(preset: str | None = None) -> str:
    """Return a valid YAML file with every key, its default and its meaning.

    Keys that follow the molecule or other keys are ``auto``, with the rule. Optional keys without a default
    are commented out. If a section has several kinds, the first is written.

    Parameters
    ----------
    preset
        Name of a preset whose values are written.

    Raises
    ------
    ConfigError
        There is no such preset.
    """
    example = _EXAMPLE
    if preset is not None:
        try:
            check_name(preset)
        except ValueError as error:
            raise ConfigError(f"preset = {preset!r}: {error}") from None
        example = {**_EXAMPLE, "preset": preset, **load_preset(preset)}
    lines = [
        '# Configuration of `cgal run`. Numbers may carry a unit: 5, "5 ps" and "0.005 ns" are the same.'
    ]
    _section(Config, 0, lines, example)
    return "\n".join(lines) + "\n"


def schema() -> str:
    """Return the JSON schema of the configuration, with one molecule or with several."""
    content = Config.model_json_schema(by_alias=True)
    properties, of_one = content["properties"], content["$defs"]["System"]["properties"]
    allowed = {**of_one, **{key: properties[key] for key in OWN}}
    allowed |= {
        "name": {"type": "string"},
        "role": {"enum": list(ROLES)},
        "weight": {"type": "number", "minimum": 1, "maximum": 1000},
    }
    entry = {
        "type": "object",
        "properties": {key: allowed[key] for key in ENTRY_KEYS if key in allowed},
        "required": ["name"],
        "additionalProperties": False,
    }
    properties |= {key: of_one[key] for key in COMMON}
    properties["systems"] = {"type": "array", "items": entry, "minItems": 1, "description": SYSTEMS}
    properties["share"] = {"enum": list(SHARES), "default": SHARES[0], "description": SHARE}
    del content["required"]
    alone = {
        "required": ["system"],
        "not": {"anyOf": [{"required": [key]} for key in (*COMMON, "systems", "share")]},
    }
    several = {
        "required": ["systems"],
        "not": {"required": ["system"]},
        "properties": {"refinement": {"type": "null"}},  # it corrects the populations of one molecule
    }
    content["oneOf"] = [alone, several]
    return json.dumps(content, indent=2)


def _section(model: type[BaseModel], depth: int, lines: list[str], example: dict[str, Any]) -> None:
    pad, marked = "  " * depth, autos(model)
    for name, field in model.model_fields.items():
        key = field.alias or name
        nested = list(kinds(field.annotation).items())
        if nested:
            if depth == 0:
                lines.append("")
            _, model = nested[0]
            others = [tag for tag, _ in nested[1:] if tag != INSTALLED]
            if key in GROUPS:
                others.append(
                    f"or a name that an installed package registers in the entry point group {GROUPS[key]}"
                )
            more = f" Other kinds: {', '.join(others)}." if others else ""
            lines.append(f"{pad}# {(model.__doc__ or '').strip().splitlines()[0]}{more}")
            inner = [f"{pad}{key}:"]
            _section(model, depth + 1, inner, example.get(key) or {})
            unset = key not in example and _default(field) is None and not field.is_required()
            if key in marked and not example.get(key):
                value = "null" if key in example else AUTO
                lines += [f"{pad}{key}: {value}  # auto: {marked[key].rule}; null: off; or a section:"]
                unset = True
            lines += [f"# {line}" for line in inner] if unset else inner
            if model is System:
                lines += _several()
            continue
        value = example.get(key, AUTO if key in marked else _default(field))
        words = field.description.split() if field.description else []
        words += [f"auto: {marked[key].rule}."] if key in marked else []
        comment = f"  # {' '.join(words)}" if words else ""
        hidden = "# " if value is None and key not in example else ""
        shown = "null" if value is None and key in example else _yaml(value)
        lines.append(f"{pad}{hidden}{key}: {shown}{comment}")


def _several() -> list[str]:
    """Return the commented keys of a run with several molecules."""
    wrapped = textwrap.wrap(SYSTEMS, 108, initial_indent="# ", subsequent_indent="# ")
    return [
        "",
        *wrapped,
        "# systems:",
        "#   - {name: first, sequence: GYDPAKG}",
        "#   - {name: second, sequence: YGGFM, role: test, evaluation: {reference: [second.npz]}}",
        *(f"# {key}: {_yaml(System.model_fields[key].get_default())}" for key in COMMON),
        f"# share: {SHARES[0]}  # {SHARE}",
    ]


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _yaml(value: Any) -> str:
    if value is None:
        return "..."
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
