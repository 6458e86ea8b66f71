"""Labelled frames on disk and as a TorchMD-Net data set."""

from cgal_plugin.data.frames import LabelledFrames, Quarantined, StoredFrames
from cgal_plugin.data.store import DataStore

__all__ = ["DataStore", "LabelledFrames", "Quarantined", "StoredFrames"]
