"""Make data stores from CG data of other programs, one store per molecule."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data import DataStore, LabelledFrames, Quarantined
from cgal_plugin.data.bond_lengths import NO_CELL, check_unit, find_broken
from cgal_plugin.data.force_checks import check_size
from cgal_plugin.data.raw_data import RawTrajectory
from cgal_plugin.data.raw_layouts import read_raw
from cgal_plugin.data.raw_topology import chosen
from cgal_plugin.errors import DataError
from cgal_plugin.exchange.cg_molecule import ImportPlan, plan_import
from cgal_plugin.provenance import atomic_write, hash_file, hash_object, versions, write_sealed
from cgal_plugin.runs.layout import FORCE_MAP
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.priors import PriorSet

#: record of an import in the folder of its store
IMPORT = "import.json"
_BLOCKS = 20
#: bytes of coordinates and forces in one shard
_SHARD = 64_000_000
_MOST_BROKEN = 0.1


@dataclass(frozen=True)
class ImportedStore:
    """A store of an import, its number of frames, and what was read and assumed, one line each."""

    store: DataStore
    n_frames: int
    lines: tuple[str, ...]


def import_data(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    layout: str | None = None,
    topologies: Sequence[str] = (),
    mapping: Any = "CA",
    embedding: Any = None,
    to_embedding: Any = None,
    temperature: float | None = None,
    length_unit: str | None = None,
    force_unit: str | None = None,
    force_map: str | None = None,
    priors: str | os.PathLike[str] | None = None,
    any_force: bool = False,
    message: Callable[[str], None] | None = None,
) -> list[ImportedStore]:
    """Import CG coordinates and forces. Nothing is written unless all molecules can be imported.

    Parameters
    ----------
    inputs
        Files and folders: the ``.npy`` files of torchmd-cg or mlcg-tk
        (:mod:`~cgal_plugin.data.npy_layout`), mlcg's HDF5, or ``.npz`` files with ``coords``, ``forces`` and
        ``embeddings``.
    out
        Folder of the store; with several molecules, of one store per molecule.
    layout
        ``npy``, ``mlcg-tk``, ``hdf5`` or ``npz``; default: from the files.
    topologies
        Structure file, saved topology or sequence; ``NAME=FILE`` if there are several molecules. Default: the
        structure file of the layout, or the bead types (one chain of CA beads).
    mapping
        CG mapping of the beads.
    embedding
        Embedding that numbers the bead types of the files.
    to_embedding
        Embedding of the stores; default: that of the files.
    temperature
        K. Data of ``cgal export-data`` record it.
    length_unit, force_unit
        ``angstrom`` (default) or ``nm``; one of :data:`~cgal_plugin.units.FORCE_UNITS` (default:
        ``kcal/mol/angstrom``, but it must be given with ``nm``).
    force_map
        A name for the force map of the data. Forces of data sets with one name may be mixed.
    priors
        File of the priors that were subtracted from delta forces; they are added again.
    any_force
        Accept forces of unusual size.
    message
        Called with each line that says what was read and assumed.

    Raises
    ------
    DataError
        Files are missing or damaged or do not belong together; bead types contradict the topology;
        embedding, temperature or unit are missing or wrong; there are delta forces only; frames are not
        finite; more than a tenth of the frames have impossible bonds; or a store exists.
    """
    paths = [Path(path).expanduser() for path in inputs]
    molecules = read_raw(paths, layout)
    given = chosen(topologies, [m.name for m in molecules])
    sha256: dict[Path, str] = {}
    root = Path(out)
    targets = [root] if len(molecules) == 1 else [root / _folder(m.name) for m in molecules]
    for target in targets:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target} exists and is not empty; choose another folder for --out")
    plans = []
    for molecule in molecules:
        for file in molecule.files:
            sha256.setdefault(file, "")
        plans.append(
            plan_import(
                molecule, given.get(molecule.name), mapping=mapping, embedding=embedding,
                to_embedding=to_embedding, temperature=temperature, length_unit=length_unit,
                force_unit=force_unit, force_map=force_map, priors=priors,
            )
        )  # fmt: skip
    for file in sha256:
        sha256[file] = hash_file(file)
    root.parent.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
        for number, plan in enumerate(plans):
            made.append(_write(plan, Path(folder) / str(number), sha256, any_force))
        for number, target in enumerate(targets):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:  # replaces an empty folder, and none that another process has filled meanwhile
                os.replace(Path(folder) / str(number), target)
            except OSError as error:
                raise DataError(
                    f"{target} cannot be written: {error.strerror}; choose another folder"
                ) from error
    stores = [
        ImportedStore(DataStore(target), n, (f"{target}: {n} frames of {plan.topology.sequence}", *lines))
        for target, plan, (n, lines) in zip(targets, plans, made, strict=True)
    ]
    for store in stores:
        for line in store.lines if message is not None else ():
            message(line)  # type: ignore[misc]  # not None here
    return stores


def _folder(name: str) -> str:
    """Return the name of a molecule as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "molecule"


def _write(plan: ImportPlan, root: Path, sha256: dict[Path, str], any_force: bool) -> tuple[int, list[str]]:
    """Write the store of a molecule; return its number of frames, and what was read and assumed."""
    digest = plan.force_map_hash or f"external-{_digest(plan, sha256)}"
    store = DataStore.create(root, plan.topology, temperature=plan.temperature, force_map_hash=digest)
    lines = list(plan.lines)
    if plan.molecule.record:
        n = _restore(plan, store)
        if plan.molecule.force_map_file is not None:
            with atomic_write(root / FORCE_MAP) as handle:
                handle.write(plan.molecule.force_map_file)
    else:
        n, broken, rms = _fill(plan, store, any_force)
        if broken:
            lines.append(f"left out: {broken} frames with impossible bonds")
        lines.append(f"rms of the force components: {rms:.3g} kcal/mol/Å")
    write_sealed(
        root / IMPORT,
        {
            "files": {str(file): sha256[file] for file in plan.molecule.files},
            "lines": lines,
            "n_frames": n,
            "options": plan.options,
            "versions": versions(),
        },
    )
    return n, lines


