"""Input of the report: frozen records, filled from a run directory or by a script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgal_plugin.analysis.results import W1Result
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.analysis.tica import TICAModel
    from cgal_plugin.data.blow_up import BlowUp
    from cgal_plugin.data.frames import Quarantined
    from cgal_plugin.mapping.topology import CGTopology


@dataclass(frozen=True, eq=False)
class SelectedFrames:
    """Selected frames, for the 3D view.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å.
    nearest_rmsd
        ``(n,)`` Å, distance to the nearest frame of the training data at selection, NaN if the selector does
        not compute it.
    round
        ``(n,)`` int, round of the selection.
    labels
        One short string per frame (``"labelled"``, or the reason of its quarantine), or empty.

    Raises
    ------
    AnalysisError
        Shapes or numbers of frames differ.
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
                raise AnalysisError(f"{name} has shape {shape}; expected ({len(positions)},), one per frame")
        if self.labels and len(self.labels) != len(positions):
            raise AnalysisError(f"{len(self.labels)} labels for {len(positions)} selected frames")


@dataclass(frozen=True, eq=False)
class RoundSummary:
    """One round: training, sampling, and labels.

    All attributes except ``index`` are optional; the report names those that are missing.

    Attributes
    ----------
    index
        Number of the round, from 0.
    coverage
        ``(n,)`` Å: nearest RMSD of each sampled frame to the training data of this round's model.
    reference_coverage
        ``(n,)`` Å: nearest RMSD of each reference frame to that training data.
    name
        Name of the model, if it is not that of the round: ``"refined model"``.
    w1, w1_ucsc
        Distances of this model to the reference (:class:`W1Result` or its ``to_dict()``), of its test or of
        its exploration (``ReportInput.measured``).
    histogram
        ``(n, n)`` histogram of TIC 1 and 2 of the model's test, see ``ReportInput.histogram_range``.
    drift
        What the test still shows of its starts or of time, as text; empty if it does not drift.
    drift_w1
        The largest W1 between these parts of the test that is more than chance; 0 if it does not drift.
    n_selected, n_labelled, n_quarantined
        Number of selected frames, of those with a label, and of those without.
    n_frames
        Number of labelled frames on which the model of this round was trained.
    n_new_frames
        Number of labelled frames that the labels of this round added.
    blow_ups
        Blow-ups of the CG dynamics.
    cg_steps
        Replica-steps of CG dynamics (replicas × steps), for the blow-up rate.
    oracle_ns
        All-atom MD for this round's labels, ns.
    training
        One dict per epoch with TorchMD-Net's names (``epoch``, ``train_loss``, ``val_loss``, ...).
    timings
        Stage name → wall time, s.
    """

    index: int
    coverage: NDArray[np.floating] | None = None
    reference_coverage: NDArray[np.floating] | None = None
    w1: W1Result | None = None
    w1_ucsc: W1Result | None = None
    name: str = ""
    histogram: Sequence[Sequence[int]] | NDArray[np.floating] | None = None
    drift: str = ""
    drift_w1: float = 0.0
    n_selected: int | None = None
    n_labelled: int | None = None
    n_quarantined: int | None = None
    n_frames: int | None = None
    n_new_frames: int | None = None
    blow_ups: Sequence[BlowUp] = ()
    cg_steps: int | None = None
    oracle_ns: float | None = None
    training: Sequence[Mapping[str, Any]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("w1", "w1_ucsc"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, W1Result.from_dict(value))


@dataclass(frozen=True, eq=False)
class ReportInput:
    """Input of :func:`write_report`. Only ``title``, ``topology`` and ``temperature`` are required.

    Attributes
    ----------
    title
        Heading of the page.
    topology
        Beads and bonds; all trajectories have its bead count.
    temperature
        Temperature of labels, dynamics and reference, K.
    reference, before, after
        Lists of ``(n, n_beads, 3)`` Å: all-atom reference mapped to beads; CG trajectories of the
        first and of the last model. None or empty: not available.
    sampled_by
        What the CG trajectories are: ``"test"`` or ``"exploration"``, see ``measured``.
    reference_weights
        One ``(n,)`` array per reference trajectory (MSM reweighting), or None.
    training_frames
        ``(n, n_beads, 3)`` Å: labelled frames of the final data set.
    seed_trajectories
        Lists of ``(n, n_beads, 3)`` Å in time order: the unbiased all-atom seed runs.
    tica
        TICs of the free-energy surfaces. None fits them to the reference, or without one to
        ``seed_trajectories``, or without these to the CG trajectories.
    lag_frames, frame_interval_ps
        Lag of that fit in frames; time between frames, for the axis labels (None: unknown).
    rounds
        Rounds in order. Cards compare the first with the last.
    prior_table
        One dict per prior term (``PriorSet.table()``).
    prior_plot
        Path of a PNG or SVG, or the bytes of a PNG.
    selected
        Selected frames of all rounds.
    quarantine
        Round → selected frames that could not be labelled.
    measured
        What W1 was computed from: ``"test"``, simulations from the same starts for each model, or
        ``"exploration"``, the sampling of the rounds (runs of old versions).
    reference_histogram, histogram_range
        Histogram of the reference on the cells of the models' histograms: TIC 1 and 2 of the reference, in
        its standard deviations from its mean, from minus to plus ``histogram_range``.
    no_w1
        Why no model has a W1; empty if it has, or if there is no reference.
    incomplete
        A sentence that says how far the run is; empty if it is complete.
    remarks
        Further sentences for the first screen, on what limits the result.
    seed_ns
        All-atom MD of the seed data, ns.
    preparation
        What was done before the first round → wall time, s.
    provenance
        Nested dict: versions, seeds, hashes, configuration.
    structure
        What was read from the structure or sequence: heading and text of each row.
    facts
        Further rows for the head of the report, text → text.
    notes
        Sentences at the head of the report ("no reference given: ...").
    """

    title: str
    topology: CGTopology
    temperature: float
    reference: Sequence[NDArray[np.floating]] | None = None
    before: Sequence[NDArray[np.floating]] | None = None
    after: Sequence[NDArray[np.floating]] | None = None
    sampled_by: Literal["test", "exploration"] = "exploration"
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
    quarantine: Mapping[int, Sequence[Quarantined]] = field(default_factory=dict)
    measured: Literal["test", "exploration"] = "test"
    reference_histogram: Sequence[Sequence[int]] | NDArray[np.floating] | None = None
    histogram_range: float = 5.0
    no_w1: str = ""
    incomplete: str = ""
    remarks: Sequence[str] = ()
    seed_ns: float | None = None
    preparation: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    structure: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
