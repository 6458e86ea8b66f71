"""What the report is made from: plain frozen records that the driver (or a script) fills."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.analysis.tica import TICAModel
    from cgal_plugin.analysis.wasserstein import W1Result
    from cgal_plugin.mapping.topology import CGTopology


@dataclass(frozen=True)
class QuarantineRecord:
    """One frame that was selected but not labelled, and why."""

    round: int
    frame_index: int
    reason: str
    method: str = ""
    nearest_rmsd: float | None = None


@dataclass(frozen=True, eq=False)
class SelectedFrames:
    """Frames that the selector chose, for the 3D view.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å.
    nearest_rmsd
        ``(n,)`` Å, distance to the nearest frame of the training data when it was chosen
        (NaN where a selector has none).
    round
        ``(n,)`` int, the round that chose it.
    labels
        One short string a frame (such as ``"labelled"`` or the reason of its quarantine), or empty.
    """

    positions: NDArray[np.floating]
    nearest_rmsd: NDArray[np.floating]
    round: NDArray[np.int64]
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions)
        if positions.ndim != 3 or positions.shape[-1] != 3:
            raise AnalysisError(
                f"selected frames have shape {positions.shape}; expected (n_frames, n_beads, 3) in Å"
            )
        for name in ("nearest_rmsd", "round"):
            shape = np.shape(getattr(self, name))
            if shape != (len(positions),):
                raise AnalysisError(f"{name} has shape {shape}; expected ({len(positions)},), one a frame")
        if self.labels and len(self.labels) != len(positions):
            raise AnalysisError(f"{len(self.labels)} labels for {len(positions)} selected frames")


@dataclass(frozen=True, eq=False)
class RoundSummary:
    """One round: a model trained on the data so far, what it sampled, and what was labelled then.

    Everything but ``index`` may be left out; the report says what is missing.

    Attributes
    ----------
    index
        Number of the round, from 0.
    coverage
        ``(n,)`` Å: nearest RMSD of each frame that this round's model sampled to the training data
        which that model was trained on. The farther, the less covered.
    reference_coverage
        ``(n,)`` Å: nearest RMSD of each reference frame to that training data, where a reference is given.
    w1, w1_ucsc
        Distances of this round's samples to the reference (:class:`W1Result` or its ``to_dict()``).
    n_selected, n_labelled, n_quarantined
        Frames chosen; chosen frames with a label; chosen frames without one.
    n_frames
        Force-labelled frames in the data set when this round's model was trained.
    n_new_frames
        Force-labelled frames added by this round's labels.
    blow_ups
        :class:`BlowUp` or anything with ``replica``, ``step``, ``kind``, ``detail``.
    cg_steps
        Replica-steps of CG dynamics done (replicas × steps), for the blow-up rate.
    oracle_ns
        All-atom MD spent on this round's labels, ns.
    training
        One dict an epoch as TorchMD-Net's metrics are named (``epoch``, ``train_loss``, ``val_loss``, ...).
    timings
        Stage name → seconds of wall time.
    """

    index: int
    coverage: NDArray[np.floating] | None = None
    reference_coverage: NDArray[np.floating] | None = None
    w1: W1Result | None = None
    w1_ucsc: W1Result | None = None
    n_selected: int | None = None
    n_labelled: int | None = None
    n_quarantined: int | None = None
    n_frames: int | None = None
    n_new_frames: int | None = None
    blow_ups: Sequence[Any] = ()
    cg_steps: int | None = None
    oracle_ns: float | None = None
    training: Sequence[Mapping[str, Any]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from cgal_plugin.analysis.results import W1Result

        for name in ("w1", "w1_ucsc"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, W1Result.from_dict(value))


@dataclass(frozen=True, eq=False)
class ReportInput:
    """All that :func:`write_report` needs. Only ``title``, ``topology``, ``temperature`` are required.

    Attributes
    ----------
    title
        Heading of the page.
    topology
        Beads and bonds; all trajectories have its bead count.
    temperature
        K; that of labels, dynamics and reference alike.
    reference, before, after
        Lists of ``(n, n_beads, 3)`` Å: all-atom reference mapped to beads; CG trajectories of the
        first and of the last model. None or empty: not available.
    reference_weights
        One ``(n,)`` array for each reference trajectory (MSM reweighting), or None.
    training_frames
        ``(n, n_beads, 3)`` Å: labelled frames of the final data set. Without a reference the TICs
        are fitted on ``seed_trajectories`` (or, failing these, on the CG trajectories).
    seed_trajectories
        Lists of ``(n, n_beads, 3)`` Å in time order: the unbiased all-atom seed runs.
    tica
        Fitted TICs to draw the surfaces with; fitted here when None.
    lag_frames, frame_interval_ps
        Lag of that fit in frames; time between frames, for the axis text (None: unknown).
    rounds
        In order. The first and last give the headline figures.
    prior_table
        One dict a prior term (``PriorSet.table()``).
    prior_plot
        Path of a PNG or SVG, or the bytes of a PNG.
    provenance
        Nested dict of what was run: versions, seeds, hashes, configuration.
    facts
        Further rows for the head of the report, text → text.
    notes
        Sentences that a reader should see first ("no reference given: ...").
    """

    title: str
    topology: CGTopology
    temperature: float
    reference: Sequence[NDArray[np.floating]] | None = None
    before: Sequence[NDArray[np.floating]] | None = None
    after: Sequence[NDArray[np.floating]] | None = None
    reference_weights: Sequence[NDArray[np.floating]] | None = None
    training_frames: NDArray[np.floating] | None = None
    seed_trajectories: Sequence[NDArray[np.floating]] | None = None
    tica: TICAModel | None = None
    lag_frames: int = 10
    frame_interval_ps: float | None = None
    rounds: Sequence[RoundSummary] = ()
    prior_table: Sequence[Mapping[str, Any]] = ()
    prior_plot: str | os.PathLike[str] | bytes | None = None
    selected: SelectedFrames | None = None
    quarantine: Sequence[QuarantineRecord] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
