"""The record of a structure: what was read, kept, added, changed and left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: headings in the order of the report
HEADINGS = (
    "source",
    "chains",
    "caps",
    "protonation",
    "hydrogens",
    "bridges",
    "left out",
    "replaced",
    "repaired",
    "force field",
    "files",
    "solvent",
    "box",
    "constraints",
    "notes",
)
#: headings of a system that the user brings
_OF_A_SYSTEM = HEADINGS[9:14]


@dataclass(frozen=True)
class StructureRecord:
    """What was read from a structure or a sequence.

    Attributes
    ----------
    facts
        Heading (:data:`HEADINGS`) → sentences or names. A heading without entry has nothing to report.
    """

    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_fact(self, heading: str, text: str) -> StructureRecord:
        """Return a copy with one more entry under a heading."""
        return StructureRecord({**self.facts, heading: (*self.facts.get(heading, ()), text)})

    def rows(self) -> list[tuple[str, str]]:
        """Return heading and text of every heading, ``none`` for an empty one.

        Headings of a system that the user brings are left out for the built-in force field.
        """
        names = [n for n in HEADINGS if n not in _OF_A_SYSTEM or "force field" in self.facts]
        return [(name, "; ".join(self.facts.get(name, ())) or "none") for name in names]

    def lines(self) -> list[str]:
        """Return one line per heading that has entries."""
        return [f"{name}: {'; '.join(self.facts[name])}" for name in HEADINGS if self.facts.get(name)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that can be written as JSON."""
        return {name: list(texts) for name, texts in self.facts.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StructureRecord:
        """Build a record from the values of :meth:`to_dict`."""
        return cls({str(name): tuple(str(t) for t in texts) for name, texts in data.items()})
