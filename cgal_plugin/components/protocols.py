"""What the loop asks of its parts: any object with these methods can take the place of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cgal_plugin.oracle.protocol import Oracle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cgal_plugin.data import DataStore
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.priors import PriorSet

__all__ = [
    "Oracle",
    "Progress",
    "RefinableTrainer",
    "SampledFrames",
    "Sampler",
    "SeedSource",
    "Selector",
    "TrainRequest",
    "TrainedModel",
    "Trainer",
]

#: called as ``progress(done, total)``
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainRequest:
    """What a trainer is asked to do.

    Attributes
    ----------
    store
        The labelled frames.
    shards
        Names of the shards to train on: those of the seed data and of earlier rounds.
    new_shards
        Those among them that the last round added (the seed data in the first round).
    out_dir
        Folder for checkpoints; what is there already is from an interrupted call of the same request.
    previous
        The last round's model, or None.
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
        What the trainer can go on from (for TorchMD-Net: a checkpoint).
    committee
        Checkpoints of further models trained alike with other seeds.
    metrics
        One dict an epoch.
    """

    checkpoint: Path
    committee: tuple[Path, ...] = ()
    metrics: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """What a sampler found.

    Attributes
    ----------
    trajectories
        One ``(n_frames, n_beads, 3)`` array a replica, Å, in time order.
    events
        One dict a blow-up with ``replica``, ``step``, ``kind``, ``detail``.
    steps
        Steps done, summed over replicas.
    facts
        Anything JSON-ready to keep in the round's manifest (ours: ``backend``).
    """

    trajectories: Sequence[NDArray[np.floating]]
    events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    steps: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Selector(Protocol):
    """Chooses which frames to label."""

    def fit(self, reference: NDArray[np.floating]) -> Selector:
        """Take the training frames ``(n, n_beads, 3)`` Å as reference; returns itself."""
        ...

    def select(self, candidates: NDArray[np.floating]) -> Any:
        """Choose among ``(n, n_beads, 3)`` Å; returns an object with ``indices`` and ``distances`` (Å)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Explores conformations with a trained potential."""

    def sample(
        self,
        potential: Path,
        topology: CGTopology,
        start_positions: NDArray[np.floating],
        *,
        temperature: float,
        seed: int,
        out_dir: Path,
        progress: Progress | None = None,
    ) -> SampledFrames:
        """Run from ``start_positions`` ``(n_replicas, n_beads, 3)`` Å with the TorchScript ``potential``.

        ``out_dir`` may hold files of an interrupted call with the same arguments.
        """
        ...


@runtime_checkable
class Trainer(Protocol):
    """Trains the CG potential."""

    def prepare(self, store: DataStore, out_dir: Path) -> None:
        """Do once what all rounds share (fit and freeze the priors) from the seed data."""
        ...

    def train(self, request: TrainRequest, progress: Progress | None = None) -> TrainedModel:
        """Train on the store; called again with the same request after an interruption, it goes on."""
        ...

    def export(self, model: TrainedModel, topology: CGTopology, path: Path, n_replicas: int) -> None:
        """Write the potential that the sampler runs, as TorchScript (nm, kJ/mol)."""
        ...


@runtime_checkable
class RefinableTrainer(Trainer, Protocol):
    """A trainer whose models have priors that can be exchanged, as ``refinement`` needs."""

    def priors(self, train_folder: Path) -> PriorSet:
        """The priors of the model that was trained in a folder."""
        ...

    def with_priors(self, model: TrainedModel, priors: PriorSet, path: Path) -> TrainedModel:
        """Write the model with other priors to ``path``, which :meth:`export` and OpenMM can use."""
        ...


@runtime_checkable
class SeedSource(Protocol):
    """Makes the data that the first model is trained on."""

    topology: CGTopology
    force_map_hash: str

    def prepare(self, out_dir: Path, progress: Progress | None = None) -> None:
        """Run what has to be run, keeping it in ``out_dir``; sets :attr:`force_map_hash`."""
        ...

    def fill(self, store: DataStore) -> None:
        """Append the seed shards that ``store`` does not have yet."""
        ...
