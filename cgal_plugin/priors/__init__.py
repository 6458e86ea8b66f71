"""Prior energies of CG models (bonds, bridges, angles, dihedrals, repulsion, pairs), fitted or imported.

The prior classes (``CGBonds`` ...) import TorchMD-Net, which takes seconds: names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgal_plugin.priors.factory import make_prior
    from cgal_plugin.priors.fit import fit_priors
    from cgal_plugin.priors.mlcg import priors_from_mlcg
    from cgal_plugin.priors.mlcg_write import mlcg_statistics, write_mlcg_priors
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
    from cgal_plugin.priors.samples import MoleculeFrames
    from cgal_plugin.priors.settings import FitSettings
    from cgal_plugin.priors.shared import fit_shared_priors
    from cgal_plugin.priors.torchmd_cg import read_torchmd_priors
    from cgal_plugin.priors.torchmd_write import write_torchmd_priors

__all__ = [
    "CGAngleSeries",
    "CGAngles",
    "CGBonds",
    "CGBridges",
    "CGDihedrals",
    "CGPairs",
    "CGRepulsion",
    "FitSettings",
    "MoleculeFrames",
    "PriorSet",
    "fit_priors",
    "fit_shared_priors",
    "make_prior",
    "mlcg_statistics",
    "priors_from_mlcg",
    "read_torchmd_priors",
    "write_mlcg_priors",
    "write_torchmd_priors",
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
    "MoleculeFrames": "samples",
    "PriorSet": "prior_set",
    "fit_priors": "fit",
    "fit_shared_priors": "shared",
    "make_prior": "factory",
    "mlcg_statistics": "mlcg_write",
    "priors_from_mlcg": "mlcg",
    "read_torchmd_priors": "torchmd_cg",
    "write_mlcg_priors": "mlcg_write",
    "write_torchmd_priors": "torchmd_write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
