"""CG dynamics of a sampler as the output of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.checks import check_sampled
from cgal_plugin.components.protocols import Sampler
from cgal_plugin.mapping import CGTopology
from cgal_plugin.runs.layout import keep_trajectories
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import StageOutput


def sample(
    sampler: Sampler,
    potential: Path,
    topology: CGTopology,
    start: NDArray[np.floating],
    *,
    temperature: float,
    seed: int,
    folder: Path,
    out_dir: Path,
    progress: Progress,
) -> tuple[Sequence[NDArray[np.floating]], StageOutput]:
    """Run CG dynamics, check the result, and write its trajectories unless the sampler did.

    Returns
    -------
    The trajectories, and the output of the stage in ``folder``.
    """
    sampled = sampler.sample(
        potential,
        topology,
        start,
        temperature=temperature,
        seed=seed,
        out_dir=out_dir,
        progress=progress,
    )
    sampled = check_sampled(sampled, sampler, topology)
    files, names = keep_trajectories(folder, sampled.trajectories, sampled.files)
    results = {
        **sampled.facts,
        "events": [asdict(event) for event in sampled.events],
        "steps": int(sampled.steps),
        "trajectories": names,
    }
    # the values on disk, so that a resumed run continues from the same numbers
    stored = [np.asarray(t, dtype=np.float32) for t in sampled.trajectories]
    return stored, StageOutput(results, files)
