"""Read the frames of a :class:`~cgal_plugin.data.dataset.CGDataset` from a data store or plain files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.arrays import has_delta_forces, is_frames, load_numpy, natural_key
from cgal_plugin.data.bond_lengths import check_bonds, check_unit, find_broken
from cgal_plugin.data.error_weights import source_weights
from cgal_plugin.data.force_checks import doubts
from cgal_plugin.data.pairing import pair_arrays, pair_files
from cgal_plugin.data.store import DataStore
from cgal_plugin.data.trajectories import tell
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import hash_array, hash_object
from cgal_plugin.units import FORCE_UNITS, as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.frames import StoredFrames

_BLOCKS_PER_FILE = 20
#: with more broken frames than this, a store is refused
_MOST_BROKEN = 0.1
_STORE_REMEDY = "whoever wrote the store must write whole molecules in Å"


@dataclass(frozen=True, eq=False)
class FrameTable:
    """All frames of a data set in memory.

    Attributes
    ----------
    topology
        CG topology of the frames.
    temperature
        K, or None if unknown.
    positions, forces
        ``(n, n_beads, 3)`` Å and kcal/mol/Å.
    block
        ``(n,)`` int64, number of the correlated block of each frame.
    source
        ``(n,)`` int64, index into ``sources``.
    sources
        Names: the sources of a store (``seed``, ``round_001``), or file names.
    fingerprint
        SHA-256 of the frames.
    weights
        Source → weight of its frames, from the force errors in a store
        (:func:`~cgal_plugin.data.error_weights.source_weights`).
    notes
        Which frames of a store were left out.
    """

    topology: CGTopology
    temperature: float | None
    positions: NDArray[np.floating]
    forces: NDArray[np.floating]
    block: NDArray[np.int64]
    source: NDArray[np.int64]
    sources: tuple[str, ...]
    fingerprint: str
    weights: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def frame_weights(self) -> NDArray[np.float64]:
        """Return the weight of each frame, ``(n,)``, 1 or more."""
        weights = np.ones(len(self.source))
        for name, weight in self.weights.items():
            weights[self.source == self.sources.index(name)] = weight
        return weights


def read_store(
    root: str | os.PathLike[str], shards: Sequence[str] | None, sources: Sequence[str] | None
) -> FrameTable:
    """Read a :class:`DataStore`, or the chosen shards or sources.

    Frames with an impossible bond are left out, with a warning.

    Raises
    ------
    DataError
        The store is damaged or empty, a chosen shard or source does not exist, more than a tenth of the
        frames have impossible bonds, or the coordinates are in another unit.
    """
    store = DataStore(root)
    names = store.names()
    records = {name: store.record(name) for name in names}
    if shards is not None:
        missing = sorted(set(shards) - set(names))
        if missing:
            raise DataError(f"store {root} has no shards {missing}; it has {names}")
        names = list(shards)
    if sources is not None:
        there = {records[n]["source"] for n in names}
        missing = sorted(set(sources) - there)
        if missing:
            raise DataError(f"store {root} has no frames from {missing}; it has sources {sorted(there)}")
        names = [n for n in names if records[n]["source"] in sources]
    frames = store.load_all(names)
    check_unit(frames.positions, store.topology, f"store {root}", remedy=_STORE_REMEDY)
    kept, notes = _whole(frames, store)
    known = tuple(sorted(set(frames.sources)))
    of_shard = np.array([known.index(s) for s in frames.sources], dtype=np.int64)
    return FrameTable(
        topology=store.topology,
        temperature=store.temperature,
        positions=frames.positions[kept],
        forces=frames.forces[kept],
        block=frames.block[kept],
        source=of_shard[frames.shard[kept]],
        sources=known,
        fingerprint=hash_object([[n, records[n]["sha256"]] for n in names]),
        weights=source_weights(frames),
        notes=notes,
    )


def _whole(frames: StoredFrames, store: DataStore) -> tuple[Any, tuple[str, ...]]:
    """Return which frames of a store to use, and a note of those that have impossible bonds."""
    broken = find_broken(frames.positions, store.topology)
    if broken is None:
        return slice(None), ()
    shard = int(frames.shard[broken.rows[0]])
    row = int(broken.rows[0]) - int(np.argmax(frames.shard == shard))
    text = (
        f"store {store.root}: {len(broken.rows)} of {broken.n} frames have impossible bonds (first: frame "
        f"{row} of shard {frames.names[shard]!r}, {broken.bond})"
    )
    if len(broken.rows) > _MOST_BROKEN * broken.n:
        raise DataError(f"{text}; {_STORE_REMEDY}")
    tell([f"{text}; they are left out"])
    return np.delete(np.arange(broken.n), broken.rows), (text,)


def read_files(
    root: str | os.PathLike[str],
    coords: str | Sequence[str],
    forces: str | Sequence[str],
    topology: str | os.PathLike[str] | CGTopology | None,
    *,
    mapping: Any = "CA",
    embedding: Any = None,
    temperature: float | None = None,
    length_unit: str = "angstrom",
    force_unit: str | None = None,
) -> FrameTable:
    """Read ``.npy`` files (one trajectory each) or ``.npz`` files (arrays named ``coords`` and ``forces``).

    Coordinate and force files belong together by name and number, see
    :func:`~cgal_plugin.data.pairing.pair_files`; an npz file may be given as both.

    Raises
    ------
    DataError
        A pattern matches no file, counts or shapes differ, values are not finite, bonds are impossible, the
        names do not say which files belong together, the topology is missing or has another number of
        beads, or a unit is unknown.
    """
    if force_unit is None:
        if length_unit == "nm":
            raise DataError(
                f"length_unit nm needs force_unit too, one of {sorted(FORCE_UNITS)}: programs that write nm "
                "usually write kJ/mol/nm"
            )
        force_unit = "kcal/mol/angstrom"
    if force_unit not in FORCE_UNITS:
        raise DataError(f"force_unit {force_unit!r} is not known; use one of {sorted(FORCE_UNITS)}")
    if topology is None:
        raise DataError("coords and forces need a topology: give a structure file or a saved CG topology")
    top = (
        topology if isinstance(topology, CGTopology) else CGTopology.from_file(_find(root, topology), mapping)
    )
    top = top if embedding is None else top.with_embedding(embedding)
    pairs = pair_files(
        _expand(root, "coords", coords),
        _expand(root, "forces", forces),
        listed=not any(glob.has_magic(str(p)) for p in (*_listed(coords), *_listed(forces))),
    )
    positions, targets, blocks, sources, offset = [], [], [], [], 0
    for number, (c, f) in enumerate(pairs):
        for (name, xyz), (force_name, force) in _arrays(c, f):
            xyz = as_angstrom(_checked(name, xyz), length_unit)
            force = _checked(force_name, force) * FORCE_UNITS[force_unit]
            if xyz.shape != force.shape:
                raise DataError(f"{force_name} has shape {force.shape}, {name} {xyz.shape}; they must agree")
            if xyz.shape[1] != top.n_beads:
                raise DataError(f"{name} has {xyz.shape[1]} beads; {top!r} has {top.n_beads}")
            if len(xyz) == 0:
                raise DataError(f"{name} has no frames")
            check_bonds(xyz, top, name, unit_remedy="give length_unit: {unit} in dataset_arg")
            positions.append(xyz)
            targets.append(force)
            pieces = min(len(xyz), _BLOCKS_PER_FILE)
            blocks.append(offset + np.arange(len(xyz)) * pieces // len(xyz))
            offset += pieces
            sources.append(number)
    dtype = np.result_type(*[a.dtype for a in positions + targets], np.float32)
    xyz, force = (np.concatenate(a).astype(dtype, copy=False) for a in (positions, targets))
    rms = float(np.sqrt(np.mean(np.square(force, dtype=np.float64))))
    delta = [str(f) for _, f in pairs if has_delta_forces(f)]
    tell(doubts(rms, FORCE_UNITS[force_unit], str(pairs[0][1]), delta))
    return FrameTable(
        topology=top,
        temperature=None if temperature is None else float(temperature),
        positions=xyz,
        forces=force,
        block=np.concatenate(blocks).astype(np.int64),
        source=np.repeat(sources, [len(a) for a in positions]).astype(np.int64),
        sources=_names([c for c, _ in pairs]),
        fingerprint=hash_array(xyz, force),
    )


def _find(root: str | os.PathLike[str], name: str | os.PathLike[str]) -> Path:
    """Return the path of a file: absolute, under ``root``, or under the working directory."""
    under = Path(root).expanduser() / name
    return under if under.exists() else Path(name).expanduser()


def _names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the file names; with their folders if two are equal."""
    names = tuple(path.name for path in files)
    return names if len(set(names)) == len(names) else tuple(str(path) for path in files)


