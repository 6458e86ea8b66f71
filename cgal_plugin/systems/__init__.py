"""Runs with several systems: one potential and one oracle budget for many molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgal_plugin.systems.run import SystemsResult, run_systems

__all__ = ["SystemsResult", "run_systems"]


def __getattr__(name: str) -> Any:
    # imported late, because the loop needs most of the package
    if name in __all__:
        from cgal_plugin.systems import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
