"""Label or backmap the frames of a file, outside the loop."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.all_atom import named_model
from cgal_plugin.components.label_job import LabelJob
from cgal_plugin.components.tasks import backmap_chunk
from cgal_plugin.damage import set_aside
from cgal_plugin.data import DataStore
from cgal_plugin.data.store import MAKE_AGAIN
from cgal_plugin.data.temperature import common_temperature
from cgal_plugin.data.trajectories import read_trajectories, tell
from cgal_plugin.errors import CGALWarning, ConfigError, DataError, MappingError
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.resources import Auto, resolve_threads
from cgal_plugin.file_lock import LOCK
from cgal_plugin.provenance import atomic_path, hash_array
from cgal_plugin.runs.layout import FORCE_MAP, WORK
from cgal_plugin.runs.quarantine import Quarantine
from cgal_plugin.runs.store_lock import locked_store
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
    from cgal_plugin.oracle.backmap import BackmapResult
    from cgal_plugin.oracle.options import ReadOptions

#: groups of frames per worker; OpenMM is set up once per group
_CHUNKS = 4
#: settings of a label that are compared with those of the labels in a store
_SETTINGS = (
    "solvent", "mode", "seed", "production_ps", "relax_ps", "save_ps", "n_starts", "restraint", "release_ps",
    "backmap_methods", "force_field",
)  # fmt: skip


def label_file(
    frames: str | os.PathLike[str],
    system: str,
    out: str | os.PathLike[str],
    *,
    top: str | os.PathLike[str] | None = None,
    unit: str = "angstrom",
    workers: int | Auto = "auto",
    message: Callable[[str], None] | None = None,
    temperature: float | None = None,
    **oracle_options: Any,
) -> tuple[int, list[tuple[int, str]]]:
    """Label the frames of a file and add the labels to a data store. A second call resumes.

    Parameters
    ----------
    frames
        Any file that :func:`~cgal_plugin.data.trajectories.load_trajectories` reads.
    system
        One-letter sequence, structure file, or the configuration (YAML) of a run, whose molecule is used.
    out
        Data store. If it exists, labels are added to it with its force map.
    top
        Topology file for formats without one.
    unit
        Length unit of ``.npy`` and ``.npz`` files, ``"angstrom"`` or ``"nm"``.
    workers
        Number of processes; ``"auto"``: one per core that this process may use.
    message
        Called with each line that says what was read.
    temperature
        K; default: that which the frames or the store record.
    **oracle_options
        Options of :class:`~cgal_plugin.oracle.OpenMMOracle`.

    Returns
    -------
    Number of labelled frames, and ``(frame, reason)`` of each frame in quarantine. Their records are in
    ``OUT/quarantine``; the next call tries them again.

    Raises
    ------
    ConfigError
        No temperature is given or recorded.
    CGALError
        Frames, molecule, settings or store are invalid, or do not fit together.
    StateError
        Another process writes to the store.
    """
    from cgal_plugin.oracle import OpenMMOracle

    temperature = common_temperature([frames, out], temperature)
    molecule = {k: oracle_options.pop(k) for k in ("mapping", "solvent", "options") if k in oracle_options}
    model = named_model(system, **molecule)
    oracle = OpenMMOracle(model, temperature=temperature or 300.0, **oracle_options)
    positions = _read(frames, oracle.topology, top, unit)
    if temperature is None:
        raise ConfigError(
            f"{os.fspath(frames)!r} does not record its temperature: give that of the CG potential "
            "(--temperature), because labels belong to one temperature"
        )
    root = Path(out)
    if root.is_dir() and {p.name for p in root.iterdir()} - {LOCK} and not (root / "store.json").exists():
        raise DataError(
            f"{os.fspath(out)!r} contains other files and is not a data store; choose another folder"
        )
    with locked_store(root):
        return _label(frames, positions, oracle, root, workers, message)


def _label(
    frames: str | os.PathLike[str],
    positions: np.ndarray,
    oracle: OpenMMOracle,
    root: Path,
    workers: int | Auto,
    message: Callable[[str], None] | None,
) -> tuple[int, list[tuple[int, str]]]:
    oracle = _with_stored_map(oracle, root)
    store = DataStore.create(
        root, oracle.topology, temperature=oracle.temperature, force_map_hash=oracle.force_map.hash
    )
    if not (root / FORCE_MAP).exists():
        oracle.force_map.save(root / FORCE_MAP)
    # named by content, so that a frame that occurs in several files is labelled once
    names = [f"frame_{hash_array(np.asarray(f, dtype=np.float32))[:16]}" for f in positions]
    quarantine = Quarantine(store.root / "quarantine")
    quarantine.release(all_kinds=True)
    first = sorted({name: i for i, name in reversed(list(enumerate(names)))}.values())
    _say(oracle.model, message)
    _check_settings(store, [n for n in names if n in store], oracle.metadata)
    job = LabelJob(
        positions[first],
        [names[i] for i in first],
        store,
        quarantine,
        store.root / WORK,
        source=os.path.basename(os.fspath(frames)),
        where=os.fspath(frames),
        inputs=lambda i: {"file": os.fspath(frames), "row": first[i], "oracle": oracle.metadata},
    )
    job.run(oracle, workers)
    return sum(name in store for name in names), [
        (i, "; ".join(f["reason"] for f in quarantine.record(names[i])["failures"]))
        for i in first
        if names[i] not in store
    ]


def _with_stored_map(oracle: OpenMMOracle, root: Path) -> OpenMMOracle:
    """Return the oracle with the force map of a store; a damaged one is written again if it is the default.

    Raises
    ------
    DataError
        The map is damaged, and is another one than that of the oracle.
    """
    from cgal_plugin.mapping.forces import ForceMap

    path = root / FORCE_MAP
    if not path.exists():
        return oracle
    try:
        return oracle.with_force_map(ForceMap.load(path))
    except MappingError as error:
        if not (root / "store.json").exists() or DataStore(root).force_map_hash != oracle.force_map.hash:
            raise DataError(f"{error}. {MAKE_AGAIN}") from error
        kept = set_aside(path, root)
        warnings.warn(f"{error}; it is kept in {kept} and written again", CGALWarning, stacklevel=2)
        return oracle


def _check_settings(store: DataStore, names: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Refuse to leave labels in the store that were made with other settings than these.

    Raises
    ------
    DataError
        A label of one of these frames has other settings.
    """
    for name in names:
        found = store.record(name)["metadata"]
        changes = [
            f"{key} {found[key]!r} (now {settings[key]!r})"
            for key in _SETTINGS
            if key in found and key in settings and found[key] != settings[key]
        ]
        if changes:
            raise DataError(
                f"store {store.root} has labels of these frames with other settings: {', '.join(changes)}. "
                "Use the same settings, or another folder"
            )


