"""Data of other programs, in and out: CG data sets, and all-atom trajectories.

Names are loaded on first use: importing this package does not import torch or OpenMM.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {"import_data": "cg_data", "export_data": "cg_export", "import_trajectories": "trajectories"}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