def _digest(plan: ImportPlan, sha256: dict[Path, str]) -> str:
    return hash_object([sha256[file] for file in plan.molecule.files])[:32]


def _restore(plan: ImportPlan, store: DataStore) -> int:
    """Write the shards that ``cgal export-data`` recorded."""
    (trajectory,) = plan.molecule.trajectories
    labels, lo = plan.molecule.labels, 0
    for shard in plan.molecule.record["shards"]:
        rows = slice(lo, lo + int(shard["n_frames"]))
        positions, forces = _read(plan, trajectory, rows)
        frames = LabelledFrames(
            positions,
            forces,
            labels["frame_index"][rows],
            labels["start_index"][rows],
            labels["force_error"][rows],
            quarantined=tuple(Quarantined(**q) for q in shard["quarantined"]),
            metadata=shard["metadata"],
        )
        store.append(shard["name"], frames, source=shard["source"], **shard["facts"])
        lo = rows.stop
    return lo


def _fill(plan: ImportPlan, store: DataStore, any_force: bool) -> tuple[int, int, float]:
    """Write shards of whole blocks; return the numbers of frames kept and left out, and the rms force."""
    seen = left = 0
    square = 0.0
    for number, trajectory in enumerate(plan.molecule.trajectories):
        for piece, (rows, block) in enumerate(_blocks(len_of(trajectory), plan.topology.n_beads)):
            positions, forces = _read(plan, trajectory, rows)
            check_unit(positions, plan.topology, trajectory.name, remedy="give --units {unit}")
            broken = find_broken(positions, plan.topology)
            keep = np.ones(len(positions), dtype=bool)
            if broken is not None:
                keep[broken.rows] = False
            seen, left = seen + len(keep), left + int(len(keep) - keep.sum())
            if broken is not None and left > _MOST_BROKEN * seen:
                raise broken.error(
                    trajectory.name, f"{NO_CELL}; or give the chains with --topology", rows.start
                )
            square += float(np.square(forces[keep], dtype=np.float64).sum())
            rms = (square / max(1, (seen - left) * positions[0].size)) ** 0.5
            if not any_force:
                check_size(rms, plan.force_factor, trajectory.name)
            if keep.any():
                frames = LabelledFrames(
                    positions[keep],
                    forces[keep],
                    block[keep],
                    np.full(int(keep.sum()), number, dtype=np.int64),
                    np.full(int(keep.sum()), np.nan),
                    metadata={
                        "temperature": plan.temperature,
                        "force_map_hash": store.force_map_hash,
                        "mode": "imported",
                    },
                )
                store.append(
                    f"import_{number:03d}_{piece:04d}",
                    frames,
                    source="imported",
                    file=trajectory.name,
                    first_frame=rows.start,
                    left_out=[rows.start + int(k) for k in np.flatnonzero(~keep)],
                )
    return seen - left, left, rms


def len_of(trajectory: RawTrajectory) -> int:
    """Return the number of frames of a trajectory."""
    return int(trajectory.coords.shape[0])


def _blocks(n: int, n_beads: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Yield rows of whole blocks that fit in a shard, and the number of the block of each."""
    most = max(1, _SHARD // (24 * n_beads))
    pieces = min(n, max(_BLOCKS, -(-n // most)))
    ends = [-(-n * (k + 1) // pieces) for k in range(pieces)]
    lo, first = 0, 0
    for k, end in enumerate(ends):
        if k + 1 == pieces or ends[k + 1] - lo > most:
            block = np.arange(lo, end) * pieces // n
            yield slice(lo, end), block
            lo, first = end, k + 1
    assert first == pieces


def _read(
    plan: ImportPlan, trajectory: RawTrajectory, rows: slice
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return positions (Å) and total forces (kcal/mol/Å) of some rows, in the order of the topology."""
    source = trajectory.delta if plan.priors is not None else trajectory.forces
    assert source is not None  # the plan has checked it
    positions = _finite(trajectory.coords[rows], trajectory.name, "positions", rows.start)
    forces = _finite(source[rows], trajectory.name, "forces", rows.start)
    if plan.order is not None:
        positions, forces = positions[:, plan.order], forces[:, plan.order]
    positions = as_angstrom(positions, plan.length_unit)
    if plan.force_factor != 1.0:
        forces = forces * plan.force_factor
    if plan.priors is not None:
        forces = forces + added_forces(plan.priors, positions)
    return positions, forces


def added_forces(priors: PriorSet, positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the forces of priors, ``(n, n_beads, 3)`` kcal/mol/Å, a thousand frames at a time."""
    from cgal_plugin import register
    from cgal_plugin.priors.evaluate import prior_forces

    register()  # it silences Warp, which prints when TorchMD-Net is imported
    parts = [
        prior_forces(priors, np.asarray(positions[lo : lo + 1000], dtype=np.float64))
        for lo in range(0, len(positions), 1000)
    ]
    return np.concatenate(parts)


def _finite(values: Any, name: str, what: str, first: int) -> NDArray[np.floating]:
    array = np.asarray(values)
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise DataError(
            f"{name}: {what} of {bad.size} of {len(array)} frames are not finite (first: frame "
            f"{first + int(bad[0])}); remove these frames"
        )
    return array
