"""Presets: named sets of values that a configuration can start from, as files in ``config/presets``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def check_name(name: str) -> str:
    """Return the name of a preset.

    Raises
    ------
    ValueError
        There is no such preset.
    """
    if name not in names():
        raise ValueError(f"there is no preset of this name; presets are {', '.join(names())}")
    return name


def load_preset(name: str) -> dict[str, Any]:
    """Return the values of a preset, as in a configuration file."""
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return dict(content)


def with_preset(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a configuration with the values of the preset that it names; its own keys win.

    A section of another kind than that of the preset is left as it is, and so are network and priors of
    ``training.init``. A name that is not known, or is no text, is an error of the key ``preset`` later.
    """
    name = data.get("preset")
    if not isinstance(name, str) or name not in names():
        return dict(data)
    preset, training = load_preset(name), data.get("training")
    if isinstance(training, Mapping):
        others = training.get("torchmdnet")
        twice = isinstance(others, Mapping) and "weight_decay" in others
        left = ["model", "priors"] * (training.get("init") is not None) + ["weight_decay"] * twice
        preset["training"] = {k: v for k, v in preset["training"].items() if k not in left}
    return _under(data, preset)


def _under(own: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(preset)
    for key, value in own.items():
        below = preset.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and _same_kind(value, below):
            found[key] = _under(value, below)
        else:
            found[key] = value
    return found


def _same_kind(own: Mapping[str, Any], preset: Mapping[str, Any]) -> bool:
    """Return whether two sections are of one kind; one that says none is of the kind of the preset."""
    return bool(own.get("kind", preset.get("kind")) == preset.get("kind"))
