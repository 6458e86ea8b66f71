"""Comparison of a model with the reference ensemble of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgal_plugin.config import Config
from cgal_plugin.data.arrays import load_numpy
from cgal_plugin.data.temperature import common_temperature
from cgal_plugin.data.times import Interval, lag_in_frames, resolve_interval
from cgal_plugin.data.trajectories import Trajectory, read_trajectories, tell
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.provenance import derive_seed, hash_array, hash_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.analysis.markov_states import ReferenceStates, Reweighting
    from cgal_plugin.analysis.tica import TICAModel


class ReferenceEvaluator:
    """Compare the samples of a model with the reference of the configuration.

    Raises
    ------
    DataError
        The reference cannot be read or is for another molecule, or its times contradict the configuration
        (raised on first use).
    """

    def __init__(self, config: Config, topology: CGTopology) -> None:
        self.config = config
        self.topology = topology

    @property
    def lag_frames(self) -> int:
        """TICA lag in frames of the reference."""
        return self._lag("lag_ps")[0]

    def _lag(self, key: str) -> tuple[int, tuple[str, ...]]:
        return lag_in_frames(getattr(self.config.evaluation, key), self.interval, f"evaluation.{key}")

    @cached_property
    def files(self) -> list[dict[str, str]]:
        """``file`` and ``sha256`` of each file of the reference, of its topology and of its forces."""
        test = self.config.tested
        others = self.config.evaluation.reference_topology, None if test is None else test.reference_forces
        files = [*self.config.evaluation.reference, *(path for path in others if path is not None)]
        return [{"file": str(path), "sha256": hash_path(path)} for path in files if path.exists()]

    def is_that_of(self, manifest: Mapping[str, Any]) -> bool:
        """Return whether the reference has the content that it had in the test of this manifest.

        Names do not matter, so that a project can be moved.
        """
        recorded = manifest["inputs"].get("reference")
        if recorded is not None:
            return [f["sha256"] for f in recorded] == [f["sha256"] for f in self.files]
        before = manifest["results"].get("provenance", {}).get("reference_sha256")
        return before in (None, hash_array(*self.reference))

    @cached_property
    def _read(self) -> list[Trajectory]:
        evaluation = self.config.evaluation
        _ = self.files  # the content that is read
        found = [
            trajectory
            for path in evaluation.reference
            for trajectory in read_trajectories(
                path, self.topology, top=evaluation.reference_topology, unit=evaluation.reference_units
            )
        ]
        tell(note for trajectory in found for note in trajectory.notes)
        return found

    @cached_property
    def reference(self) -> list[NDArray[np.floating]]:
        """Reference trajectories, ``(n, n_beads, 3)`` Å each; empty without a reference."""
        return [trajectory.positions for trajectory in self._read]

    @cached_property
    def interval(self) -> Interval:
        """Time between frames of the reference: from its files, from the configuration, or assumed.

        Raises
        ------
        DataError
            The files contradict each other or ``evaluation.reference_interval_ps``.
        """
        found = resolve_interval(
            [(trajectory.name, trajectory.times) for trajectory in self._read],
            self.config.evaluation.reference_interval_ps,
            "evaluation.reference_interval_ps",
        )
        if found.source == "assumed" and self._read:
            tell([found.note])
        return found

    @property
    def notes(self) -> list[str]:
        """What was changed or assumed when the reference was read, one line each."""
        if not self._read:
            return []
        read = (note for t in self._read for note in t.notes)
        return [*read, f"time: {self.interval.note}", *self._short_lags()]

    def _short_lags(self) -> list[str]:
        keys = ("lag_ps", "msm_lag_ps") if self.config.evaluation.reweight else ("lag_ps",)
        return [note for key in keys for note in self._lag(key)[1]]

    @cached_property
    def tica(self) -> TICAModel | None:
        """TICA model of the reference; None without a reference."""
        if not self.reference:
            return None
        from cgal_plugin.analysis.tica import TICAModel, feature_beads

        return TICAModel.fit(self.reference, self.lag_frames, beads=feature_beads(self.topology))

    @cached_property
    def reweighting(self) -> Reweighting | None:
        """Weights of the reference frames by a Markov state model, if ``evaluation.reweight`` is set."""
        evaluation = self.config.evaluation
        if not self.reference or not evaluation.reweight:
            return None
        from cgal_plugin.analysis.markov_states import ReferenceStates, reweight

        assert self.tica is not None
        seed = derive_seed(self.config.seed, "states")
        states = ReferenceStates.fit(self.tica.transform(self.reference), seed=seed)
        return reweight(states, lag_frames=self._lag("msm_lag_ps")[0])

    @cached_property
    def reference_tics(self) -> list[NDArray[np.float64]]:
        """TICs of the reference, ``(n, 2)`` each."""
        assert self.tica is not None
        found: list[NDArray[np.float64]] = self.tica.transform(self.reference)
        return found

    @cached_property
    def states(self) -> ReferenceStates:
        """States of the reference whose visits a test counts."""
        from cgal_plugin.analysis.markov_states import ReferenceStates

        return ReferenceStates.fit(self.reference_tics, seed=0)

    @property
    def frame_weights(self) -> NDArray[np.float64] | None:
        """``(n,)`` weights of all reference frames; None if they are equal."""
        found = None if self.reweighting is None else self.reweighting.weights
        return None if found is None else np.concatenate(found)

    @cached_property
    def forces(self) -> NDArray[np.floating] | None:
        """``(n, n_beads, 3)`` kcal/mol/Å: forces of the reference frames; None without ``reference_forces``.

        Raises
        ------
        DataError
            The file cannot be read, or does not belong to the reference.
        """
        test = self.config.tested
        if test is None or test.reference_forces is None or test.force_frames == 0:
            return None
        path = test.reference_forces
        forces = np.concatenate([array for _, array in load_numpy(path, role="forces")])
        n = sum(len(frames) for frames in self.reference)
        if forces.shape != (n, self.topology.n_beads, 3):
            raise DataError(
                f"test.reference_forces: {path} has forces of shape {forces.shape}; the reference has "
                f"{(n, self.topology.n_beads, 3)}"
            )
        return forces

    def check(self) -> None:
        """Read the reference and fit its TICs, so that errors appear before the first round.

        Raises
        ------
        DataError
            The reference cannot be read, or is for another molecule or temperature.
        AnalysisError
            Its TICs or its Markov state model cannot be fitted.
        """
        evaluation, temperature = self.config.evaluation, self.config.system.temperature
        common_temperature(evaluation.reference, temperature, what="system.temperature")
        if self.reference:
            tell(self._short_lags())
            assert self.tica is not None
            assert self.reweighting is not None or not self.config.evaluation.reweight
            assert self.forces is None or len(self.forces)

    def compare(
        self,
        trajectories: list[NDArray[np.floating]],
        *,
        seed: int,
        n_bootstrap: int = 100,
        on_failure: Literal["raise", "record"] = "raise",
    ) -> dict[str, Any]:
        """Return the results of :func:`cgal_plugin.analysis.evaluate`, without surfaces."""
        from cgal_plugin.analysis import evaluate

        result = evaluate(
            [t for t in trajectories if len(t)],
            self.reference,
            self.topology,
            lag_frames=self.lag_frames,
            temperature=self.config.system.temperature,
            seed=seed,
            tica=self.tica,
            reference_weights=None if self.reweighting is None else self.reweighting.weights,
            n_bootstrap=n_bootstrap,
            on_failure=on_failure,
        )
        facts: dict[str, Any] = {"reference_read": self.notes}
        if self.reweighting is not None:
            facts["reference_weighting"] = self.reweighting.note
        return result.to_dict(surfaces=False) | facts
