"""Settings of the all-atom dynamics of one label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cgal_plugin.config.oracle import OpenMMOracleConfig
from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.checks import check_number
from cgal_plugin.oracle.forcefield import LONGEST_STEP_FS
from cgal_plugin.oracle.trajectory import steps_for
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

MODES = ("free", "steered", "mean_force")
#: fs, for flexible bonds to hydrogens of 1 amu; frozen beads have flexible bonds to theirs, of 3 amu
FLEXIBLE_STEP_FS = 1.0


@dataclass(frozen=True)
class LabelSettings:
    """Mode and length of the all-atom dynamics of a label.

    Attributes
    ----------
    mode
        ``"free"``, ``"steered"`` or ``"mean_force"``.
    production_ps, relax_ps
        Lengths per start, ps. The relaxation is discarded.
    save_ps
        Interval of the saved frames (``free``, ``steered``) or of the averaged forces (``mean_force``), ps,
        rounded to whole time steps.
    n_starts
        All-atom starts per frame.
    restraint
        Force constant of the harmonic restraint of each bead, kcal/mol/Å²; 0 for none. In mode ``free`` it
        holds the bead near the frame during production, in mode ``steered`` it pulls the bead to the frame.
        A bias that acts on the beads alone leaves p(atoms | beads) unchanged, and it is not part of the
        saved forces. These remain unbiased samples of the mean force (Chen, Görlich, Fuchs, Zavadlav,
        arXiv 2510.11148, 2025).
    release_ps
        Last part of ``production_ps`` in mode ``steered``, ps, without restraint. During the pull, the other
        atoms lag behind the beads; here they relax.
    platform, n_threads
        OpenMM platform; threads of the CPU platform.
    longest_step_fs
        Longest time step that the constraints and hydrogen masses of the model allow, fs.

    Raises
    ------
    OracleError
        The mode is unknown, or a value is out of range or does not fit the mode.
    """

    mode: str = "free"
    production_ps: float = 5.0
    relax_ps: float = 2.0
    save_ps: float = 0.04
    n_starts: int = 1
    restraint: float = 0.0
    release_ps: float = 0.0
    platform: str = "CPU"
    n_threads: int = 1
    longest_step_fs: float = LONGEST_STEP_FS

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise OracleError(f"oracle mode {self.mode!r} is not known; use one of {', '.join(MODES)}")
        for name in ("n_starts", "n_threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) and value >= 1):
                raise OracleError(f"{name} = {value!r} must be a whole number of at least 1")
        for name in ("production_ps", "relax_ps", "save_ps", "restraint", "release_ps"):
            check_number(getattr(self, name), name)
        for name in ("relax_ps", "restraint", "release_ps"):
            if getattr(self, name) < 0:
                raise OracleError(f"{name} = {getattr(self, name)!r} must not be negative")
        if self.restraint > 0 and self.mode == "mean_force":
            raise OracleError(f"restraint = {self.restraint!r}: mode mean_force freezes the beads; use 0")
        if self.restraint == 0 and self.mode == "steered":
            raise OracleError("restraint = 0: mode steered needs a restraint of 0.5 to 5 kcal/mol/Å²")
        if self.release_ps > 0 and self.mode != "steered":
            raise OracleError(
                f"release_ps = {self.release_ps!r}: only mode steered releases the restraint; use 0"
            )
        for name in ("save_ps", "production_ps"):
            steps_for(getattr(self, name), self.timestep_fs, name)
        if self.production_ps < self.save_ps:
            raise OracleError(
                f"production_ps = {self.production_ps} is shorter than save_ps = {self.save_ps}: no frame"
            )
        if self.mode == "steered" and self.n_frames - self.n_released < 1:
            raise OracleError(
                f"release_ps = {self.release_ps} leaves no steered frame of "
                f"production_ps = {self.production_ps}; lower release_ps"
            )

    @property
    def timestep_fs(self) -> float:
        """Time step of the mode, fs; half of the longest, but at least 1 fs, with frozen beads."""
        if self.mode != "mean_force":
            return self.longest_step_fs
        return max(self.longest_step_fs / 2, min(self.longest_step_fs, FLEXIBLE_STEP_FS))

    @property
    def stride(self) -> int:
        """Steps between saved frames."""
        return steps_for(self.save_ps, self.timestep_fs, "save_ps")

    @property
    def relax_steps(self) -> int:
        """Steps of the relaxation."""
        return round(self.relax_ps * 1000.0 / self.timestep_fs)

    @property
    def n_frames(self) -> int:
        """Saved frames per start."""
        return max(1, steps_for(self.production_ps, self.timestep_fs, "production_ps") // self.stride)

    @property
    def n_released(self) -> int:
        """Saved frames after the release, out of :attr:`n_frames`."""
        return round(self.release_ps * 1000.0 / self.timestep_fs) // self.stride

    @property
    def force_constant(self) -> float:
        """``restraint`` in OpenMM's unit, kJ/mol/nm²."""
        return self.restraint * KJ_PER_KCAL * ANGSTROM_PER_NM**2

    @property
    def ps_per_frame(self) -> float:
        """All-atom dynamics per labelled CG frame, ps, without backmapping."""
        return self.n_starts * (self.relax_ps + self.production_ps)


def with_defaults(given: Mapping[str, Any], n_residues: int) -> dict[str, Any]:
    """Return settings of a label; what is None is as in a run (section ``oracle``) for ``n_residues``."""
    known = {name: value for name, value in given.items() if value is not None}
    decided = OpenMMOracleConfig.decide(known, n_residues)
    fixed = {"relax_ps": OpenMMOracleConfig.model_fields["relax_ps"].default}
    return fixed | {name: decision.value for name, decision in decided.items()} | known
