"""Prior energies of CG models (bonds, bridges, angles, dihedrals, repulsion, pairs), fitted to frames.

The prior classes (``CGBonds`` ...) import TorchMD-Net, which takes seconds: names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgal_plugin.priors.factory import make_prior
    from cgal_plugin.priors.fit import fit_priors
    from cgal_plugin.priors.modules import (
        CGAngles,
        CGAngleSeries,
        CGBonds,
        CGBridges,
        CGDihedrals,
        CGPairs,
        CGRepulsion,
    )
    from cgal_plugin.priors.prior_set import PriorSet
    from cgal_plugin.priors.settings import FitSettings

__all__ = [
    "CGAngleSeries",
    "CGAngles",
    "CGBonds",
    "CGBridges",
    "CGDihedrals",
    "CGPairs",
    "CGRepulsion",
    "FitSettings",
    "PriorSet",
    "fit_priors",
    "make_prior",
]

_HOME = {
    "CGAngles": "modules",
    "CGBonds": "modules",
    "CGBridges": "modules",
    "CGDihedrals": "modules",
    "CGAngleSeries": "modules",
    "CGPairs": "modules",
    "CGRepulsion": "modules",
    "FitSettings": "settings",
    "PriorSet": "prior_set",
    "fit_priors": "fit",
    "make_prior": "factory",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
