"""All-atom dynamics of one label: free from a backmapped start, steered to it, or with the beads frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.checks import check_number
from cgal_plugin.oracle.restraint import RESTRAINT_GROUP, RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.oracle.system import AllAtomModel, set_positions
from cgal_plugin.oracle.trajectory import (
    AllAtomTrajectory,
    DynamicsFailure,
    advance,
    collect,
    minimise,
    steps_for,
)
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODES = ("free", "steered", "mean_force")
#: fs; frozen beads have flexible bonds to their hydrogens
TIMESTEP_FS: Mapping[str, float] = {"free": 4.0, "steered": 4.0, "mean_force": 2.0}
_RESTRAINT = 5000.0  # kJ/mol/nm², on the beads while the rest relaxes
_MINIMISER_STEPS = 100
_HEATING_FRICTION, _FRICTION = 10.0, 1.0  # 1/ps
_MAX_SNAP = 1.0  # Å, that a frozen bead may be from its target in the start
_MIN_NOISE_FRAMES = 10
_STEERED_STAGES = 100  # in which the springs of a steered label travel


@dataclass(frozen=True)
class LabelSettings:
    """How much all-atom dynamics a label costs.

    Attributes
    ----------
    mode
        ``"free"``, ``"steered"`` or ``"mean_force"``.
    production_ps, relax_ps
        Per start; the relaxation is discarded.
    save_ps
        Interval of the frames (``free``) or of the averaged forces (``mean_force``); the nearest
        whole number of time steps is used.
    n_starts
        All-atom starts a frame.
    restraint
        kcal/mol/Å², of modes ``free`` (spring that holds each bead near the frame during the production)
        and ``steered`` (spring that draws it there).
        A bias that acts on the beads alone leaves p(atoms | beads) as it is, and it is not in the forces
        that are kept, so that they stay unbiased samples of the mean force (Chen, Görlich,
        Fuchs, Zavadlav, arXiv 2510.11148, 2025). 0: none.
    release_ps
        The last ps of ``production_ps`` of mode ``steered``, in which the springs are off: the rest of the
        molecule, which lags behind beads that are drawn, catches up.
    platform, n_threads
        OpenMM platform; threads of the CPU platform.
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
            raise OracleError(f"restraint = {self.restraint!r}: in mode mean_force beads are frozen")
        if self.restraint == 0 and self.mode == "steered":
            raise OracleError("restraint = 0: mode steered needs springs, of 0.5 to 5 kcal/mol/Å²")
        if self.release_ps > 0 and self.mode != "steered":
            raise OracleError(f"release_ps = {self.release_ps!r}: only mode steered has springs to let go of")
        for name in ("save_ps", "production_ps"):
            steps_for(getattr(self, name), self.timestep_fs, name)
        if self.production_ps < self.save_ps:
            raise OracleError(
                f"production_ps = {self.production_ps} is shorter than save_ps = {self.save_ps}: no frame"
            )
        if self.mode == "steered" and self.n_frames - self.n_released < 1:
            raise OracleError(
                f"release_ps = {self.release_ps} leaves no frame of production_ps = {self.production_ps} to "
                "steer in; lower it"
            )

    @property
    def timestep_fs(self) -> float:
        """Time step of the mode, fs."""
        return TIMESTEP_FS[self.mode]

    @property
    def stride(self) -> int:
        """Steps between saved frames."""
        return steps_for(self.save_ps, self.timestep_fs, "save_ps")

    @property
    def n_frames(self) -> int:
        """Saved frames a start."""
        return max(1, steps_for(self.production_ps, self.timestep_fs, "production_ps") // self.stride)

    @property
    def n_released(self) -> int:
        """Of :attr:`n_frames`, those after the springs are off."""
        return round(self.release_ps * 1000.0 / self.timestep_fs) // self.stride

    @property
    def spring(self) -> float:
        """``restraint`` in OpenMM's unit, kJ/mol/nm²."""
        return self.restraint * KJ_PER_KCAL * ANGSTROM_PER_NM**2

    @property
    def ps_per_frame(self) -> float:
        """All-atom dynamics that one labelled CG frame costs, ps (backmapping apart)."""
        return self.n_starts * (self.relax_ps + self.production_ps)


def free_label(
    model: AllAtomModel,
    start: NDArray[np.floating],
    target: NDArray[np.floating],
    settings: LabelSettings,
    temperature: float,
    seed: int,
) -> AllAtomTrajectory:
    """Free dynamics from a backmapped start, or with a soft ``restraint`` to the frame.

    Minimise, relax with the beads held for half of ``relax_ps`` and as in production for the other half
    (none of it kept), then production.

    Parameters
    ----------
    start
        ``(n_solute, 3)`` Å.
    target
        ``(n_beads, 3)`` Å, the CG frame, superposed as the start is.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up.
    """
    placed, shift, context = _with_springs(model, start, settings, temperature, seed)
    BeadRestraint(placed.mapping).set_targets(context, target + shift)
    context.setParameter(RESTRAINT_PARAMETER, _RESTRAINT)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    half = _relax_steps(settings) // 2
    context.getIntegrator().setFriction(_HEATING_FRICTION)
    advance(context, half)
    context.getIntegrator().setFriction(_FRICTION)
    context.setParameter(RESTRAINT_PARAMETER, settings.spring)
    advance(context, half)
    # leaving a group out costs one more evaluation a frame
    left_out = RESTRAINT_GROUP if settings.spring > 0 else None
    n = settings.n_frames
    return collect(context, n, settings.stride, placed.n_solute, temperature, without_group=left_out)


def steered_label(
    model: AllAtomModel,
    start: NDArray[np.floating],
    target: NDArray[np.floating],
    settings: LabelSettings,
    temperature: float,
    seed: int,
) -> AllAtomTrajectory:
    """Dynamics from a structure that is known to be sound, drawn to the frame by soft springs.

    The springs rest at the start's beads for ``relax_ps`` (not kept) and travel in a straight line during
    the production but its last ``release_ps``, which are without them. What is sampled joins the frame to
    what is known: force matching learns the free energy of a new basin from the forces on the way to it,
    which dynamics within the basin never sees. As with ``restraint`` in mode free the bias acts on beads
    only and is not in the forces that are kept; they are unbiased as far as the rest of the molecule follows.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up.
    """
    placed, shift, context = _with_springs(model, start, settings, temperature, seed)
    springs = BeadRestraint(placed.mapping)
    origin = placed.mapping.map_positions(placed.positions[: placed.n_solute])
    springs.set_targets(context, origin)
    context.setParameter(RESTRAINT_PARAMETER, settings.spring)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    advance(context, _relax_steps(settings))
    parts = []
    steered = settings.n_frames - settings.n_released
    for frames in np.array_split(np.arange(steered), min(_STEERED_STAGES, steered)):
        share = (frames[-1] + 1) / steered
        springs.set_targets(context, origin + share * (target + shift - origin))
        parts.append(
            collect(
                context,
                len(frames),
                settings.stride,
                placed.n_solute,
                temperature,
                without_group=RESTRAINT_GROUP,
            )
        )
    if settings.n_released:
        context.setParameter(RESTRAINT_PARAMETER, 0.0)
        parts.append(collect(context, settings.n_released, settings.stride, placed.n_solute, temperature))
    return AllAtomTrajectory.concatenate(parts)


def frozen_label(
    model: AllAtomModel,
    start: NDArray[np.floating],
    target: NDArray[np.floating],
    settings: LabelSettings,
    temperature: float,
    seed: int,
) -> AllAtomTrajectory:
    """Dynamics with the bead atoms fixed exactly at the CG frame; see :func:`free_label`.

    The bead atoms have mass 0 and no constraint touches them, so the other atoms sample
    p(r | R) of the model whose bonds between bead atoms and hydrogens are flexible. Fixing Cartesian
    coordinates needs no metric correction.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up, or the start's beads are more than 1 Å from the target.
    """
    placed, shift = _place(model, start, seed)
    atoms = [group[0] for group in placed.mapping.atom_groups]
    positions, goal = placed.positions.copy(), np.asarray(target, dtype=np.float64) + shift
    gap = float(np.linalg.norm(positions[atoms] - goal, axis=1).max())
    if gap > _MAX_SNAP:
        raise DynamicsFailure(f"the backmapped structure is {gap:.2f} Å from the frame at one bead")
    positions[atoms] = goal
    system = placed.make_system(frozen=atoms)
    context = _context(placed, system, settings, temperature, seed)
    set_positions(context, positions)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    half = _relax_steps(settings) // 2
    context.getIntegrator().setFriction(_HEATING_FRICTION)
    advance(context, half)
    context.getIntegrator().setFriction(_FRICTION)
    advance(context, half)
    return collect(context, settings.n_frames, settings.stride, placed.n_solute, temperature)


def frame_noise(mapped: NDArray[np.floating]) -> float:
    """Noise of one frame's mapped force from a dense series ``(n, n_beads, 3)``; NaN below 10 frames.

    Half the mean squared successive difference (von Neumann et al. 1941), square root, rms over
    components. The mean force hardly changes between frames 0.02 to 0.1 ps apart while its noise is
    decorrelated (design.md §7), so this is the noise and not the signal.
    """
    if len(mapped) < _MIN_NOISE_FRAMES:
        return float("nan")
    return float(np.sqrt(0.5 * np.mean(np.diff(np.asarray(mapped, dtype=np.float64), axis=0) ** 2)))


def mean_and_error(series: list[NDArray[np.floating]]) -> tuple[NDArray[np.float64], float]:
    """Mean force of a frame over its starts, and the standard error of it (rms over components).

    Parameters
    ----------
    series
        One ``(n, n_beads, 3)`` series of mapped forces a start.

    Returns
    -------
    ``(n_beads, 3)`` mean of the starts' means. The error is the starts' spread / √n_starts, which
    holds the slow side-chain states that a single start cannot show; with one start only, five
    block means stand in (too small, as a rule), and NaN where there are fewer than ten frames.
    """
    means = np.stack([np.mean(s, axis=0, dtype=np.float64) for s in series])
    if len(series) == 1:
        if len(series[0]) < _MIN_NOISE_FRAMES:
            return means[0], float("nan")
        blocks = np.array_split(np.asarray(series[0], dtype=np.float64), 5)
        samples = np.stack([b.mean(axis=0) for b in blocks])
    else:
        samples = means
    variance = samples.var(axis=0, ddof=1) / len(samples)
    return means.mean(axis=0), float(np.sqrt(variance.mean()))


def _place(
    model: AllAtomModel, start: NDArray[np.floating], seed: int
) -> tuple[AllAtomModel, NDArray[np.float64]]:
    """The model at ``start``, and by how much (Å) it was moved to fit a box."""
    start = np.asarray(start, dtype=np.float64)
    if model.solvent != "tip3pfb":
        return replace(model, positions=start), np.zeros(3)
    boxed = model.solvated(start, seed=seed, minimise=False)
    return boxed, boxed.positions[0] - start[0]


def _context(model: AllAtomModel, system: Any, settings: LabelSettings, temperature: float, seed: int) -> Any:
    return model.context(
        temperature,
        system=system,
        timestep_fs=settings.timestep_fs,
        friction=_FRICTION,
        seed=seed,
        n_threads=settings.n_threads,
        platform=settings.platform,
    )


def _with_springs(
    model: AllAtomModel, start: NDArray[np.floating], settings: LabelSettings, temperature: float, seed: int
) -> tuple[AllAtomModel, NDArray[np.float64], Any]:
    """The placed model, by how much it was moved (Å), and a context with springs on its beads."""
    placed, shift = _place(model, start, seed)
    barostat = temperature if model.solvent == "tip3pfb" else None
    system = placed.make_system(bead_restraint=True, barostat=barostat)
    return placed, shift, _context(placed, system, settings, temperature, seed)


def _relax_steps(settings: LabelSettings) -> int:
    return round(settings.relax_ps * 1000.0 / settings.timestep_fs)
