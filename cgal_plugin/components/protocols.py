"""The contract between the loop and its components: one Protocol per role, one per optional ability.

An object with the methods of a role can replace the built-in component. An ability is optional: the loop
asks for it with ``isinstance(component, Ability)``. The loop uses only what a Protocol here declares. Its
checks (:mod:`cgal_plugin.components.checks`) and :mod:`cgal_plugin.testing` read the required methods here.

Arguments are passed as the signatures say: those after ``*`` by keyword, all others by position. Positions
are in Å, forces in kcal/mol/Å, times in ps, temperatures in K.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from cgal_plugin.components.messages import SampledFrames, TrainedModel, TrainRequest
from cgal_plugin.runs.log import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cgal_plugin.data import DataStore, LabelledFrames
    from cgal_plugin.mapping import CGMapping, CGTopology
    from cgal_plugin.oracle.record import StructureRecord
    from cgal_plugin.priors import PriorSet

__all__ = [
    "Chosen",
    "DistanceSelector",
    "ExtendableSampler",
    "Oracle",
    "OracleSeedSource",
    "PackedSampler",
    "PartialFitSelector",
    "PricedOracle",
    "PricedSeedSource",
    "Progress",
    "RecordedSeedSource",
    "RecordedTrainer",
    "RefinableTrainer",
    "ReplicaSampler",
    "SampledFrames",
    "Sampler",
    "SeedSource",
    "Selector",
    "StructureSource",
    "TrainRequest",
    "TrainedModel",
    "Trainer",
]


# ---------------------------------------------------------------------- selector


class Chosen(Protocol):
    """The result of a selection, such as :class:`cgal_plugin.selector.Selection`."""

    @property
    def indices(self) -> NDArray[np.integer]:
        """``(k,)`` distinct indices into the candidates, the most wanted frame first.

        None of them: nothing is left to label, and the run ends with the model of this round.
        """
        ...

    @property
    def distances(self) -> NDArray[np.floating]:
        """``(k,)`` Å, nearest RMSD of the chosen frames to the training set; NaN where not known."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Choose which frames to label.

    The loop calls ``fit``, then ``select`` on its result, once per round. A selector object that is given to
    ``run`` serves all rounds: a later ``fit`` replaces the reference of an earlier one. The same seed,
    reference and candidates give the same choice, so that a resumed run continues like an uninterrupted one.
    Arrays that are passed are not changed. The number of frames is up to the selector; under an oracle
    budget only the first ones are labelled.
    """

    def fit(self, reference: NDArray[np.floating]) -> Self:
        """Set the training frames ``(n, n_beads, 3)`` as reference; return the selector."""
        ...

    def select(self, candidates: NDArray[np.floating]) -> Chosen:
        """Choose among ``(n, n_beads, 3)``, n ≥ 1.

        An empty choice, or :class:`~cgal_plugin.errors.NothingToSelect` with its reason, means that the
        training data cover the candidates: the run finishes. Another
        :class:`~cgal_plugin.errors.CGALError` ends it as an error.
        """
        ...


@runtime_checkable
class DistanceSelector(Selector, Protocol):
    """A selector that needs no reference when the distances to it are known.

    The loop calls ``select_with`` instead of ``fit`` and ``select``. It must make the same choice.
    """

    def select_with(self, candidates: NDArray[np.floating], distances: NDArray[np.floating]) -> Chosen:
        """Choose among ``(n, n_beads, 3)``; ``distances`` ``(n,)`` Å: nearest RMSD to the reference."""
        ...


@runtime_checkable
class PartialFitSelector(Selector, Protocol):
    """A selector whose reference can grow. The loop does not use this; it serves scripts."""

    def partial_fit(self, new_frames: NDArray[np.floating]) -> Self:
        """Add ``(n, n_beads, 3)`` to the reference; return the selector."""
        ...


# ---------------------------------------------------------------------- oracle


@runtime_checkable
class Oracle(Protocol):
    """Label frames with forces.

    The loop passes one finite frame per call: in worker processes if the oracle can be pickled, otherwise in
    its own process. A label depends on the frame alone, not on other frames of the call, earlier calls or the
    process. Resumed runs and reruns of lost tasks rely on this.

    ``metadata`` of the labels is JSON-ready and may be empty. Where it has ``temperature`` (K) or
    ``force_map_hash``, they must equal those of the data store. ``ps_per_frame`` (all-atom MD per label, ps)
    is counted in the report and against ``stopping.oracle_ns``; ``save_ps`` and ``mode`` (``"free"`` or
    ``"steered"``) tell ``refinement`` which labels are unbiased dynamics.
    """

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        """Return forces for ``(n, n_beads, 3)``, which is not changed.

        The result has any number of rows per frame; ``frame_index`` says to which of ``frames`` a row
        belongs. A frame without a label is in ``quarantined``, with the reason. An exception puts the
        frame into quarantine as well, with the traceback.
        """
        ...


@runtime_checkable
class PricedOracle(Oracle, Protocol):
    """An oracle that knows its cost; ``stopping.oracle_ns`` needs it to limit the number of labels."""

    def cost_estimate(self, n_frames: int, /) -> Mapping[str, float]:
        """Return the cost of ``n_frames`` labels; ``oracle_ns`` is their all-atom MD in ns."""
        ...


@runtime_checkable
class StructureSource(Protocol):
    """An oracle that provides the start structures of the model test."""

    @property
    def mapping(self) -> CGMapping:
        """The mapping from atoms to beads."""
        ...

    def native_positions(self) -> NDArray[np.floating]:
        """Return the folded structure, ``(n_atoms, 3)``."""
        ...

    def extended_positions(self) -> NDArray[np.floating]:
        """Return a stretched chain of the same atoms, ``(n_atoms, 3)``."""
        ...


# ---------------------------------------------------------------------- sampler


@runtime_checkable
class Sampler(Protocol):
    """Explore conformations with a trained potential."""

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
        """Run from ``start_positions`` ``(n_replicas, n_beads, 3)`` with the potential.

        ``potential`` is the file that the trainer exported (built-in: TorchScript, nm and kJ/mol).
        ``out_dir`` may hold files of an interrupted call with the same arguments. ``progress`` is called
        as ``progress(done, total)``. The same seed gives the same frames.
        """
        ...


@runtime_checkable
class ReplicaSampler(Sampler, Protocol):
    """A sampler that gives its number of start frames; other samplers get 16."""

    @property
    def n_replicas(self) -> int:
        """Number of start frames, 1 or more."""
        ...


@runtime_checkable
class PackedSampler(Sampler, Protocol):
    """A sampler that evaluates several replicas in one call of the potential.

    The trainer exports a potential for ``packed_replicas`` replicas. Without this ability it is exported for
    all replicas.
    """

    @property
    def packed_replicas(self) -> int:
        """Number of replicas per call."""
        ...


@runtime_checkable
class ExtendableSampler(Sampler, Protocol):
    """A sampler whose length can be set, as ``refinement.steps`` does; others keep their own length."""

    def with_steps(self, steps: int) -> Sampler:
        """Return a copy that runs ``steps`` steps per replica; ``self`` is not changed."""
        ...


# ---------------------------------------------------------------------- trainer


@runtime_checkable
class Trainer(Protocol):
    """Train the CG potential."""

    def prepare(self, store: DataStore, out_dir: Path) -> None:
        """Prepare all rounds from the seed data in ``store``, in ``out_dir`` (built-in: fit the priors).

        Called once per process, also when a run is resumed: load results that ``out_dir`` already holds.
        """
        ...

    def train(self, request: TrainRequest, progress: Progress | None = None) -> TrainedModel:
        """Train on the shards of ``request``. A second call with the same request resumes.

        ``request.out_dir`` exists.
        """
        ...

    def export(self, model: TrainedModel, topology: CGTopology, path: Path, n_replicas: int) -> None:
        """Write the file ``path`` that the sampler runs (built-in: TorchScript, nm and kJ/mol)."""
        ...


@runtime_checkable
class RefinableTrainer(Trainer, Protocol):
    """A trainer whose models have replaceable priors; ``refinement`` needs it."""

    def priors(self, train_folder: Path) -> PriorSet:
        """Return the priors of the model that was trained in a folder."""
        ...

    def with_priors(self, model: TrainedModel, priors: PriorSet, path: Path) -> TrainedModel:
        """Write the model with other priors to ``path``, which :meth:`export` accepts."""
        ...


# ---------------------------------------------------------------------- seed source


@runtime_checkable
class SeedSource(Protocol):
    """Provide the data that the first model is trained on."""

    @property
    def topology(self) -> CGTopology:
        """The molecule of the run; known from the start."""
        ...

    @property
    def force_map_hash(self) -> str:
        """Identifier of the force map (atomic to bead forces); known after :meth:`prepare`."""
        ...

    def prepare(self, out_dir: Path, progress: Progress | None = None) -> None:
        """Compute the data into ``out_dir``.

        Called once per process, also when a run is resumed: load results that ``out_dir`` already holds.
        """
        ...

    def fill(self, store: DataStore) -> None:
        """Append the seed shards that ``store`` does not have yet, with ``source="seed"``."""
        ...


@runtime_checkable
class PricedSeedSource(SeedSource, Protocol):
    """A seed source that gives the cost of its data; for other sources the cost counts as 0."""

    @property
    def oracle_ns(self) -> float:
        """All-atom MD of the seed data, ns."""
        ...


@runtime_checkable
class RecordedTrainer(Trainer, Protocol):
    """A trainer that says which model it starts from."""

    @property
    def what_was_read(self) -> list[str]:
        """What was read, one line per heading."""
        ...


@runtime_checkable
class RecordedSeedSource(SeedSource, Protocol):
    """A seed source that says what was read from the structure or sequence."""

    @property
    def record(self) -> StructureRecord:
        """What was read, added and left out."""
        ...


@runtime_checkable
class OracleSeedSource(SeedSource, Protocol):
    """A seed source with an oracle that labels as the seed data were labelled.

    It is the oracle of the run if ``oracle.kind`` is ``openmm``, and the :class:`StructureSource` of the
    model test.
    """

    @property
    def oracle(self) -> Oracle:
        """The oracle; complete after :meth:`prepare`."""
        ...