def backmap_frames(
    frames: np.ndarray, model: AllAtomModel, *, seed: int, workers: int | Auto
) -> list[BackmapResult]:
    """Backmap ``(n, n_beads, 3)`` Å in worker processes; the results do not depend on their number.

    Raises
    ------
    BackmapError
        The frames do not fit the molecule.
    """
    if workers == "auto":  # one process would only be started later than this one
        workers = 0 if resolve_threads("auto", len(frames)) == 1 else resolve_threads("auto", len(frames))
    chunks = np.array_split(frames, min(len(frames), _CHUNKS * max(1, workers)))
    found: dict[int, list[BackmapResult]] = {}
    map_tasks(backmap_chunk, chunks, found.__setitem__, workers=workers, shared=(model, seed), limited=False)
    return [result for i in range(len(chunks)) for result in found[i]]


def backmap_file(
    frames: str | os.PathLike[str],
    system: str,
    out: str | os.PathLike[str],
    *,
    mapping: str = "CA",
    top: str | os.PathLike[str] | None = None,
    unit: str = "angstrom",
    seed: int = 0,
    workers: int | Auto = "auto",
    options: ReadOptions | None = None,
    message: Callable[[str], None] | None = None,
) -> list[BackmapResult]:
    """Backmap the frames of a file; see :func:`label_file` and :func:`backmap_frames`.

    Write the structures that could be built to ``out`` as PDB; write no file if there are none.

    Raises
    ------
    CGALError
        The frames or the molecule cannot be read, or do not fit together.
    """
    import mdtraj

    model = named_model(system, mapping, options=options)
    beads = _read(frames, model.cg_topology, top, unit)
    _say(model, message)
    results = backmap_frames(beads, model, seed=seed, workers=workers)
    good = [result.positions for result in results if result.ok]
    if good:
        trajectory = mdtraj.Trajectory(np.array(good) / ANGSTROM_PER_NM, model.mdtraj_topology)
        atomic_path(out, trajectory.save_pdb)
    return results


def _say(model: AllAtomModel, message: Callable[[str], None] | None) -> None:
    if message is not None and model.record is not None:
        for line in model.record.lines():
            message(line)


def _read(
    frames: str | os.PathLike[str], topology: CGTopology, top: str | os.PathLike[str] | None, unit: str
) -> np.ndarray:
    """Return all frames of a file; backmapping fails for those with impossible bonds, one by one."""
    found = read_trajectories(frames, topology, top=top, unit=unit, broken="keep")
    tell(note for trajectory in found for note in trajectory.notes)
    return np.concatenate([trajectory.positions for trajectory in found])