def _listed(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _expand(root: str | os.PathLike[str], key: str, patterns: str | Sequence[str]) -> list[Path]:
    """Return the files that the patterns match, those of one pattern in the order of their numbers."""
    found: list[Path] = []
    folder = Path(root).expanduser()
    for pattern in _listed(patterns):
        literal = _find(root, pattern)
        if literal.is_file():
            found.append(literal)
            continue
        # root_dir: the folder's own name may have brackets
        matches = [folder / m for m in glob.glob(str(pattern), root_dir=folder)]
        matches = matches or [Path(m) for m in glob.glob(str(pattern))]
        if not matches:
            raise DataError(f"{key}: no file matches {pattern!r}, under {str(root)!r} or {os.getcwd()!r}")
        found += sorted(matches, key=lambda m: natural_key(str(m)))
    return found


def _arrays(coords: Path, forces: Path) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Yield the trajectories of two files that belong together, each with its name for messages."""
    one, two = list(load_numpy(coords)), list(load_numpy(forces, role="forces"))
    if len(one) != len(two):
        raise DataError(f"{coords} has {len(one)} trajectories, {forces} has {len(two)}; they must agree")
    order = pair_arrays((coords, [name for name, _ in one]), (forces, [name for name, _ in two]))
    yield from zip(one, (two[k] for k in order), strict=True)


def _checked(name: str, array: NDArray[Any]) -> NDArray[np.floating]:
    if not is_frames(array):
        raise DataError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected (n_frames, n_beads, 3)"
        )
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise DataError(f"{name}: {bad.size} of {len(array)} frames are not finite (first: frame {bad[0]})")
    return array
