"""Check components where they enter the loop: one clear error that names the component.

Required methods and their arguments come from :mod:`cgal_plugin.components.protocols`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.protocols import (
    Oracle,
    PackedSampler,
    ReplicaSampler,
    SampledFrames,
    Sampler,
    SeedSource,
    Selector,
    TrainedModel,
    Trainer,
)
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.errors import ConfigError, DynamicsError, NothingToSelect, SelectionError, StateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology

#: the Protocol of each role
ROLES: Mapping[str, type[Any]] = {
    "oracle": Oracle,
    "selector": Selector,
    "sampler": Sampler,
    "trainer": Trainer,
    "seed_source": SeedSource,
}


def required_methods(role: str) -> tuple[str, ...]:
    """Return the names of the methods that the Protocol of a role declares."""
    members = vars(ROLES[role]).items()
    return tuple(n for n, member in members if inspect.isfunction(member) and not n.startswith("_"))


def check_component(role: str, component: object) -> None:
    """Check that a component has the methods of its role and that they accept the loop's arguments.

    Raises
    ------
    ConfigError
        The component is None, a method is missing or has another signature, or a number of replicas is
        not a positive integer.
    """
    if component is None:
        raise ConfigError(f"the {role} is None; does its fit return self?")
    name = f"the {role} {type(component).__qualname__}"
    _check_replicas(name, component)
    required = required_methods(role)
    missing = [m for m in required if not callable(getattr(component, m, None))]
    if missing:
        raise ConfigError(
            f"{name} has no method {' and no method '.join(missing)}; "
            f"{'an' if role == 'oracle' else 'a'} {role} needs {', '.join(required)} "
            "(see cgal_plugin.components.protocols)"
        )
    for method in required:
        _check_signature(name, component, ROLES[role], method)


def _check_replicas(name: str, component: object) -> None:
    given: dict[str, object] = {}
    if isinstance(component, ReplicaSampler):
        given["n_replicas"] = component.n_replicas
    if isinstance(component, PackedSampler):
        given["packed_replicas"] = component.packed_replicas
    for attribute, n in given.items():
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ConfigError(f"{name} has {attribute} {n!r}; expected a whole number, 1 or more")


def _check_signature(name: str, component: object, protocol: type[Any], method: str) -> None:
    """Compare a method's parameters with those that the loop passes."""
    _, *wanted = inspect.signature(getattr(protocol, method)).parameters.values()
    by_keyword = [p.name for p in wanted if p.kind is p.KEYWORD_ONLY]
    by_position = [p.name for p in wanted if p.kind is not p.KEYWORD_ONLY]
    try:
        signature = inspect.signature(getattr(component, method))
    except ValueError:  # written in C, without a signature
        return
    try:
        signature.bind(*by_position, **dict.fromkeys(by_keyword))
    except TypeError as error:
        keywords = ["*", *by_keyword] if by_keyword else []
        raise ConfigError(
            f"{name} has a method {method}{signature}, which the loop calls as "
            f"{method}({', '.join(by_position + keywords)}): {error}"
        ) from None


def check_sampled(sampled: Any, sampler: object, topology: CGTopology) -> SampledFrames:
    """Check the result of a sampler; return it with its events as :class:`BlowUp`.

    Raises
    ------
    DynamicsError
        The result is not SampledFrames, or its frames have another number of beads or are not finite.
    """
    name = f"the sampler {type(sampler).__qualname__}"
    if not isinstance(sampled, SampledFrames):
        raise DynamicsError(f"{name} returned {type(sampled).__name__}; expected SampledFrames")
    for i, trajectory in enumerate(sampled.trajectories):
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
    if sampled.files and len(sampled.files) != len(sampled.trajectories):
        raise DynamicsError(
            f"{name} returned {len(sampled.files)} files for {len(sampled.trajectories)} trajectories; "
            "expected one per trajectory, or none"
        )
    return replace(sampled, events=_blow_ups(sampled.events, name))


def _blow_ups(events: Sequence[Any], name: str) -> tuple[BlowUp, ...]:
    try:
        return tuple(e if isinstance(e, BlowUp) else BlowUp(**e) for e in events)
    except TypeError as error:
        raise DynamicsError(
            f"{name} returned events that are not blow-ups ({error}); "
            "expected cgal_plugin.data.blow_up.BlowUp, or mappings with its keys"
        ) from None


def check_selection(
    chosen: Any, selector: object, n_candidates: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Check the result of a selector; return its indices ``(k,)`` and distances ``(k,)`` Å.

    Raises
    ------
    NothingToSelect
        No frame is chosen.
    SelectionError
        The indices are not distinct indices of candidates with one distance each.
    """
    name = f"the selector {type(selector).__qualname__}"
    if not hasattr(chosen, "indices") or not hasattr(chosen, "distances"):
        raise SelectionError(
            f"{name} returned {type(chosen).__name__}; expected an object with indices and distances"
        )
    indices = np.asarray(chosen.indices)
    if not indices.size:
        raise NothingToSelect(f"{name} chose no frame of {n_candidates}")
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


def check_trained(model: Any, trainer: object, folder: Path) -> TrainedModel:
    """Check that the result of a trainer has its checkpoints inside ``folder``; return the result.

    Raises
    ------
    StateError
        The result is not a TrainedModel, or a checkpoint is missing or outside ``folder``.
    """
    name = f"the trainer {type(trainer).__qualname__}"
    if not isinstance(model, TrainedModel):
        raise StateError(f"{name} returned {type(model).__name__}; expected TrainedModel")
    for path in (model.checkpoint, *model.committee):
        if not path.is_file():
            raise StateError(f"{name} returned the checkpoint {path}, which does not exist")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StateError(f"{name} returned the checkpoint {path}; expected a file in {folder}")
    return model


def check_exported(paths: Sequence[Path], trainer: object) -> None:
    """Check that a trainer wrote the potentials that it was asked to export.

    Raises
    ------
    StateError
        A file is missing.
    """
    for path in paths:
        if not path.is_file():
            raise StateError(
                f"the trainer {type(trainer).__qualname__} wrote no file {path} in export(model, topology, "
                "path, n_replicas)"
            )
