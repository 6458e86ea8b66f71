"""Label CG frames: backmap, run dynamics, check the structure, map forces; quarantine failed frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgal_plugin.data.frames import LabelledFrames, Quarantined
from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.forces import ForceMap
from cgal_plugin.oracle.backmap import Backmapper
from cgal_plugin.oracle.force_error import frame_noise, mean_and_error
from cgal_plugin.oracle.label_settings import LabelSettings
from cgal_plugin.oracle.labels import free_label, frozen_label, steered_label
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.oracle.sampling import can_stretch, stretched_positions
from cgal_plugin.oracle.screen import Screen, screen
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory, DynamicsFailure
from cgal_plugin.provenance import derive_seed, hash_array, versions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DYNAMICS_OMEGA_MIN = 90.0  # degrees; thermal peptide bonds deviate beyond 150
_DYNAMICS = {"free": free_label, "steered": steered_label, "mean_force": frozen_label}
_MIN_SHARE = 4  # with this number of library frames per start or more, starts use disjoint frames


class _FailedStart(NamedTuple):
    start: int
    reason: str
    method: str


@dataclass(frozen=True, eq=False)
class Labeller:
    """Label frames of one model. Keeps the backmappers, whose OpenMM contexts belong to this process.

    Attributes
    ----------
    model
        The molecule.
    settings
        Dynamics of a label.
    force_map
        Maps atomic forces to the beads.
    library
        Structures that backmapping starts from; None: a stretched chain.
    temperature
        K.
    methods
        Backmapping methods, in the order of trial.
    seed
        Seed; all random numbers are derived from it.
    """

    model: AllAtomModel
    settings: LabelSettings
    force_map: ForceMap
    library: AllAtomLibrary | None
    temperature: float
    methods: tuple[str, ...]
    seed: int
    _backmappers: dict[int, Backmapper] = field(default_factory=dict, init=False, repr=False)

    def label(self, frames: ArrayLike, progress: Callable[[int, int], None] | None = None) -> LabelledFrames:
        """Label frames ``(n, n_beads, 3)`` Å; see :meth:`OpenMMOracle.label`."""
        frames = np.asarray(frames)
        n_beads = self.model.mapping.n_beads
        if frames.ndim != 3 or frames.shape[1:] != (n_beads, 3):
            raise OracleError(f"frames have shape {frames.shape}; expected (n, {n_beads}, 3) in Å")
        # stores keep float32: a frame read from disk gets the same label as the frame in memory
        frames = frames.astype(np.float32)
        parts: list[LabelledFrames] = []
        quarantined: list[Quarantined] = []
        failed: list[dict[str, Any]] = []
        for i, frame in enumerate(frames):
            part, failures = self._label_one(frame, i)
            if part is None:
                reasons = "; ".join(dict.fromkeys(f.reason for f in failures))
                quarantined.append(Quarantined(i, reasons, failures[-1].method))
            else:
                parts.append(part)
                failed += [{"frame_index": i, "start_index": f.start, "reason": f.reason} for f in failures]
            if progress is not None:
                progress(i + 1, len(frames))
        empty = np.zeros((0, n_beads, 3), dtype=np.float32)
        none = np.zeros(0, dtype=np.int64)
        joined = LabelledFrames.concatenate([LabelledFrames(empty, empty, none, none, np.zeros(0)), *parts])
        return LabelledFrames(
            joined.positions,
            joined.forces,
            joined.frame_index,
            joined.start_index,
            joined.force_error,
            quarantined=tuple(quarantined),
            metadata=self.metadata | {"failed_starts": failed},
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON-ready record of model, force map and settings."""
        settings = self.settings
        return {
            "oracle": "openmm",
            "temperature": self.temperature,
            "solvent": self.model.solvent,
            "force_field": self.model.force_field,
            "force_map": self.force_map.kind,
            "force_map_hash": self.force_map.hash,
            "mapping_hash": self.model.mapping.hash,
            "seed": self.seed,
            "backmap_methods": list(self.methods),
            "timestep_fs": settings.timestep_fs,
            "ps_per_frame": settings.ps_per_frame,
            "versions": versions(),
            **asdict(settings),
            "save_ps": settings.stride * settings.timestep_fs / 1000.0,
        }

    def free_rows(self, trajectory: AllAtomTrajectory, frame: int, start: int) -> LabelledFrames:
        """Return the CG rows of free dynamics, as one correlated block."""
        forces = self.force_map.map_forces(trajectory.forces)
        n = len(forces)
        return LabelledFrames(
            positions=self.model.mapping.map_positions(trajectory.positions),
            forces=forces,
            frame_index=np.full(n, frame, dtype=np.int64),
            start_index=np.full(n, start, dtype=np.int64),
            force_error=np.full(n, frame_noise(forces)),
        )

    def backmapper(self, start: int) -> Backmapper:
        """Return the backmapper of a frame's ``start``-th structure. Starts use disjoint library frames."""
        if start not in self._backmappers:
            model, library, n = self.model.implicit, self.library, self.settings.n_starts
            if library is None:
                stretched = stretched_positions(model)[None] if can_stretch(model) else None
                library = AllAtomLibrary(model, stretched)
            elif len(library) >= _MIN_SHARE * n:
                library = AllAtomLibrary(model, library.positions[start::n])
            seed = derive_seed(self.seed, "start", start)
            self._backmappers[start] = Backmapper(model, library=library, methods=self.methods, seed=seed)
        return self._backmappers[start]

    def _label_one(
        self, frame: NDArray[np.float32], index: int
    ) -> tuple[LabelledFrames | None, list[_FailedStart]]:
        """Return the rows of one frame (None if every start failed), and the starts that failed."""
        if not np.isfinite(frame).all():
            return None, [_FailedStart(0, "coordinates are not finite", "")]
        failures: list[_FailedStart] = []
        done: list[tuple[int, AllAtomTrajectory]] = []
        for start in range(self.settings.n_starts):
            result = self._run_start(frame, start)
            if isinstance(result, _FailedStart):
                failures.append(result)
            else:
                done.append((start, result))
        if not done:
            return None, failures
        if self.settings.mode != "mean_force":
            return LabelledFrames.concatenate([self.free_rows(t, index, s) for s, t in done]), failures
        force, force_error = mean_and_error([self.force_map.map_forces(t.forces) for _, t in done])
        row = LabelledFrames(
            frame[None],
            force[None].astype(np.float32),
            frame_index=np.array([index]),
            start_index=np.array([0]),
            force_error=np.array([force_error]),
        )
        return row, failures

    def _run_start(self, frame: NDArray[np.float32], start: int) -> AllAtomTrajectory | _FailedStart:
        """Backmap, run the dynamics and screen its last frame."""
        backmapper = self.backmapper(start)
        steered = self.settings.mode == "steered"
        result = backmapper.nearest(frame) if steered else backmapper.run(frame[None])[0]
        if not result.ok:
            return _FailedStart(start, f"backmapping: {result.reason}", result.method)
        origin = frame.mean(axis=0, dtype=np.float64)  # forces are single precision: keep coordinates small
        try:
            trajectory = _DYNAMICS[self.settings.mode](
                self.model,
                result.positions - origin,
                frame - origin,
                self.settings,
                self.temperature,
                derive_seed(self.seed, "label", hash_array(frame), start),
            )
        except DynamicsFailure as error:
            return _FailedStart(start, str(error), result.method)
        verdict = screen(trajectory.positions[-1], backmapper.puller.tables, omega_min=_DYNAMICS_OMEGA_MIN)
        assert isinstance(verdict, Screen)
        if not verdict:
            return _FailedStart(start, f"after the dynamics: {'; '.join(verdict.reasons)}", result.method)
        return trajectory
