"""Compare trajectory files with those of a reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cgal_plugin.analysis.evaluate import Evaluation, evaluate
from cgal_plugin.data.times import lag_in_frames, resolve_interval
from cgal_plugin.data.trajectories import read_trajectories, tell
from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from cgal_plugin.mapping.topology import CGTopology

#: TICA lag in frames of the reference, if none is given
DEFAULT_LAG = 10

Files = Sequence[str | os.PathLike[str]]


def evaluate_files(
    model: Files,
    reference: Files,
    topology: CGTopology,
    *,
    lag_frames: int | None = None,
    lag_ps: float | None = None,
    interval_ps: float | None = None,
    top: str | os.PathLike[str] | None = None,
    unit: str = "angstrom",
    **options: Any,
) -> Evaluation:
    """Run :func:`evaluate` on files.

    Parameters
    ----------
    model, reference, top, unit
        See :func:`~cgal_plugin.data.trajectories.read_trajectories`.
    lag_frames, lag_ps
        TICA lag in frames of the reference, or in ps; default: 10 frames.
    interval_ps
        Time between frames of the reference, ps; default: from the times in its files. It must agree with
        them.
    **options
        Other arguments of :func:`evaluate`.

    Returns
    -------
    Evaluation
        Its provenance has ``interval_ps`` and ``interval_source`` (``files``, ``given`` or ``assumed``), and
        in ``read`` what was changed when the files were read.

    Warns
    -----
    CGALWarning
        Molecules were made whole, the interval of the reference was assumed, or ``lag_ps`` is
        shorter than it.

    Raises
    ------
    DataError
        A file cannot be read, or times contradict each other or ``interval_ps``.
    AnalysisError
        Both lags are given; see also :func:`evaluate`.
    """
    if lag_frames is not None and lag_ps is not None:
        raise AnalysisError("give the TICA lag in frames or in ps, not both")
    ours, theirs = (
        [t for path in paths for t in read_trajectories(path, topology, top=top, unit=unit)]
        for paths in (model, reference)
    )
    interval = resolve_interval([(t.name, t.times) for t in theirs], interval_ps, "--interval-ps")
    notes = [note for t in (*ours, *theirs) for note in t.notes]
    if lag_ps is not None:
        lag_frames, said = lag_in_frames(lag_ps, interval, "--lag-ps")
        notes += said
        if interval.source == "assumed":
            notes.append(interval.note)
    tell(notes)
    result = evaluate(
        [t.positions for t in ours],
        [t.positions for t in theirs],
        topology,
        lag_frames=DEFAULT_LAG if lag_frames is None else lag_frames,
        **options,
    )
    read = {"interval_ps": interval.ps, "interval_source": interval.source, "read": notes}
    return replace(result, provenance={**result.provenance, **read})
