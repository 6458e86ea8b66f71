"""Make a data store from all-atom trajectories, with the forces of files or computed ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.components.build import openmm_oracle
from cgal_plugin.components.seed_data import is_whole
from cgal_plugin.config import Config, load_yaml
from cgal_plugin.data import DataStore
from cgal_plugin.data.temperature import common_temperature, same_temperature
from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.exchange.trajectory_pieces import ImportPlan, Piece, SoluteFrames, import_piece, pieces_of
from cgal_plugin.exchange.trajectory_plan import check_files, make_plan
from cgal_plugin.exchange.trajectory_preview import preview
from cgal_plugin.exchange.trajectory_record import RECORD, constraints_of, describe, is_finished, make_record
from cgal_plugin.exchange.trajectory_store import Shards, by_file, check_map, fit_map, library_frames
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.file_lock import LOCK
from cgal_plugin.mapping.embedding import CGAL
from cgal_plugin.mapping.forces import ForceMap
from cgal_plugin.mapping.spec import resolve_spec
from cgal_plugin.provenance import hash_object, versions, write_json
from cgal_plugin.runs.layout import FORCE_MAP, LIBRARY, WORK
from cgal_plugin.runs.store_lock import locked_store

if TYPE_CHECKING:
    from cgal_plugin.oracle import OpenMMOracle

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class ImportResult:
    """The store of an import, its number of frames, and what was read and assumed, one line each."""

    store: DataStore
    n_frames: int
    lines: tuple[str, ...]


def import_trajectories(
    trajectories: Sequence[_Path],
    out: _Path,
    *,
    topology: _Path | None = None,
    config: Config | _Path | None = None,
    temperature: float | None = None,
    mapping: Any = None,
    embedding: Any = None,
    forces: Sequence[_Path] = (),
    force_unit: str | None = None,
    recompute: bool = False,
    stride: int = 1,
    force_map: str | _Path | None = None,
    block_ps: float | None = None,
    workers: int | None = None,
    message: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import all-atom trajectories. A second call resumes.

    Parameters
    ----------
    trajectories
        Files in formats of mdtraj: XTC, TRR, DCD, NetCDF, HDF5, PDB, ...; each is one simulation.
    out
        Folder of the data store.
    topology
        All-atom structure or topology file of the trajectories' atoms; default: those of the user's own
        system (``system.force_field``), or else ``system.structure`` of the configuration.
    config
        Configuration of the run that will use the store, or its file: its system computes forces that files
        do not have, and checks those that they have. Without it, every trajectory needs forces.
    temperature
        K; default: that of the configuration. Required without one.
    mapping, embedding
        CG mapping and embedding; default: those of the configuration, or CA and ``cgal``.
    forces
        One ``.npy`` or ``.npz`` file per trajectory, ``(n_frames, n_atoms, 3)``, with ``force_unit``:
        one of :data:`~cgal_plugin.units.FORCE_UNITS`. TRR files have forces of their own.
    recompute
        Compute all forces, also where files have them.
    stride
        Keep every ``stride``-th frame of each trajectory.
    force_map
        ``"optimal"``, ``"basic"``, or a file with the map of other data; default: that of the configuration.
    block_ps
        Length of the blocks that data sets are split by, ps; default: at least 20 blocks in all.
    workers
        Processes; default: those of the configuration, or 1.
    message
        Called with each line that says what was read or assumed.
    progress
        Called as ``progress(frames done, total frames)``.

    Raises
    ------
    DataError
        Files are missing, damaged, given twice or do not fit each other; a trajectory has no forces and there
        is no configuration; forces are in another unit or of another force field; the temperature differs.
    """
    if config is not None and not isinstance(config, Config):
        config = load_yaml(config, new=[("seed_data", "store")])
    files, force_files = [Path(p) for p in trajectories], [Path(p) for p in forces]
    root = Path(out)
    if stride < 1:
        raise DataError(f"stride {stride} must be 1 or more")
    if block_ps is not None and not block_ps > 0:
        raise DataError(f"block_ps {block_ps} must be positive")
    _check_out(root)
    digests = check_files(files, force_files)
    oracle, top, kelvin, kind = _system(config, topology, temperature, force_map, (mapping, embedding), files)
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if message is not None:
            message(text)

    for line in [] if oracle is None or oracle.model.record is None else oracle.model.record.lines():
        say(line)
    spec = None if oracle is not None else resolve_spec(mapping or "CA", embedding or CGAL)
    plan = make_plan(
        files,
        force_files,
        top,
        force_unit=force_unit,
        recompute=recompute,
        oracle=oracle,
        mapping=spec,
        ignore=() if config is None else config.system.ignore,
    )
    for text in describe(plan, stride):
        say(text)
    found = preview(plan, stride, kelvin)
    for text in found.lines:
        say(text)
    constraints, text = constraints_of(plan, oracle, found.constraints)
    say(text)
    check_map(plan, constraints, kind)
    record = make_record(plan, oracle, top, digests, force_files, kelvin, stride, kind, block_ps)
    folder = root.absolute() / WORK  # workers may have another working directory
    pieces = pieces_of(plan, stride, folder / "frames")
    with locked_store(root):
        if not is_finished(root, record):
            _compute(plan, pieces, folder, config, workers, progress)
            # a map that was written before the import ended stays: shards may have been mapped with it
            old = root / FORCE_MAP
            fitted, text = fit_map(plan, pieces, constraints, old if is_whole(old, ForceMap.load) else kind)
            say(text)
            store = _write(plan, pieces, root, fitted, kelvin, record, block_ps, say)
            if oracle is not None:
                from cgal_plugin.oracle.library import AllAtomLibrary

                AllAtomLibrary(oracle.model, library_frames(pieces)).save(root / LIBRARY)
            write_json(root / RECORD, record | {"finished": True, "lines": lines, "versions": versions()})
            shutil.rmtree(folder)
        else:
            store = DataStore(root)
            say(f"{root} was finished before; nothing is computed again")
    return ImportResult(store, sum(int(store.record(n)["n_frames"]) for n in store.names()), tuple(lines))


