"""All-atom trajectories for seed and reference data, their start structures, and force maps from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.forces import ForceMap, basic_force_map, optimal_force_map, slice_force_map
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.oracle.label_settings import LabelSettings
from cgal_plugin.oracle.peptide import EXTENDED_PHI, EXTENDED_PSI
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.oracle.trajectory import (
    AllAtomTrajectory,
    DynamicsFailure,
    advance,
    collect,
    common_temperature,
    minimise,
    steps_for,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_HEATING_FRICTION, _FRICTION = 10.0, 1.0  # 1/ps
_HEATING_SHARE = 0.5  # fraction of the equilibration with the higher friction


def run_dynamics(
    model: AllAtomModel,
    start: NDArray[np.floating],
    picoseconds: float,
    settings: LabelSettings,
    *,
    temperature: float,
    seed: int,
    equilibrate_ps: float,
    progress: Callable[[int, int], None] | None = None,
) -> AllAtomTrajectory:
    """Run free dynamics from ``start`` ``(n_solute, 3)`` Å; see :meth:`OpenMMOracle.run`."""
    if equilibrate_ps < 0:
        raise OracleError(f"equilibrate_ps = {equilibrate_ps!r} must not be negative")
    n_frames = steps_for(picoseconds, settings.timestep_fs, "picoseconds") // settings.stride
    if n_frames < 1:
        raise OracleError(
            f"picoseconds = {picoseconds} is shorter than save_ps = {settings.save_ps}: no frame"
        )
    placed = model.solvated(start, seed=seed)
    context = placed.context(
        temperature,
        system=placed.make_system(barostat=temperature if model.boxed else None),
        timestep_fs=settings.timestep_fs,
        friction=_HEATING_FRICTION,
        seed=seed,
        n_threads=settings.n_threads,
        platform=settings.platform,
    )
    try:
        minimise(context, 100)
        context.setVelocitiesToTemperature(temperature, seed)
        steps = round(equilibrate_ps * 1000.0 / settings.timestep_fs)
        advance(context, round(steps * _HEATING_SHARE))
        context.getIntegrator().setFriction(_FRICTION)
        advance(context, steps - round(steps * _HEATING_SHARE))
        return collect(context, n_frames, settings.stride, placed.n_solute, temperature, progress)
    except DynamicsFailure as error:
        raise OracleError(f"{model.sequence} at {temperature:g} K: {error}") from error


def start_positions(model: AllAtomModel, start: str | ArrayLike) -> NDArray[np.float64]:
    """Return ``(n_solute, 3)`` Å of ``"folded"``, ``"extended"``, ``"auto"``, or of the coordinates given.

    Raises
    ------
    OracleError
        The name is unknown, the molecule has no fold or cannot be stretched, the shape is wrong, or
        coordinates are not finite.
    """
    if isinstance(start, str):
        if start == "auto":
            start = "folded" if model.folded else "extended"
        if start == "folded":
            check_fold(model, start)
            return native_positions(model)
        if start == "extended":
            return stretched_positions(model.implicit)
        raise OracleError(f"start {start!r} is not known; use auto, folded, extended or coordinates in Å")
    positions = np.asarray(start, dtype=np.float64)
    if positions.shape != (model.n_solute, 3) or not np.isfinite(positions).all():
        raise OracleError(
            f"start positions have shape {positions.shape}; "
            f"expected finite ({model.n_solute}, 3) in Å, in the order of atom_topology"
        )
    return positions


def check_fold(model: AllAtomModel, start: str) -> None:
    """Check that the molecule has a fold to start from.

    Raises
    ------
    OracleError
        It was built as a stretched chain.
    """
    if not model.folded:
        raise OracleError(
            f"start {start!r} needs a fold, but {model.sequence} was built from its sequence as a stretched "
            "chain: give a structure file (system.structure), or use start auto or extended"
        )


def native_positions(model: AllAtomModel) -> NDArray[np.float64]:
    """Return a copy of the solute's positions in the model, ``(n_solute, 3)`` Å."""
    return np.array(model.positions[: model.n_solute])


