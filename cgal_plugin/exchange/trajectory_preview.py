"""Check a few frames of every trajectory before an import computes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.data.bond_lengths import CELL, check_unit, find_broken
from cgal_plugin.data.periodic import whole_by_bonds
from cgal_plugin.data.trajectories import OWN_UNIT
from cgal_plugin.errors import DataError
from cgal_plugin.exchange.trajectory_pieces import ImportPlan, SoluteFrames
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, FORCE_UNITS, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: frames and files of the sample; frames of each file whose forces are computed for comparison
_FRAMES, _FILES, _COMPARED = 12, 10, 3
#: Å; two files with equal last frames are one simulation
_SAME = 0.02
#: Å, standard deviation of the length of a bond that is constrained: coordinates of XTC files are rounded
#: to 0.01 Å, which gives 0.004; a flexible bond has 0.02 or more at 300 K
_RIGID = 0.01
_FEWEST = 10  # frames that tell a rigid bond
#: kcal/mol/Å, rms over components of the force on heavy atoms that is possible for a protein
_POSSIBLE = (4.0, 150.0)
#: rms difference of given and computed forces, relative: equal but for rounding and cutoffs; or another
#: system
_EQUAL, _DIFFERENT = 0.05, 0.35
#: frames whose velocities are read; relative difference of temperatures that is an error
_VELOCITIES, _TEMPERATURE = 100, 0.05
#: correlation of forces in another unit
_ALIKE = 0.9


@dataclass(frozen=True, eq=False)
class Preview:
    """What a few frames of the trajectories show.

    Attributes
    ----------
    constraints
        ``(n, 2)`` int64: pairs of solute atoms whose distance is constant in the trajectories.
    lines
        What was found, one line each.
    """

    constraints: NDArray[np.int64]
    lines: tuple[str, ...]


def preview(plan: ImportPlan, stride: int, temperature: float) -> Preview:
    """Read a few frames of every file and check them.

    Raises
    ------
    DataError
        Two files are one simulation; coordinates are in another unit or bonds are impossible; forces are in
        another unit, are gradients, or are those of another system; or velocities are those of another
        temperature (K).
    """
    _refuse_copies(plan)
    lines: list[str] = []
    samples: list[SoluteFrames] = []
    chosen = np.unique(np.linspace(0, len(plan.files) - 1, min(len(plan.files), _FILES)).round().astype(int))
    for k in chosen.tolist():
        file = plan.files[k]
        rows = file.rows[::stride]
        _check_velocities(plan, k, temperature)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _FRAMES)).round().astype(int))]
        given = file.force_file is not None and not plan.recomputed[k]
        sample = _positions(plan, k, rows)
        beads = plan.mapping.map_positions(sample.astype(np.float64))
        check_unit(beads, plan.mapping.topology, str(file.path), remedy=OWN_UNIT)
        broken = find_broken(beads, plan.mapping.topology)
        if broken is not None and 2 * len(broken.rows) > len(beads):
            raise broken.error(str(file.path), CELL)
        if given:
            frames = plan.read(k, rows, compute=False)
            if not len(frames.rows):
                raise DataError(_unit_text(plan, k, "forces that are not finite or impossibly large", None))
            _check_size(plan, k, frames.forces)
            if plan.recompute is not None:
                lines += _compare(plan, k, rows[:: -(-len(rows) // _COMPARED)])
        samples.append(SoluteFrames(sample, sample, np.zeros(len(rows)), rows))
    return Preview(_rigid(plan, samples, lines), tuple(lines))


def _positions(plan: ImportPlan, k: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return whole solutes, without forces.

    Raises
    ------
    DataError
        A coordinate is not finite.
    """
    frames = plan.files[k].read(rows, plan.topology, forces=False)
    xyz: NDArray[np.floating] = frames.positions[:, plan.solute]
    bad = np.flatnonzero(~np.isfinite(xyz).all(axis=(1, 2)))
    if bad.size:
        raise DataError(f"{plan.files[k].path} has coordinates that are not finite (frame {rows[bad[0]]})")
    if frames.cells is not None:
        xyz, _ = whole_by_bonds(xyz, frames.cells, plan.bonds)
    return xyz.astype(np.float32)


