"""From CG frames to labels: backmap, run, screen, map; failures go to quarantine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.frames import LabelledFrames, Quarantined
from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.labels import (
    frame_noise,
    free_label,
    frozen_label,
    mean_and_error,
    steered_label,
)
from cgal_plugin.oracle.structure import PROTEIN_FORCE_FIELD
from cgal_plugin.oracle.trajectory import AllAtomTrajectory, DynamicsFailure
from cgal_plugin.provenance import derive_seed, hash_array, versions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.oracle.backmap import Backmapper
    from cgal_plugin.oracle.openmm import OpenMMOracle

_DYNAMICS_OMEGA_MIN = 90.0  # degrees; thermal peptide bonds pass 150
_DYNAMICS = {"free": free_label, "steered": steered_label, "mean_force": frozen_label}
_MIN_SHARE = 4  # library frames for each start, from which on starts do not share frames


def label_frames(
    oracle: OpenMMOracle, frames: ArrayLike, progress: Callable[[int, int], None] | None = None
) -> LabelledFrames:
    """See :meth:`OpenMMOracle.label`."""
    frames = np.asarray(frames)
    n_beads = oracle.topology.n_beads
    if frames.ndim != 3 or frames.shape[1:] != (n_beads, 3):
        raise OracleError(f"frames have shape {frames.shape}; expected (n, {n_beads}, 3) in Å")
    # float32 is what a store keeps: a frame read back from disk gets the label that it got in memory
    frames = frames.astype(np.float32)
    parts, quarantined, failed = [], [], []
    for i, frame in enumerate(frames):
        part, failures = _label_one(oracle, frame, i)
        if part is None:
            reasons = "; ".join(dict.fromkeys(reason for _, reason, _ in failures))
            quarantined.append(Quarantined(i, reasons, failures[-1][2]))
        else:
            parts.append(part)
            failed += [{"frame_index": i, "start_index": s, "reason": reason} for s, reason, _ in failures]
        if progress is not None:
            progress(i + 1, len(frames))
    empty = np.zeros((0, n_beads, 3), dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    arrays = [LabelledFrames(empty, empty, none, none, np.zeros(0)), *parts]
    joined = LabelledFrames.concatenate(arrays)
    return LabelledFrames(
        joined.positions,
        joined.forces,
        joined.frame_index,
        joined.start_index,
        joined.force_error,
        quarantined=tuple(quarantined),
        metadata=oracle.metadata | {"failed_starts": failed},
    )


def metadata(oracle: OpenMMOracle) -> dict[str, Any]:
    """See :attr:`OpenMMOracle.metadata`."""
    settings = oracle.settings
    return {
        "oracle": "openmm",
        "temperature": oracle.temperature,
        "solvent": oracle.model.solvent,
        "force_field": PROTEIN_FORCE_FIELD,
        "force_map": oracle.force_map.kind,
        "force_map_hash": oracle.force_map.hash,
        "mapping_hash": oracle.mapping.hash,
        "seed": oracle.seed,
        "backmap_methods": list(oracle.methods),
        "timestep_fs": settings.timestep_fs,
        "ps_per_frame": settings.ps_per_frame,
        "versions": versions(),
        **asdict(settings),
        "save_ps": settings.stride * settings.timestep_fs / 1000.0,
    }


def free_rows(oracle: OpenMMOracle, trajectory: AllAtomTrajectory, frame: int, start: int) -> LabelledFrames:
    """CG rows of free dynamics, one correlated block."""
    forces = oracle.force_map.map_forces(trajectory.forces)
    n = len(forces)
    return LabelledFrames(
        positions=oracle.mapping.map_positions(trajectory.positions),
        forces=forces,
        frame_index=np.full(n, frame, dtype=np.int64),
        start_index=np.full(n, start, dtype=np.int64),
        force_error=np.full(n, frame_noise(forces)),
    )


def _label_one(
    oracle: OpenMMOracle, frame: NDArray[np.float32], index: int
) -> tuple[LabelledFrames | None, list[tuple[int, str, str]]]:
    """Rows of one frame (None: no start worked), and (start, reason, method) of starts that failed."""
    if not np.isfinite(frame).all():
        return None, [(0, "coordinates are not finite", "")]
    content = hash_array(frame)
    failures: list[tuple[int, str, str]] = []
    done: list[tuple[int, AllAtomTrajectory]] = []
    origin = frame.mean(axis=0, dtype=np.float64)  # forces are single precision: keep coordinates small
    for start in range(oracle.settings.n_starts):
        backmapper = oracle.backmapper(start)
        steered = oracle.settings.mode == "steered"
        result = backmapper.nearest(frame) if steered else backmapper.run(frame[None])[0]
        if not result.ok:
            failures.append((start, f"backmapping: {result.reason}", result.method))
            continue
        run = _DYNAMICS[oracle.settings.mode]
        seed = derive_seed(oracle.seed, "label", content, start)
        try:
            trajectory = run(
                oracle.model,
                result.positions - origin,
                frame - origin,
                oracle.settings,
                oracle.temperature,
                seed,
            )
        except DynamicsFailure as error:
            failures.append((start, str(error), result.method))
            continue
        reason = _screen(backmapper, trajectory)
        if reason:
            failures.append((start, f"after the dynamics: {reason}", result.method))
        else:
            done.append((start, trajectory))
    if not done:
        return None, failures
    if oracle.settings.mode != "mean_force":
        return LabelledFrames.concatenate([free_rows(oracle, t, index, s) for s, t in done]), failures
    force, error = mean_and_error([oracle.force_map.map_forces(t.forces) for _, t in done])
    row = np.array([index])
    return LabelledFrames(
        frame[None], force[None].astype(np.float32), row, np.array([0]), np.array([error])
    ), failures


def make_backmapper(oracle: OpenMMOracle, start: int) -> Backmapper:
    """See :meth:`OpenMMOracle.backmapper`."""
    from cgal_plugin.oracle.backmap import Backmapper
    from cgal_plugin.oracle.library import AllAtomLibrary

    model, library, n = oracle.model.implicit, oracle.library, oracle.settings.n_starts
    if library is None:
        library = AllAtomLibrary(model, oracle.extended_positions()[None])
    elif len(library) >= _MIN_SHARE * n:
        library = AllAtomLibrary(model, library.positions[start::n])
    seed = derive_seed(oracle.seed, "start", start)
    return Backmapper(model, library=library, methods=oracle.methods, seed=seed)


def _screen(backmapper: Backmapper, trajectory: AllAtomTrajectory) -> str:
    """What is wrong with the last frame of a label's dynamics; empty when nothing is."""
    from cgal_plugin.oracle.screen import Screen, screen

    verdict = screen(trajectory.positions[-1], backmapper.puller.tables, omega_min=_DYNAMICS_OMEGA_MIN)
    assert isinstance(verdict, Screen)
    return "; ".join(verdict.reasons)
