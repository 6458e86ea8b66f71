"""The contract of a sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cgal_plugin.components.checks import check_sampled
from cgal_plugin.components.protocols import ExtendableSampler, SampledFrames, Sampler
from cgal_plugin.mapping import CGTopology
from cgal_plugin.testing.contract import checked, has_role, is_json, unchanged


def check_sampler(
    sampler: Sampler,
    potential: Path,
    topology: CGTopology,
    start_positions: ArrayLike,
    out_dir: Path,
    *,
    temperature: float = 300.0,
    deterministic: bool = True,
) -> None:
    """Check that a sampler keeps the contract that a run relies on.

    The ability :class:`ExtendableSampler` is checked if the sampler has it.

    Parameters
    ----------
    sampler
        An object with ``sample(...) -> SampledFrames``.
    potential
        The potential file that the sampler runs, as written by its trainer.
    topology
        The molecule.
    start_positions
        ``(n_replicas, n_beads, 3)`` Å, with ``n_replicas`` of the sampler.
    out_dir
        Folder for the files of the sampler, in new subfolders.
    temperature
        K.
    deterministic
        Require that the same seed gives the same frames.

    Raises
    ------
    AssertionError
        The sampler breaks the contract; the message says how.
    """
    start = np.asarray(start_positions)
    has_role("sampler", sampler)

    def sample(which: Sampler, folder: str) -> SampledFrames:
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
        found = which.sample(
            potential,
            topology,
            start,
            temperature=temperature,
            seed=1,
            out_dir=out_dir / folder,
            progress=None,
        )
        return checked(check_sampled, found, which, topology)

    with unchanged(start, "sample changed the start positions that were passed"):
        sampled = sample(sampler, "first")
    assert any(len(t) for t in sampled.trajectories), "no trajectory has a frame"
    outside = [e.replica for e in sampled.events if not 0 <= e.replica < len(sampled.trajectories)]
    assert not outside, f"events name replicas {outside[:3]} of {len(sampled.trajectories)}"
    assert sampled.steps >= 0, f"steps is {sampled.steps}"
    is_json(dict(sampled.facts), "facts")
    missing = [str(path) for path in sampled.files if not path.is_file()]
    assert not missing, f"files {missing[:3]} do not exist"
    if deterministic:
        again = sample(sampler, "second")
        assert _equal(sampled, again), "the same seed gave other frames"
        resumed = sample(sampler, "first")
        assert _equal(sampled, resumed), "called again with its own files in out_dir, it gave other frames"
    if isinstance(sampler, ExtendableSampler):
        has_role("sampler", sampler.with_steps(1))


def _equal(a: SampledFrames, b: SampledFrames) -> bool:
    return len(a.trajectories) == len(b.trajectories) and all(
        np.array_equal(x, y) for x, y in zip(a.trajectories, b.trajectories, strict=True)
    )
