"""CGSchNet, its construction from TorchMD-Net keys, and conversion of weights from other programs.

Names are loaded on first use: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "CGSchNet": "cgschnet",
    "EnergyHead": "cgschnet",
    "build_model": "build",
    "CGSchNetWeights": "weights",
    "BlockWeights": "weights",
    "LinearWeights": "weights",
    "NeighborEmbeddingWeights": "weights",
    "model_parameters": "weights",
    "from_torchmdnet_gn": "convert",
    "from_mlcg": "convert",
    "save_checkpoint": "convert",
    "ImportedModel": "importing",
    "import_model": "importing",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
