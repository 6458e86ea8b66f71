"""Components of the user's own, checked where they come in: one clear error that names the part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.protocols import SampledFrames
from cgal_plugin.errors import ConfigError, DynamicsError, SelectionError

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology

#: what the loop calls on each part
METHODS = {
    "oracle": ("label",),
    "selector": ("fit", "select"),
    "sampler": ("sample",),
    "trainer": ("prepare", "train", "export"),
    "seed_source": ("prepare", "fill"),
}


def check_component(name: str, part: Any) -> None:
    """Check that a part has the methods that the loop calls.

    Raises
    ------
    ConfigError
        A method is missing.
    """
    missing = [m for m in METHODS[name] if not callable(getattr(part, m, None))]
    n = getattr(part, "n_replicas", 1) if name == "sampler" else 1
    if not isinstance(n, int) or n < 1:
        raise ConfigError(
            f"the sampler {type(part).__qualname__} has n_replicas {n!r}; expected a whole number, 1 or more"
        )
    if part is None:
        raise ConfigError(f"the {name} is None; does its fit return self?")
    if missing:
        raise ConfigError(
            f"the {name} {type(part).__qualname__} has no method {' and no method '.join(missing)}; "
            f"{'a' if name[0] != 'o' else 'an'} {name} needs {', '.join(METHODS[name])} "
            "(see cgal_plugin.components.protocols)"
        )


def check_sampled(sampled: Any, sampler: Any, topology: CGTopology) -> SampledFrames:
    """Check what a sampler returned: frames of the right beads, finite, in Å.

    Raises
    ------
    DynamicsError
        It is something else.
    """
    name = f"the sampler {type(sampler).__qualname__}"
    trajectories = getattr(sampled, "trajectories", None)
    if trajectories is None:
        raise DynamicsError(f"{name} returned {type(sampled).__name__}; expected SampledFrames")
    for i, trajectory in enumerate(trajectories):
        array = np.asarray(trajectory)
        if array.ndim != 3 or array.shape[1:] != (topology.n_beads, 3):
            raise DynamicsError(
                f"{name} returned trajectory {i} of shape {array.shape}; "
                f"expected (n_frames, {topology.n_beads}, 3) in Å"
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
        if bad.size:
            raise DynamicsError(
                f"{name} returned trajectory {i} with coordinates that are not finite "
                f"(first in frame {bad[0]}); end a trajectory before the frame where it blows up"
            )
    return sampled


def check_selection(chosen: Any, selector: Any, n_candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices ``(n,)`` int64 and distances ``(n,)`` Å that a selector returned.

    Raises
    ------
    SelectionError
        There are none, or they are not distinct indices of candidates with a distance each.
    """
    name = f"the selector {type(selector).__qualname__}"
    if not hasattr(chosen, "indices") or not hasattr(chosen, "distances"):
        raise SelectionError(
            f"{name} returned {type(chosen).__name__}; expected an object with indices and distances"
        )
    indices = np.asarray(chosen.indices)
    if not indices.size:
        raise SelectionError(f"{name} chose no frame of {n_candidates}")
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise SelectionError(
            f"{name} returned indices of shape {indices.shape} and type {indices.dtype}; "
            "expected integers in one dimension"
        )
    if indices.min() < 0 or indices.max() >= n_candidates or len(np.unique(indices)) != len(indices):
        raise SelectionError(
            f"{name} returned indices from {indices.min()} to {indices.max()}, "
            f"{len(np.unique(indices))} of {len(indices)} distinct; expected distinct ones "
            f"from 0 to {n_candidates - 1}"
        )
    distances = np.asarray(chosen.distances, dtype=np.float64)
    if distances.shape != indices.shape:
        raise SelectionError(f"{name} returned {distances.shape} distances for {indices.shape} indices")
    return indices.astype(np.int64), distances
