"""Create a component that another package provides."""

from __future__ import annotations

import importlib
from typing import Any

from cgal_plugin.components.checks import check_component
from cgal_plugin.config.external import CustomComponent, ExternalComponent, installed
from cgal_plugin.errors import ConfigError

#: section of the configuration -> role, where they differ
_ROLES = {"simulation": "sampler", "training": "trainer"}


def load_external(component: ExternalComponent, section: str) -> Any:
    """Import the class that a section names and call it with ``args``.

    Raises
    ------
    ConfigError
        The class does not exist or cannot be imported, does not accept the arguments, or lacks a method.
    """
    if isinstance(component, CustomComponent):
        where, made_by = f"{section}.class = {component.name!r}", _by_path(component.name, section)
    else:
        where, made_by = f"{section}.kind = {component.name!r}", _by_name(component.name, section)
    try:
        made = made_by(**component.args)
    except TypeError as error:
        raise ConfigError(f"{where} does not accept {component.args}: {error}") from error
    check_component(_ROLES.get(section, section), made)
    return made


def _by_path(path: str, section: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"{section}.class = {path!r} cannot be imported: {error}. "
            "Install its package, or put its folder on PYTHONPATH"
        ) from error


def _by_name(name: str, section: str) -> Any:
    points = installed(section).get(name, [])
    if len(points) != 1:
        owners = ", ".join(sorted(p.dist.name for p in points if p.dist is not None)) or "no package"
        raise ConfigError(f"{section}.kind = {name!r} is registered by {owners}; exactly one is needed")
    try:
        return points[0].load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"{section}.kind = {name!r} ({points[0].value}) cannot be imported: {error}"
        ) from error
