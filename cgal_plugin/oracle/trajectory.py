"""All-atom dynamics: run an OpenMM context and collect frames with forces in a trajectory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.errors import CGALError, OracleError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL, KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM

if TYPE_CHECKING:
    import mdtraj
    import openmm
    from numpy.typing import NDArray

#: kcal/mol/Å, upper limit of the force on an atom; thermal forces are below 500
MAX_FORCE = 20_000.0
_ARRAYS = ("positions", "forces", "time_ps", "energies")


class DynamicsFailure(CGALError):
    """The all-atom dynamics blew up. The oracle quarantines the frame or raises an OracleError."""


@dataclass(frozen=True, eq=False)
class AllAtomTrajectory:
    """Frames of the solute with the forces on its atoms.

    Attributes
    ----------
    positions
        ``(n, n_atoms, 3)`` float32 Å.
    forces
        ``(n, n_atoms, 3)`` float32 kcal/mol/Å, without constraint forces.
    time_ps
        ``(n,)`` float64, from the first step after equilibration.
    energies
        ``(n,)`` float64 potential energy of the whole system, kcal/mol.
    temperature
        K.
    """

    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    time_ps: NDArray[np.float64]
    energies: NDArray[np.float64]
    temperature: float

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice) -> AllAtomTrajectory:
        return AllAtomTrajectory(
            self.positions[rows],
            self.forces[rows],
            self.time_ps[rows],
            self.energies[rows],
            self.temperature,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[AllAtomTrajectory]) -> AllAtomTrajectory:
        """Join consecutive pieces, whose times start at 0 each, to one trajectory."""
        ends = np.cumsum([0.0, *(p.time_ps[-1] for p in parts[:-1])])
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS}
        joined["time_ps"] = np.concatenate([p.time_ps + end for p, end in zip(parts, ends, strict=True)])
        return cls(**joined, temperature=parts[0].temperature)

    def to_mdtraj(self, topology: mdtraj.Topology) -> mdtraj.Trajectory:
        """Convert to an ``mdtraj.Trajectory`` (nm, ps); ``topology`` is the model's ``mdtraj_topology``."""
        import mdtraj

        return mdtraj.Trajectory(self.positions / ANGSTROM_PER_NM, topology, time=self.time_ps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.npz``, without pickle."""
        with atomic_write(path) as handle:
            np.savez(
                handle,
                temperature=np.array(self.temperature),
                **{name: getattr(self, name) for name in _ARRAYS},
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AllAtomTrajectory:
        """Read a trajectory written by :meth:`save`.

        Raises
        ------
        OracleError
            The file is missing or is not a saved trajectory.
        """
        if not Path(path).is_file():
            raise OracleError(f"trajectory file {str(path)!r} does not exist")
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as data:
                return cls(**{name: data[name] for name in _ARRAYS}, temperature=float(data["temperature"]))
        except BAD_ARCHIVE as error:
            raise OracleError(f"{str(path)!r} is not a saved all-atom trajectory: {error}") from error


def steps_for(picoseconds: float, timestep_fs: float, name: str) -> int:
    """Round a time to whole time steps (0.05 ps at 4 fs is 12 steps, 0.048 ps).

    Raises
    ------
    OracleError
        The time is not finite or shorter than one step.
    """
    if not np.isfinite(picoseconds) or picoseconds * 1000.0 < timestep_fs * (1 - 1e-9):
        raise OracleError(f"{name} = {picoseconds!r} ps must be at least one time step, {timestep_fs:g} fs")
    return round(picoseconds * 1000.0 / timestep_fs)


def advance(context: openmm.Context, steps: int) -> None:
    """Run ``steps`` steps; raise :class:`DynamicsFailure` if OpenMM fails."""
    from openmm import OpenMMException

    try:
        context.getIntegrator().step(steps)
    except OpenMMException as error:
        raise DynamicsFailure(f"all-atom dynamics failed: {error}") from error


def minimise(context: openmm.Context, max_iterations: int) -> None:
    """Minimise the energy; raise :class:`DynamicsFailure` if OpenMM fails."""
    from openmm import LocalEnergyMinimizer, OpenMMException

    try:
        LocalEnergyMinimizer.minimize(context, maxIterations=max_iterations)
    except OpenMMException as error:
        raise DynamicsFailure(f"minimisation failed: {error}") from error


def collect(
    context: openmm.Context,
    n_frames: int,
    stride: int,
    n_atoms: int,
    temperature: float,
    progress: Callable[[int, int], None] | None = None,
    *,
    without_group: int | None = None,
) -> AllAtomTrajectory:
    """Run ``n_frames * stride`` steps and keep every ``stride``-th frame of the first ``n_atoms`` atoms.

    Forces and energies exclude the force group ``without_group``, if one is given.

    Raises
    ------
    DynamicsFailure
        Coordinates, energy or forces are not finite, or a force exceeds :data:`MAX_FORCE`.
    """
    from openmm import unit

    kj_nm = unit.kilojoule_per_mole / unit.nanometer
    positions = np.empty((n_frames, n_atoms, 3), dtype=np.float32)
    forces = np.empty_like(positions)
    energies = np.empty(n_frames)
    groups = -1 if without_group is None else set(range(32)) - {without_group}
    for k in range(n_frames):
        advance(context, stride)
        state = context.getState(getPositions=True, getForces=True, getEnergy=True, groups=groups)
        xyz = np.asarray(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))[:n_atoms]
        force = np.asarray(state.getForces(asNumpy=True).value_in_unit(kj_nm))[:n_atoms]
        positions[k] = xyz * ANGSTROM_PER_NM
        forces[k] = force * KJ_PER_MOL_NM_TO_KCAL_PER_MOL_ANGSTROM
        energies[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / KJ_PER_KCAL
        largest = float(np.abs(forces[k]).max())
        if not (np.isfinite(energies[k]) and np.isfinite(positions[k]).all() and largest < MAX_FORCE):
            raise DynamicsFailure(
                f"all-atom dynamics blew up at frame {k}: energy {energies[k]:.3g} kcal/mol, "
                f"largest force {largest:.3g} kcal/mol/Å"
            )
        if progress is not None:
            progress(k + 1, n_frames)
    timestep_ps = context.getIntegrator().getStepSize().value_in_unit(unit.picosecond)
    time_ps = np.arange(1, n_frames + 1) * stride * timestep_ps
    return AllAtomTrajectory(positions, forces, time_ps, energies, float(temperature))


def common_temperature(trajectories: Sequence[AllAtomTrajectory], temperature: float) -> None:
    """Check that the trajectories have the oracle's temperature (K).

    Raises
    ------
    OracleError
        The sequence is empty, or a temperature differs.
    """
    if not trajectories:
        raise OracleError("no all-atom trajectory given")
    other = sorted({t.temperature for t in trajectories if abs(t.temperature - temperature) > 1e-6})
    if other:
        raise OracleError(
            f"trajectories at {', '.join(f'{t:g}' for t in other)} K cannot be used at {temperature:g} K: "
            "the mean force depends on temperature"
        )
