"""Labelled frames on disk and as a TorchMD-Net data set."""

from __future__ import annotations

from typing import Any

from cgal_plugin.data.frame_files import FrameFiles
from cgal_plugin.data.frames import LabelledFrames, Quarantined, StoredFrames
from cgal_plugin.data.store import DataStore

__all__ = [
    "CGDataset",
    "DataStore",
    "FrameFiles",
    "LabelledFrames",
    "Quarantined",
    "StoredFrames",
    "block_splits",
]


def __getattr__(name: str) -> Any:
    # these import torch, which the store does not need
    if name == "CGDataset":
        from cgal_plugin.data.dataset import CGDataset

        return CGDataset
    if name == "block_splits":
        from cgal_plugin.data.splits import block_splits

        return block_splits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
