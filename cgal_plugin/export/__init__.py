"""Export of models to self-contained potentials for OpenMM and other engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgal_plugin.export.fast import FastPotential
    from cgal_plugin.export.potential import export_potential, export_torchscript, load_metadata

__all__ = ["FastPotential", "export_potential", "export_torchscript", "load_metadata"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cgal_plugin.export import fast, potential

    return getattr(fast if name == "FastPotential" else potential, name)