def _refuse_copies(plan: ImportPlan) -> None:
    """Refuse files that hold the same simulation, also in another format.

    Replicas may begin with the same frame; they never end with the same one.
    """
    if len(plan.files) < 2:
        return
    last = np.concatenate([_positions(plan, k, file.rows[-1:]) for k, file in enumerate(plan.files)])
    for k in range(1, len(last)):
        same = np.flatnonzero(np.abs(last[:k] - last[k]).max(axis=(1, 2)) < _SAME)
        if same.size:
            raise DataError(
                f"{plan.files[same[0]].path} and {plan.files[k].path} end with the same frame: they hold one "
                "simulation twice. Give each simulation once (a TRR file with forces rather than its XTC)"
            )


def _check_velocities(plan: ImportPlan, k: int, temperature: float) -> None:
    """Compare the kinetic temperature with that of the import.

    Heavy atoms without hydrogens count: they have no constraints, and repartitioning leaves their masses.
    """
    file = plan.files[k]
    chosen = np.linspace(0, len(file.rows) - 1, min(len(file.rows), _VELOCITIES)).astype(int)
    found = file.velocities(file.rows[np.unique(chosen)])
    bonded = set(plan.hydrogen_bonds.reshape(-1).tolist())
    alone = sorted(set(range(len(plan.solute))) - plan.hydrogens - bonded)
    if found is None or not alone:
        return
    atoms = [plan.topology.atom(int(plan.solute[i])) for i in alone]
    mass = np.array([a.element.mass for a in atoms])
    energy = np.einsum("a,fax,fax->", mass, found[:, plan.solute[alone]], found[:, plan.solute[alone]])
    n = 3 * len(found) * len(atoms)
    kelvin = float(energy) / n / (BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL)
    error = float(np.sqrt(2.0 / n))
    if abs(kelvin / temperature - 1.0) > max(_TEMPERATURE, 4 * error):
        raise DataError(
            f"{file.path}: the velocities are those of {kelvin:.0f} K (±{kelvin * error:.0f}), the "
            f"temperature is {temperature:g} K: a potential of mean force belongs to one temperature. Give "
            "that of the simulation"
        )


def _check_size(plan: ImportPlan, k: int, forces: NDArray[np.floating]) -> None:
    """Check the size of given forces, which tells most wrong units without a system."""
    heavy = np.ones(len(plan.solute), dtype=bool)
    heavy[list(plan.hydrogens)] = False
    rms = float(np.sqrt(np.mean(np.square(forces[:, heavy], dtype=np.float64))))
    if _POSSIBLE[0] <= rms <= _POSSIBLE[1]:
        return
    unit = plan.files[k].force_unit
    others = [
        name
        for name, factor in FORCE_UNITS.items()
        if _POSSIBLE[0] <= rms / FORCE_UNITS[unit] * factor <= _POSSIBLE[1]
    ]
    raise DataError(
        _unit_text(plan, k, f"forces of {rms:.3g} kcal/mol/Å (rms over heavy atoms), taken as {unit}", others)
    )


def _unit_text(plan: ImportPlan, k: int, found: str, others: list[str] | None) -> str:
    low, high = _POSSIBLE
    text = f"{plan.files[k].force_file} has {found}; those of a protein have {low:g} to {high:g} kcal/mol/Å"
    if others:
        return f"{text}. The unit may be {' or '.join(others)} (--force-unit)"
    return f"{text}. Check its unit (--force-unit), and that it has forces"


