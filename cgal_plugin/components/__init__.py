"""The contract between the loop and its components, and a built-in component for each role."""

from cgal_plugin.components.protocols import (
    Oracle,
    SampledFrames,
    Sampler,
    SeedSource,
    Selector,
    TrainedModel,
    Trainer,
    TrainRequest,
)

__all__ = [
    "Oracle",
    "SampledFrames",
    "Sampler",
    "SeedSource",
    "Selector",
    "TrainRequest",
    "TrainedModel",
    "Trainer",
]
