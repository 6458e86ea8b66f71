"""A figure of the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Picture:
    """A figure as a ``data:`` URI with its alternative text, or the reason why it is missing."""

    uri: str = ""
    alt: str = ""
    missing: str = ""
