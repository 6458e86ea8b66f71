"""Write a commented configuration and the JSON schema from the models."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cgal_plugin.config.external import GROUPS, INSTALLED
from cgal_plugin.config.models import Config
from cgal_plugin.config.section import AUTO, autos, kinds

_EXAMPLE: dict[str, Any] = {"name": "chignolin", "system": {"sequence": "YYDPETGTWY", "temperature": 400.0}}


def template() -> str:
    """Return a valid YAML file with every key, its default and its meaning.

    Keys that follow the molecule or other keys are ``auto``, with the rule. Optional keys without a default
    are commented out. If a section has several kinds, the first is written.
    """
    lines = [
        '# Configuration of `cgal run`. Numbers may carry a unit: 5, "5 ps" and "0.005 ns" are the same.'
    ]
    _section(Config, 0, lines, _EXAMPLE)
    return "\n".join(lines) + "\n"


def schema() -> str:
    """Return the JSON schema of the configuration."""
    return json.dumps(Config.model_json_schema(by_alias=True), indent=2)


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
            continue
        value = example.get(key, AUTO if key in marked else _default(field))
        words = field.description.split() if field.description else []
        words += [f"auto: {marked[key].rule}."] if key in marked else []
        comment = f"  # {' '.join(words)}" if words else ""
        hidden = "# " if value is None else ""
        lines.append(f"{pad}{hidden}{key}: {_yaml(value)}{comment}")


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _yaml(value: Any) -> str:
    if value is None:
        return "..."
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
