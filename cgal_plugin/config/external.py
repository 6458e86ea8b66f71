"""Components from outside this package: a class by its import path, or by its name in an installed package.

An installed package registers its classes as entry points of the groups in :data:`GROUPS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, ValidationInfo, model_validator

from cgal_plugin.config.quantities import Number
from cgal_plugin.config.section import Section

#: entry point group of each section of the configuration
GROUPS = {
    "oracle": "cgal_plugin.oracles",
    "selector": "cgal_plugin.selectors",
    "simulation": "cgal_plugin.samplers",
    "training": "cgal_plugin.trainers",
}
#: key of the validation context: whether to look up the names of installed components
LOOK_UP = "look_up"
INSTALLED = "installed"


class ExternalComponent(Section):
    """A class of another package, called with `args`."""

    kind: str
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""

    @property
    def name(self) -> str:
        """Import path or registered name."""
        raise NotImplementedError


class CustomComponent(ExternalComponent):
    """A class by its import path, `module:Class`."""

    kind: Literal["custom"]
    target: Annotated[str, Field(alias="class", pattern=r"^[\w.]+:\w+$")]
    """Import path, such as my_package.my_module:MyClass."""

    @property
    def name(self) -> str:
        """Import path of the class."""
        return self.target


class InstalledComponent(ExternalComponent):
    """A class by its registered name (entry point of an installed package)."""

    section: ClassVar[str]
    #: kinds of the section that are not looked up
    built_in: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """Name of the entry point."""
        return self.kind

    @classmethod
    def by_kind(cls) -> Discriminator:
        """Return the discriminator of the section; built-in kinds take precedence over installed ones."""

        def tag(value: Any) -> str | None:
            kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
            if not isinstance(kind, str):
                return None
            return kind if kind in cls.built_in else INSTALLED

        return Discriminator(tag)

    @model_validator(mode="before")
    @classmethod
    def _is_installed(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, dict) and (info.context or {}).get(LOOK_UP, True):
            found = installed(cls.section)
            if data["kind"] not in found:
                raise ValueError(_unknown(data["kind"], cls.built_in, found, GROUPS[cls.section]))
        return data


def installed(section: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a section's group by name; several if packages register the same name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUPS[section]):
        found.setdefault(point.name, []).append(point)
    return found


def _unknown(kind: str, built_in: tuple[str, ...], found: Mapping[str, Any], group: str) -> str:
    near = difflib.get_close_matches(kind, [*built_in, *found], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    names = ", ".join(repr(name) for name in sorted(found)) or "none"
    return (
        f"kind {kind!r} is unknown{hint} built-in kinds: {', '.join(map(repr, built_in))}; "
        f"found in installed packages (entry points {group}): {names}"
    )


def _other_than(names: tuple[str, ...]) -> Any:
    return Field(json_schema_extra={"not": {"enum": list(names)}})


class _Failures(Section):
    max_failure_rate: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Largest fraction of the frames of a round that may fail. If more fail (of 10 or more), the run stops
    and lists the reasons."""


class CustomOracle(_Failures, CustomComponent):
    """An oracle by its import path."""


class InstalledOracle(_Failures, InstalledComponent):
    """An oracle of an installed package."""

    section = "oracle"
    built_in = ("openmm", "custom")
    kind: Annotated[str, _other_than(built_in)]
    """Name of an entry point in the group cgal_plugin.oracles."""


class InstalledSelector(InstalledComponent):
    """A selector of an installed package."""

    section = "selector"
    built_in = ("rmsd", "coverage", "random", "committee", "custom")
    kind: Annotated[str, _other_than(built_in)]
    """Name of an entry point in the group cgal_plugin.selectors."""


class InstalledSampler(InstalledComponent):
    """A sampler of an installed package."""

    section = "simulation"
    built_in = ("openmm", "custom")
    kind: Annotated[str, _other_than(built_in)]
    """Name of an entry point in the group cgal_plugin.samplers."""


class InstalledTrainer(InstalledComponent):
    """A trainer of an installed package."""

    section = "training"
    built_in = ("torchmdnet", "custom")
    kind: Annotated[str, _other_than(built_in)]
    """Name of an entry point in the group cgal_plugin.trainers."""
