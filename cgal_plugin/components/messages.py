"""The values that the loop and its components pass to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cgal_plugin.data import DataStore
    from cgal_plugin.data.blow_up import BlowUp

__all__ = ["SampledFrames", "TrainRequest", "TrainedModel"]


@dataclass(frozen=True)
class TrainRequest:
    """The task of one training.

    Attributes
    ----------
    store
        The labelled frames.
    shards
        Names of the shards to train on: those of the seed data and of earlier rounds.
    new_shards
        Those of ``shards`` that the last round added (in the first round: the seed data).
    out_dir
        Folder for checkpoints. It may hold files of an interrupted call with the same request.
    previous
        The model of the last round, or None.
    seed
        Seed of this training.
    """

    store: DataStore
    shards: tuple[str, ...]
    new_shards: tuple[str, ...]
    out_dir: Path
    previous: TrainedModel | None
    seed: int


@dataclass(frozen=True)
class TrainedModel:
    """A trained model on disk.

    Attributes
    ----------
    checkpoint
        File inside the request's ``out_dir`` from which the trainer can continue and export.
    committee
        Checkpoints, also inside ``out_dir``, of further models trained with other seeds.
    metrics
        One JSON-ready dict per epoch; the report plots losses named as in TorchMD-Net, such as ``val_loss``.
    """

    checkpoint: Path
    committee: tuple[Path, ...] = ()
    metrics: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """The frames that a sampler found.

    Attributes
    ----------
    trajectories
        ``(n_frames, n_beads, 3)`` Å, one per replica in the order of ``start_positions``, in time order.
        All coordinates are finite: a trajectory ends before the frame where it blows up, and may be empty.
    events
        Blow-ups. Mappings with the keys of :class:`~cgal_plugin.data.blow_up.BlowUp` are converted by
        :func:`~cgal_plugin.components.checks.check_sampled`.
    steps
        Steps done, summed over replicas.
    facts
        Any JSON-ready values to keep in the round's manifest (built-in sampler: ``backend``).
    files
        Trajectory files in ``out_dir`` that already hold ``trajectories``, one per replica, so that the
        loop need not write them again. Empty: the loop writes them.
    """

    trajectories: Sequence[NDArray[np.floating]]
    events: Sequence[BlowUp] = ()
    steps: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
