"""Labelled frames on disk and as a TorchMD-Net data set."""

from cgal_plugin.data.store import DataStore, LabelledFrames, Quarantined, StoredFrames

__all__ = ["DataStore", "LabelledFrames", "Quarantined", "StoredFrames"]
