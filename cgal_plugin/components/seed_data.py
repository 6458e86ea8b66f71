"""Sources of the first labelled frames: all-atom trajectories, or an existing data store."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cgal_plugin.components.pdb_file import check_pdb, save_pdb
from cgal_plugin.components.protocols import SeedSource
from cgal_plugin.components.resources import with_workers
from cgal_plugin.components.tasks import SeedTask, write_trajectory
from cgal_plugin.config import Config
from cgal_plugin.damage import DAMAGED, set_aside
from cgal_plugin.data import DataStore
from cgal_plugin.data.reserved import ReservingStore, copy_withheld
from cgal_plugin.data.store import MAKE_AGAIN
from cgal_plugin.errors import BackmapError, CGALError, CGALWarning, ConfigError, DataError
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.provenance import atomic_path, derive_seed, read_json, write_json
from cgal_plugin.runs.layout import FORCE_MAP, LIBRARY, WORK
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import MANIFEST

if TYPE_CHECKING:
    from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
    from cgal_plugin.oracle.trajectory import AllAtomTrajectory
    from cgal_plugin.oracle.trajectory_task import TrajectoryTask

#: start structure; temperature above that of the run (K) and length (ps) of the dynamics that unfolds it
_FOLDED, _EXTENDED = ("folded", 0.0, 0.0), ("extended", 0.0, 0.0)
_STARTS = {
    "folded": (_FOLDED,),
    "extended": (_EXTENDED,),
    "mixed": (_FOLDED, _EXTENDED),
    "diverse": (_FOLDED, ("folded", 0.0, 200.0), ("folded", 100.0, 100.0), _EXTENDED),
}


#: what was read from the structure or sequence (file of the seed stage)
STRUCTURE = "structure.json"


class OpenMMSeeds:
    """All-atom trajectories at the temperature of the run, their force map and their backmapping library.

    Files of the stage: ``trajectory_*.npz``, ``force_map.npz``, ``library.npz``, ``native.pdb``,
    ``structure.json``.

    Raises
    ------
    OracleError
        The start that the configuration names does not exist for this molecule.
    """

    def __init__(self, config: Config, oracle: OpenMMOracle) -> None:
        self.config = config
        self.oracle = oracle
        self.topology = oracle.topology
        self.force_map_hash = ""
        self.starts = _starts(config.seed_data.start, oracle)
        self._trajectories: list[AllAtomTrajectory] = []

    @property
    def record(self) -> StructureRecord:
        """What was read from the structure or sequence, and where the trajectories start."""
        record = self.oracle.model.record or StructureRecord()
        start = self.config.seed_data.start
        names = [name for name, hotter, heat_ps in self.starts]
        chosen = f"{start} ({names[0]})" if start == "auto" else start
        return record.with_fact("notes", f"start of the seed trajectories: {chosen}")

    @property
    def oracle_ns(self) -> float:
        """All-atom MD of the seed data, ns."""
        data = self.config.seed_data
        heating = sum(self._task(i).heat_ps for i in range(data.n_trajectories))
        total: float = (data.n_trajectories * (data.picoseconds + data.equilibration_ps) + heating) / 1000
        return total

    def prepare(self, out_dir: Path, progress: Progress | None = None) -> None:
        """Run the missing trajectories, fit the force map and build the backmapping library."""
        from cgal_plugin.mapping.forces import ForceMap
        from cgal_plugin.oracle.library import AllAtomLibrary
        from cgal_plugin.oracle.trajectory import AllAtomTrajectory

        paths = [out_dir / f"trajectory_{i:03d}.npz" for i in range(self.config.seed_data.n_trajectories)]
        self._run_missing(paths, progress)
        self._trajectories = [AllAtomTrajectory.load(p) for p in paths]
        complete = (out_dir / MANIFEST).exists()  # its files are intact, and do not change
        map_path, library_path, native = (out_dir / n for n in (FORCE_MAP, LIBRARY, "native.pdb"))
        if not is_whole(map_path, ForceMap.load):
            self.oracle.fit_force_map(self._trajectories, self.config.seed_data.force_map).save(map_path)
        self.oracle = self.oracle.with_force_map(ForceMap.load(map_path))
        self.force_map_hash = self.oracle.force_map.hash
        if not is_whole(library_path, lambda path: AllAtomLibrary.load(path, self.oracle.model)):
            library = AllAtomLibrary(self.oracle.model)
            stride = max(1, round(1.0 / self.config.seed_data.save_ps))  # one frame per ps is dense enough
            for trajectory in self._trajectories:
                library.add(trajectory.positions[::stride])
            library.save(library_path)
        self.oracle = self.oracle.with_library(AllAtomLibrary.load(library_path, self.oracle.model))
        if not (complete and native.exists()) and not is_whole(native, check_pdb):
            save_pdb(native, self.oracle.native_positions(), self.oracle.atom_topology)
        _write_record(out_dir / STRUCTURE, self.record)

    def _task(self, i: int) -> TrajectoryTask:
        from cgal_plugin.oracle.trajectory_task import TrajectoryTask

        data = self.config.seed_data
        structure, hotter, heat_ps = self.starts[i % len(self.starts)]
        return TrajectoryTask(
            None,  # each worker has its own copy
            structure,
            data.picoseconds,
            derive_seed(self.config.seed, "seed", i),
            data.save_ps,
            data.equilibration_ps,
            heat_temperature=self.config.system.temperature + hotter,
            heat_ps=heat_ps,
        )

    def _run_missing(self, paths: list[Path], progress: Progress | None) -> None:
        from cgal_plugin.oracle.trajectory import AllAtomTrajectory

        load = AllAtomTrajectory.load
        tasks = [SeedTask(path, self._task(i)) for i, path in enumerate(paths) if not is_whole(path, load)]
        done = len(paths) - len(tasks)

        def count(task: int, n_frames: int) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(paths))

        if progress is not None:
            progress(done, len(paths))
        # no time limit: the configuration sets the length
        map_tasks(
            write_trajectory,
            tasks,
            count,
            workers=with_workers(self.config.executor, self.oracle.settings.platform),
            shared=self.oracle,
            limited=False,
            folder=paths[0].parent.parent / WORK,
            names=[t.path.stem for t in tasks],
        )

    def fill(self, store: DataStore) -> None:
        """Add one shard per trajectory, and the force map."""
        if not (store.root / FORCE_MAP).exists():
            self.oracle.force_map.save(store.root / FORCE_MAP)
        for i, trajectory in enumerate(self._trajectories):
            name = f"seed_{i:03d}"
            if name not in store:
                frames = self.oracle.map_trajectory(trajectory)
                store.append(name, frames, source="seed", config_hash=self.config.hash)


def _write_record(path: Path, record: StructureRecord) -> None:
    """Write what was read, unless the file has it, or belongs to a complete stage, whose files do not change.

    A record names files; those of a run that was moved are elsewhere now.
    """
    if path.exists() and path.with_name(MANIFEST).exists():
        return
    try:
        if read_json(path) == record.to_dict():
            return
    except (OSError, ValueError):
        pass  # missing or damaged
    write_json(path, record.to_dict())


def _starts(start: str, oracle: OpenMMOracle) -> tuple[tuple[str, float, float], ...]:
    """Return the starts of the seed trajectories, in turn.

    Raises
    ------
    OracleError
        The molecule has no fold, or cannot be stretched, and the start needs it.
    """
    from cgal_plugin.oracle.sampling import check_fold, check_stretch

    if start == "auto":
        return (_FOLDED,) if oracle.model.folded else (_EXTENDED,)
    names = {name for name, _, _ in _STARTS[start]}
    if "folded" in names:
        check_fold(oracle.model, start)
    if "extended" in names:
        check_stretch(oracle.model)
    return _STARTS[start]


def is_whole(
    path: Path, load: Callable[[Path], object], on_damage: Callable[..., None] | None = None
) -> bool:
    """Return whether a file exists and is valid; put a damaged one aside so that it is made again."""
    if not path.exists():
        return False
    try:
        load(path)
    except CGALError as error:
        remedy = f"it is kept in {set_aside(path, path.parent)} and made again"
        if on_damage is None:
            warnings.warn(f"{str(error).partition(';')[0]}; {remedy}", CGALWarning, stacklevel=2)
        else:
            on_damage("damage", what=str(error), remedy=remedy)
        return False
    return True


def with_library_of(oracle: OpenMMOracle, root: Path) -> OpenMMOracle:
    """Return the oracle with the backmapping library that a data store or its seed stage has, if any."""
    from cgal_plugin.oracle.library import AllAtomLibrary

    path = next((p for p in (root / LIBRARY, root / "seed" / LIBRARY) if p.is_file()), None)
    if path is None:
        return oracle
    try:
        return oracle.with_library(AllAtomLibrary.load(path, oracle.model))
    except BackmapError as error:
        raise DataError(f"{error}. {MAKE_AGAIN}; or delete {path} to backmap without a library") from error


def check_system(store: DataStore, model: AllAtomModel) -> None:
    """Check that the forces in a store, as far as it is recorded, are those of the system of the oracle.

    Raises
    ------
    ConfigError
        They are those of another one.
    """
    for name in store.names():
        metadata = store.record(name)["metadata"]
        own = {"solvent": model.solvent, "force_field": model.force_field}
        other = next((key for key, value in own.items() if metadata.get(key) not in (None, value)), None)
        if other is not None:
            raise ConfigError(
                f"seed_data.store {store.root} holds forces of {other.replace('_', ' ')} {metadata[other]}; "
                f"the system of this run has {own[other]}: a potential of mean force belongs to one system. "
                "Use the same (oracle.solvent, system.force_field), or another store"
            )


class StoredSeeds:
    """The shards of an existing data store.

    Raises
    ------
    DataError
        The molecule or the temperature of the store differs from the configuration, or the store is empty.
    """

    oracle_ns = 0.0

    def __init__(self, config: Config, topology: CGTopology, record: StructureRecord | None = None) -> None:
        assert config.seed_data.store is not None
        self.source = DataStore(config.seed_data.store)
        where, own = f"seed_data.store {self.source.root}", self.source.topology.embedding
        check_same_embedding(own, topology.embedding, where, "the system", DataError)
        if self.source.topology != topology:
            raise DataError(
                f"seed_data.store {self.source.root} is for {self.source.topology!r}; system is {topology!r}"
            )
        if abs(self.source.temperature - config.system.temperature) > 1e-6:
            raise DataError(
                f"seed_data.store {self.source.root} holds labels at {self.source.temperature} K; "
                f"system.temperature is {config.system.temperature} K"
            )
        if not self.source.names():
            raise DataError(f"seed_data.store {self.source.root} has no frames")
        self.topology = topology
        self.force_map_hash = self.source.force_map_hash

        record = record or StructureRecord({"source": (f"{config.system.source}: {topology.sequence}",)})
        self.record = record.with_fact("notes", f"seed data from {self.source.root}")

    def prepare(self, out_dir: Path, progress: Progress | None = None) -> None:
        """Write what was read; no dynamics is needed."""
        _write_record(out_dir / STRUCTURE, self.record)

    def copy_withheld(self, store: DataStore) -> bool:
        """Copy the frames that the source has kept back from its shards; return whether there are any."""
        return copy_withheld(self.source, store.root)

    def fill(self, store: DataStore) -> None:
        """Copy the shards as seed data, and the force map if there is one."""
        force_map = self.source.root / FORCE_MAP
        if force_map.exists() and not (store.root / FORCE_MAP).exists():
            atomic_path(store.root / FORCE_MAP, lambda name: shutil.copyfile(force_map, name))
        for i, (name, frames) in enumerate(self.source):
            if f"seed_{i:03d}" not in store:
                store.append(f"seed_{i:03d}", frames, source="seed", copied_from=name)


def filled_store(
    config: Config,
    root: Path,
    source: SeedSource,
    *,
    reserve: bool = False,
    on_damage: Callable[..., None] | None = None,
) -> DataStore:
    """Open or create the data store of a run and add the seed shards that it lacks.

    Damaged shards are first moved to another folder; the stage that wrote them computes them again.

    Parameters
    ----------
    source
        Prepared seed source.
    reserve
        Keep back frames for the starts of the model test (:mod:`cgal_plugin.data.reserved`).
    on_damage
        Called as ``on_damage("damage", what=..., remedy=...)`` for each damaged shard.
    """
    from cgal_plugin.mapping.forces import ForceMap

    store = DataStore.create(
        root,
        source.topology,
        temperature=config.system.temperature,
        force_map_hash=source.force_map_hash,
        config_hash=config.hash,
        on_damage=on_damage,
    )
    is_whole(store.root / FORCE_MAP, ForceMap.load, on_damage)
    for name in store.names():
        try:
            store.verify(name)
        except DataError as error:
            store.set_aside(name)
            if on_damage is not None:
                remedy = f"it is kept in {store.root / DAMAGED} and made again"
                on_damage("damage", what=str(error), remedy=remedy)
    if reserve and not (isinstance(source, StoredSeeds) and source.copy_withheld(store)):
        source.fill(ReservingStore(store.root))
    else:
        source.fill(store)
    return store