def _check_out(root: Path) -> None:
    """Refuse a folder with other content, before anything is read."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{str(root)!r} is a file; choose a folder")
    if root.is_dir() and {p.name for p in root.iterdir()} - {LOCK} and not (root / RECORD).is_file():
        raise DataError(
            f"{str(root)!r} contains other files and is not a store of imported trajectories; choose "
            "another folder"
        )


def _system(
    config: Config | None,
    topology: _Path | None,
    temperature: float | None,
    force_map: str | _Path | None,
    own: tuple[Any, Any],
    files: Sequence[Path],
) -> tuple[OpenMMOracle | None, Path | None, float, str | _Path]:
    """Return the oracle of the run, the topology file, the temperature and the kind of force map."""
    own_system = config is not None and config.system.force_field is not None
    top = topology
    if top is None and config is not None and not own_system:
        top = config.system.structure
    if top is None and not own_system:
        raise ConfigError(
            "give the topology of the trajectories' atoms (--topology): a structure file with all atoms in "
            "their order"
        )
    if top is not None and not Path(top).is_file():
        raise DataError(f"topology {os.fspath(top)!r} does not exist")
    if config is None:
        kelvin = common_temperature(files, temperature)
        if kelvin is None:
            raise ConfigError(
                "give the temperature of the simulations (--temperature): a potential of mean force belongs "
                "to one temperature"
            )
        assert top is not None
        return None, Path(top), kelvin, force_map or "optimal"
    if any(value is not None for value in own):
        raise ConfigError(
            "mapping and embedding are those of the configuration (system.mapping, system.embedding)"
        )
    kelvin = config.system.temperature
    same_temperature(kelvin, temperature, "the configuration", "--temperature")
    common_temperature(files, kelvin, what="the configuration")
    path = None if top is None else Path(top)
    return openmm_oracle(config), path, kelvin, force_map or config.seed_data.force_map


def _compute(
    plan: ImportPlan,
    pieces: Sequence[Piece],
    folder: Path,
    config: Config | None,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the missing pieces, in parallel."""
    todo = [piece for piece in pieces if not is_whole(piece.path, SoluteFrames.load)]
    total = sum(len(p.rows) for p in pieces)
    done = total - sum(len(p.rows) for p in todo)

    def count(index: int, n_frames: int) -> None:
        nonlocal done
        done += n_frames
        if progress is not None:
            progress(done, total)

    if progress is not None:
        progress(done, total)
    default = 0 if config is None else config.executor
    map_tasks(
        import_piece,
        todo,
        count,
        workers=default if workers is None else workers,
        shared=plan.absolute(),
        limited=False,
        folder=folder,
        names=[piece.path.stem for piece in todo],
    )


def _write(
    plan: ImportPlan,
    pieces: Sequence[Piece],
    root: Path,
    force_map: ForceMap,
    temperature: float,
    record: dict[str, Any],
    block_ps: float | None,
    say: Callable[[str], None],
) -> DataStore:
    """Write the force map and the shards."""
    store = DataStore.create(
        root,
        plan.mapping.topology,
        temperature=temperature,
        force_map_hash=force_map.hash,
        config_hash=hash_object(record),
    )
    if not (root / FORCE_MAP).exists():
        force_map.save(root / FORCE_MAP)
    metadata = {
        "oracle": "import",
        "temperature": temperature,
        "force_map": force_map.kind,
        "force_map_hash": force_map.hash,
        **{key: record[key] for key in ("mapping_hash", "solvent", "force_field", "system_sha256", "stride")},
    }
    facts = [{key: row[key] for key in ("file", "sha256")} for row in record["trajectories"]]
    shards = Shards(plan, store, force_map, metadata, facts, block_ps)
    for file, own in by_file(pieces):
        shards.write(file, own)
    for note in shards.notes:
        say(note)
    return store