def fit_force_map(
    model: AllAtomModel,
    trajectories: Sequence[AllAtomTrajectory],
    temperature: float,
    kind: str,
    max_frames: int,
) -> ForceMap:
    """Return a force map of ``kind``; see :meth:`OpenMMOracle.fit_force_map`."""
    if kind == "slice":
        return slice_force_map(model.mapping)
    if kind == "basic":
        return basic_force_map(model.mapping, model.constraints)
    if kind != "optimal":
        raise OracleError(f"force map {kind!r} is not known; use optimal, basic or slice")
    common_temperature(trajectories, temperature)
    forces = np.concatenate([t.forces for t in trajectories])
    rows = np.unique(np.linspace(0, len(forces) - 1, min(len(forces), max_frames)).round().astype(int))
    return optimal_force_map(model.mapping, forces[rows], model.constraints)


def stretched_positions(model: AllAtomModel) -> NDArray[np.float64]:
    """Rotate the backbone to an extended strand and minimise; return ``(n_atoms, 3)`` Å.

    Raises
    ------
    OracleError
        A bond links residues that are not neighbours (a disulfide), so the chain cannot be stretched.
    """
    check_stretch(model)
    xyz = np.array(model.positions)
    for chain in model.topology.chains():
        residues = list(chain.residues())
        names = [{a.name: a.index for a in r.atoms()} for r in residues]
        for i, (residue, atoms) in enumerate(zip(residues, names, strict=True)):
            if not {"N", "CA", "C"} <= set(atoms):
                continue
            later = [index for following in names[i + 1 :] for index in following.values()]
            if i > 0 and "C" in names[i - 1] and residue.name != "PRO":
                fixed = {"N", "CA", "H", "HN", "H1", "H2", "H3", "HT1", "HT2", "HT3"}
                moved = [index for name, index in atoms.items() if name not in fixed] + later
                quad = (names[i - 1]["C"], atoms["N"], atoms["CA"], atoms["C"])
                _turn(xyz, quad, moved, EXTENDED_PHI)
            if i + 1 < len(names) and "N" in names[i + 1]:
                moved = [atoms[name] for name in ("O",) if name in atoms] + later
                quad = (atoms["N"], atoms["CA"], atoms["C"], names[i + 1]["N"])
                _turn(xyz, quad, moved, EXTENDED_PSI)
    return model.minimise(xyz)


def check_stretch(model: AllAtomModel) -> None:
    """Check that the molecule is one chain without bridges, which can be stretched.

    Raises
    ------
    OracleError
        There are several chains, or a disulfide.
    """
    remedy = "start from 'auto' or 'folded' (in Python also from coordinates)"
    n_chains = model.implicit.topology.getNumChains()
    if n_chains > 1:
        raise OracleError(f"{model.sequence} has {n_chains} chains and cannot be stretched; {remedy}")
    for a, b in model.topology.bonds():
        left, right = a.residue, b.residue
        if abs(left.index - right.index) > 1 or {a.name, b.name} == {"SG"}:
            raise OracleError(
                f"{left.name}{left.id} and {right.name}{right.id} are linked, so the chain cannot be "
                f"stretched; {remedy}"
            )


def can_stretch(model: AllAtomModel) -> bool:
    """Return whether :func:`stretched_positions` can stretch the molecule."""
    try:
        check_stretch(model)
    except OracleError:
        return False
    return True


def _turn(
    xyz: NDArray[np.float64], quad: tuple[int, int, int, int], moved: list[int], degrees: float
) -> None:
    """Rotate ``moved`` about the middle bond of ``quad``, in place, to a dihedral of ``degrees``."""
    origin, axis = xyz[quad[1]].copy(), xyz[quad[2]] - xyz[quad[1]]
    axis = axis / np.linalg.norm(axis)
    angle = np.radians(degrees) - float(dihedral_angles(xyz[list(quad)]))
    v = xyz[moved] - origin
    along = v @ axis
    xyz[moved] = (
        origin
        + v * np.cos(angle)
        + np.cross(axis, v) * np.sin(angle)
        + np.outer(along, axis) * (1.0 - np.cos(angle))
    )
