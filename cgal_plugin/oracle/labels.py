"""All-atom dynamics of one label: free from a backmapped start, steered to it, or with frozen beads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.oracle.contexts import set_positions
from cgal_plugin.oracle.label_settings import LabelSettings
from cgal_plugin.oracle.restraint import RESTRAINT_GROUP, RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.oracle.solvation import NoRoomError
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import AllAtomTrajectory, DynamicsFailure, advance, collect, minimise

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray

_HOLD = 5000.0  # kJ/mol/nm², restraint of the beads while the other atoms relax
_MINIMISER_STEPS = 100
_HEATING_FRICTION, _FRICTION = 10.0, 1.0  # 1/ps
_MAX_SNAP = 1.0  # Å, largest move of a frozen bead from the start to its target
_STEERED_STAGES = 100  # steps in which the restraint moves to the frame


def free_label(
    model: AllAtomModel,
    start: NDArray[np.floating],
    target: NDArray[np.floating],
    settings: LabelSettings,
    temperature: float,
    seed: int,
) -> AllAtomTrajectory:
    """Run free dynamics from a backmapped start, or with a soft ``restraint`` to the frame.

    Minimise; relax for half of ``relax_ps`` with strongly restrained beads and for the other half as in
    production (both discarded); then run the production.

    Parameters
    ----------
    start
        ``(n_solute, 3)`` Å.
    target
        ``(n_beads, 3)`` Å, the CG frame, in the same orientation as the start.
    temperature
        K.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up.
    """
    placed, shift, context = _restrained(model, start, settings, temperature, seed)
    BeadRestraint(placed.mapping).set_targets(context, target + shift)
    context.setParameter(RESTRAINT_PARAMETER, _HOLD)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    half = settings.relax_steps // 2
    context.getIntegrator().setFriction(_HEATING_FRICTION)
    advance(context, half)
    context.getIntegrator().setFriction(_FRICTION)
    context.setParameter(RESTRAINT_PARAMETER, settings.force_constant)
    advance(context, half)
    # leaving a group out costs one more evaluation per frame
    left_out = RESTRAINT_GROUP if settings.force_constant > 0 else None
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
    """Run dynamics from a correct structure; a soft restraint pulls it to the frame.

    The restraint stays at the beads of the start for ``relax_ps`` (discarded). It then moves in a straight
    line to the frame. It is switched off for the last ``release_ps`` of the production. The samples connect
    the frame with known structures: force matching learns the free energy of a new basin from the forces on
    the path to it, which dynamics within the basin does not visit. The restraint acts on the beads only and
    is not part of the saved forces. These are unbiased if the other atoms follow the beads.

    Parameters as for :func:`free_label`.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up.
    """
    placed, shift, context = _restrained(model, start, settings, temperature, seed)
    restraint = BeadRestraint(placed.mapping)
    origin = placed.mapping.map_positions(placed.positions[: placed.n_solute])
    restraint.set_targets(context, origin)
    context.setParameter(RESTRAINT_PARAMETER, settings.force_constant)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    advance(context, settings.relax_steps)
    parts = []
    stride, n_solute = settings.stride, placed.n_solute
    steered = settings.n_frames - settings.n_released
    for frames in np.array_split(np.arange(steered), min(_STEERED_STAGES, steered)):
        share = (frames[-1] + 1) / steered
        restraint.set_targets(context, origin + share * (target + shift - origin))
        parts.append(
            collect(context, len(frames), stride, n_solute, temperature, without_group=RESTRAINT_GROUP)
        )
    if settings.n_released:
        context.setParameter(RESTRAINT_PARAMETER, 0.0)
        parts.append(collect(context, settings.n_released, stride, n_solute, temperature))
    return AllAtomTrajectory.concatenate(parts)


def frozen_label(
    model: AllAtomModel,
    start: NDArray[np.floating],
    target: NDArray[np.floating],
    settings: LabelSettings,
    temperature: float,
    seed: int,
) -> AllAtomTrajectory:
    """Run dynamics with the bead atoms fixed at the CG frame.

    The bead atoms have mass 0 and no constraint acts on them. The other atoms sample p(r | R) of the
    model in which the bonds between bead atoms and hydrogens are flexible. Fixing Cartesian coordinates
    needs no metric correction.

    Parameters as for :func:`free_label`.

    Raises
    ------
    DynamicsFailure
        The dynamics blew up, or a bead of the start is more than 1 Å from its target.
    """
    placed, shift = _place(model, start, seed)
    atoms = [group[0] for group in placed.mapping.atom_groups]
    positions, goal = placed.positions.copy(), np.asarray(target, dtype=np.float64) + shift
    gap = float(np.linalg.norm(positions[atoms] - goal, axis=1).max())
    if gap > _MAX_SNAP:
        raise DynamicsFailure(
            f"one bead of the backmapped structure is {gap:.2f} Å from the frame (limit {_MAX_SNAP:g} Å)"
        )
    positions[atoms] = goal
    system = placed.make_system(frozen=atoms)
    context = _context(placed, system, settings, temperature, seed)
    set_positions(context, positions)
    minimise(context, _MINIMISER_STEPS)
    context.setVelocitiesToTemperature(temperature, seed)
    half = settings.relax_steps // 2
    context.getIntegrator().setFriction(_HEATING_FRICTION)
    advance(context, half)
    context.getIntegrator().setFriction(_FRICTION)
    advance(context, half)
    return collect(context, settings.n_frames, settings.stride, placed.n_solute, temperature)


def _place(
    model: AllAtomModel, start: NDArray[np.floating], seed: int
) -> tuple[AllAtomModel, NDArray[np.float64]]:
    """Return the model at ``start``, and the shift (Å) that places it in its box."""
    positions = np.asarray(start, dtype=np.float64)
    try:
        placed = model.solvated(positions, seed=seed, minimise=False)
    except NoRoomError as error:
        raise DynamicsFailure(str(error)) from error
    return placed, placed.positions[0] - positions[0]


def _context(
    model: AllAtomModel, system: openmm.System, settings: LabelSettings, temperature: float, seed: int
) -> openmm.Context:
    return model.context(
        temperature,
        system=system,
        timestep_fs=settings.timestep_fs,
        friction=_FRICTION,
        seed=seed,
        n_threads=settings.n_threads,
        platform=settings.platform,
    )


def _restrained(
    model: AllAtomModel, start: NDArray[np.floating], settings: LabelSettings, temperature: float, seed: int
) -> tuple[AllAtomModel, NDArray[np.float64], openmm.Context]:
    """Return the placed model, its shift (Å), and a context with a restraint on the beads."""
    placed, shift = _place(model, start, seed)
    barostat = temperature if model.boxed else None
    system = placed.make_system(bead_restraint=True, barostat=barostat)
    return placed, shift, _context(placed, system, settings, temperature, seed)
