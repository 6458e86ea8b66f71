"""The active-learning loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgal_plugin.driver.loop import RunResult, run

__all__ = ["RunResult", "run"]


def __getattr__(name: str) -> Any:
    # imported late, because the loop needs most of the package
    if name in __all__:
        from cgal_plugin.driver import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
