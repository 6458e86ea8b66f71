"""The data store of an import of all-atom trajectories: force map, shards, backmapping library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.data.bond_lengths import find_broken
from cgal_plugin.data.file_blocks import file_blocks
from cgal_plugin.errors import DataError, MappingError
from cgal_plugin.exchange.trajectory_pieces import ImportPlan, Piece, SoluteFrames
from cgal_plugin.mapping.forces import MIN_FRAMES, ForceMap, basic_force_map, optimal_force_map
from cgal_plugin.oracle.force_error import frame_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: frames for the force map, and forces of atoms in memory for it
_MAP_FRAMES, _MAP_ATOMS = 20_000, 10_000_000
#: frames of a shard
_SHARD = 20_000
#: frames of the backmapping library
_LIBRARY = 500
#: ps; with frames this close, the noise of a single force is known
_DENSE = 0.1
#: fraction of the frames that may be left out
_MOST_LEFT_OUT = 0.1


def check_map(plan: ImportPlan, constraints: NDArray[np.int64], kind: str | os.PathLike[str]) -> None:
    """Check that there is a valid force map, before forces are computed; see :func:`fit_map`."""
    if kind not in ("optimal", "basic") and not Path(kind).is_file():
        raise MappingError(
            f"force_map {os.fspath(kind)!r} is neither optimal, basic nor the file of a map (force_map.npz "
            "of another store)"
        )
    fit_map(plan, (), constraints, "basic" if kind == "optimal" else kind)


def fit_map(
    plan: ImportPlan, pieces: Sequence[Piece], constraints: NDArray[np.int64], kind: str | os.PathLike[str]
) -> tuple[ForceMap, str]:
    """Return the force map, and a line about it.

    Parameters
    ----------
    constraints
        ``(n, 2)`` pairs of solute atoms whose distance is constrained.
    kind
        ``"optimal"``, ``"basic"``, or a file with a map.

    Raises
    ------
    MappingError
        The map of the file is for another molecule or does not fit the constraints; or there is no valid map.
    """
    if kind not in ("optimal", "basic"):
        given = ForceMap.load(kind)
        given.check(plan.mapping, constraints)
        return given, f"force map: {given.kind}, from {os.fspath(kind)}"
    try:
        if kind == "basic":
            return basic_force_map(plan.mapping, constraints), "force map: basic"
        most = max(MIN_FRAMES, min(_MAP_FRAMES, _MAP_ATOMS // len(plan.solute)))
        forces = _sample(pieces, most, "forces")
        if len(forces) < MIN_FRAMES:
            text = f"{len(forces)} frames are too few for the optimal one ({MIN_FRAMES})"
            return basic_force_map(plan.mapping, constraints), f"force map: basic, because {text}"
        found = optimal_force_map(plan.mapping, forces, constraints)
    except MappingError as error:
        raise MappingError(f"{error}{_heavy_constraints(plan, constraints)}") from error
    rms, basic = (found.diagnostics[key] for key in ("rms_held_out", "rms_slice"))
    return found, (
        f"force map: optimal, fitted on {len(forces)} frames; rms of bead forces {rms:.3g} kcal/mol/Å on "
        f"held-out frames, {basic:.3g} without a map"
    )


def _heavy_constraints(plan: ImportPlan, constraints: NDArray[np.int64]) -> str:
    heavy = [p for p in constraints.tolist() if not plan.hydrogens & set(p)]
    if not heavy:
        return ""
    names = [plan.topology.atom(int(plan.solute[i])) for i in heavy[0]]
    return (
        f". {len(heavy)} bonds between heavy atoms have a constant length in the trajectories (such as "
        f"{names[0]} to {names[1]}): they are constrained, and forces in files lack the constraint forces. "
        "Simulate with constraints on bonds to hydrogen only (GROMACS: constraints = h-bonds)"
    )


def _sample(pieces: Sequence[Piece], most: int, name: str) -> NDArray[np.float32]:
    """Return evenly spaced frames of all pieces, ``(n, n_solute, 3)``, n at most ``most``."""
    counts = [_length(piece.path) for piece in pieces]
    total = sum(counts)
    rows = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = []
    for piece, lo, hi in zip(pieces, starts, starts[1:], strict=False):
        own = rows[(rows >= lo) & (rows < hi)] - lo
        if len(own):
            found.append(getattr(SoluteFrames.load(piece.path), name)[own])
    if not found:
        raise DataError("no frame of the trajectories has usable positions and forces")
    return np.concatenate(found)


def _length(path: Path) -> int:
    with np.load(path, allow_pickle=False) as data:
        return len(data["rows"])


@dataclass
class Shards:
    """Write the shards of an import; :attr:`n_frames` and :attr:`notes` say what was written.

    Attributes
    ----------
    plan, store, force_map
        What is imported, where, and how forces are mapped.
    metadata
        For every shard.
    facts
        Of each file, for the records of its shards.
    block_ps
        Length of a block, ps; None: at least 20 blocks in all.
    """

    plan: ImportPlan
    store: DataStore
    force_map: ForceMap
    metadata: dict[str, Any]
    facts: Sequence[dict[str, Any]]
    block_ps: float | None

    def __post_init__(self) -> None:
        self.n_frames = 0
        self.notes: list[str] = []

    def write(self, file: int, pieces: Sequence[Piece]) -> None:
        """Map the frames of a file and add its shards; existing ones are kept.

        Raises
        ------
        DataError
            More than a tenth of the frames are broken.
        """
        source = self.plan.files[file]
        frames, n_left_out = self._beads(file, pieces)
        times = np.concatenate([f.times for f in frames])
        rows = np.concatenate([f.rows for f in frames])
        n = len(rows)
        if n_left_out > _MOST_LEFT_OUT * (n + n_left_out):
            raise DataError(
                f"{source.path}: {n_left_out} of {n + n_left_out} frames have impossible bonds, or "
                "positions or forces that are not finite or impossibly large: do trajectory, topology and "
                "system belong together?"
            )
        if n_left_out:
            self.notes.append(
                f"{source.path}: {n_left_out} of {n + n_left_out} frames are left out (impossible bonds or "
                "forces)"
            )
        divided = file_blocks(times, rows, str(source.path), len(self.plan.files), self.block_ps)
        self.notes += divided.notes
        own = dict(self.metadata)
        if divided.interval_ps is not None:
            own |= {"mode": "free", "save_ps": divided.interval_ps, "restraint": 0.0, "release_ps": 0.0}
        joined = {
            name: np.concatenate([getattr(f, name) for f in frames]) for name in ("positions", "forces")
        }
        dense = divided.interval_ps is not None and divided.interval_ps <= _DENSE
        noise = frame_noise(joined["forces"]) if dense else float("nan")
        labelled = LabelledFrames(
            frame_index=divided.block,
            start_index=divided.segment,
            force_error=np.full(n, noise),
            positions=joined["positions"],
            forces=joined["forces"],
            metadata=own | {"forces": "computed" if self.plan.recomputed[file] else "file"},
        )
        count = -(-n // _SHARD)
        stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in source.path.stem)[:40]
        for part, index in enumerate(np.array_split(np.arange(n), count)):
            name = f"t{file:04d}_{stem}" + (f"_{part:03d}" if count > 1 else "")
            if name not in self.store:
                self.store.append(name, _part(labelled, index), source=source.path.name, **self.facts[file])
        self.n_frames += n

    def _beads(self, file: int, pieces: Sequence[Piece]) -> tuple[list[SoluteFrames], int]:
        """Return the beads of a file; frames with impossible bonds are left out and counted."""
        found, n_left_out = [], 0
        for piece in pieces:
            if piece.file != file:
                continue
            frames = SoluteFrames.load(piece.path)
            n_left_out += frames.n_left_out
            beads = self.plan.mapping.map_positions(frames.positions)
            forces = self.force_map.map_forces(frames.forces)
            broken = find_broken(beads, self.plan.mapping.topology)
            kept: Any = slice(None) if broken is None else np.delete(np.arange(len(beads)), broken.rows)
            n_left_out += 0 if broken is None else len(broken.rows)
            found.append(
                replace(
                    frames,
                    positions=np.asarray(beads[kept], dtype=np.float32),
                    forces=np.asarray(forces[kept], dtype=np.float32),
                    times=frames.times[kept],
                    rows=frames.rows[kept],
                )
            )
        return found, n_left_out


def _part(frames: LabelledFrames, rows: NDArray[np.int64]) -> LabelledFrames:
    names = ("positions", "forces", "frame_index", "start_index", "force_error")
    arrays: dict[str, Any] = {name: getattr(frames, name)[rows] for name in names}
    return replace(frames, **arrays)


def library_frames(pieces: Sequence[Piece]) -> NDArray[np.float32]:
    """Return evenly spaced frames for the backmapping library, ``(n, n_solute, 3)`` Å."""
    return _sample(pieces, _LIBRARY, "positions")


def by_file(pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Piece]]]:
    """Yield each file with its pieces."""
    for file in sorted({p.file for p in pieces}):
        yield file, [p for p in pieces if p.file == file]