def _compare(plan: ImportPlan, k: int, rows: NDArray[np.int64]) -> list[str]:
    """Compare given forces with those of the run's system.

    Forces are summed over each heavy atom and its hydrogens: forces along bonds to hydrogen cancel, which
    differ with rounded coordinates and with constraints.

    Raises
    ------
    DataError
        They differ: by a unit, by the sign, or otherwise.
    """
    file = plan.files[k]
    given, own = plan.read(k, rows, compute=False), plan.read(k, rows, compute=True)
    common = np.intersect1d(given.rows, own.rows)
    if not len(common):
        raise DataError(
            f"{file.path}: the run's system gives no finite forces for its frames; do system and trajectory "
            "belong together?"
        )
    a, b = (_grouped(plan, f.forces[np.isin(f.rows, common)]) for f in (given, own))
    scale = float(np.vdot(a, b) / np.vdot(b, b))
    alike = float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))
    difference = float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))
    if difference <= _DIFFERENT:
        text = f"{file.force_file}: forces agree with those of the run's system"
        if difference > _EQUAL:
            text += ", but not exactly (rounded coordinates, other cutoffs?)"
        return [f"{text}: rms difference {100 * difference:.2g} %"]
    if abs(alike) > _ALIKE:
        unit = file.force_unit
        for name, factor in FORCE_UNITS.items():
            ratio = abs(scale) * factor / FORCE_UNITS[unit]
            if name != unit and abs(ratio - 1) < 0.1:
                raise DataError(
                    f"{file.force_file}: the forces are {abs(scale):.4g} times those of the run's system, "
                    f"the ratio of {unit} and {name}: give --force-unit {name}"
                )
        if scale < 0:
            raise DataError(
                f"{file.force_file}: the forces are minus those of the run's system: these are "
                "gradients; save -gradients as forces"
            )
    raise DataError(
        f"{file.force_file}: the forces differ by {100 * difference:.0f} % (rms) from those of the run's "
        f"system (scale {scale:.3g}, correlation {alike:.2g}): another force field or solvent, or another "
        "order of atoms. Labels of the run would not fit these data: use the system of the simulation "
        "(oracle.solvent, system.force_field), or compute all forces with the run's system (--recompute)"
    )


def _grouped(plan: ImportPlan, forces: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the forces summed over each heavy atom and its hydrogens, ``(n, n_heavy, 3)``."""
    total = np.asarray(forces, dtype=np.float64).copy()
    for i, j in plan.hydrogen_bonds.tolist():
        h, parent = (i, j) if i in plan.hydrogens else (j, i)
        total[:, parent] += total[:, h]
    heavy = np.ones(total.shape[1], dtype=bool)
    heavy[list(plan.hydrogens)] = False
    return total[:, heavy]


def _rigid(plan: ImportPlan, samples: list[SoluteFrames], lines: list[str]) -> NDArray[np.int64]:
    """Return the bonds and the angles at hydrogens whose length is constant in the trajectories."""
    none = np.zeros((0, 2), dtype=np.int64)
    pairs = np.array([*plan.bonds, *_angles(plan)], dtype=np.int64).reshape(-1, 2)
    n = sum(len(s.rows) for s in samples)
    if n < _FEWEST or not len(pairs):
        lines.append(f"constraints were not measured: {n} frames are too few")
        return none
    xyz = np.concatenate([s.positions for s in samples]).astype(np.float64)
    length = np.linalg.norm(xyz[:, pairs[:, 0]] - xyz[:, pairs[:, 1]], axis=-1)
    rigid: NDArray[np.int64] = pairs[length.std(axis=0) < _RIGID]
    return rigid


def _angles(plan: ImportPlan) -> list[tuple[int, int]]:
    """Return the ends of the angles that end with a hydrogen, which some programs constrain."""
    neighbours: dict[int, list[int]] = {}
    for i, j in plan.bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    found = []
    for ends in neighbours.values():
        pairs = [(a, b) for n, a in enumerate(ends) for b in ends[n + 1 :]]
        found += [pair for pair in pairs if plan.hydrogens & set(pair)]
    return found
