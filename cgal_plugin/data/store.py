"""Labelled frames on disk: one directory, one shard per label, never rewritten."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.damage import set_aside
from cgal_plugin.data.frames import LabelledFrames, StoredFrames
from cgal_plugin.data.shard_files import ShardFile, read_frames, read_positions, verify_bytes
from cgal_plugin.errors import DataError, MappingError
from cgal_plugin.mapping.embedding import check_same_embedding
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import hash_file, hash_object, read_sealed, versions, write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
#: how a damaged file of a data store is made good
MAKE_AGAIN = (
    "Repeat the command that wrote this store (cgal run, cgal seed), which makes the file again; restore the "
    "file from a copy; or make a new store in another folder (cgal label, cgal import-data)"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class DataStore:
    """A directory of labelled-frame shards for one molecule, one temperature and one force map.

    ``store.json`` contains the topology, temperature and force-map hash. Each shard has its arrays in
    ``shards/NAME.npz`` and a record with their SHA-256 in ``shards/NAME.json``. The record is written
    last: a shard without a record is unfinished and ignored.

    Parameters
    ----------
    root
        Folder of an existing store; :meth:`create` makes a new one.

    Raises
    ------
    DataError
        ``root`` is not a data store, is damaged, or has another format version.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._sha256: dict[str, str] = {}
        path = self.root / "store.json"
        if not path.is_file():
            raise DataError(f"{str(self.root)!r} is not a data store: it has no store.json")
        try:
            header = read_sealed(path, required=True)
            self.topology = CGTopology.from_dict(header["topology"], f"data store {self.root}")
            self.temperature = float(header["temperature"])
            self.force_map_hash = str(header["force_map_hash"])
            version = header["format_version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, MappingError) as error:
            raise DataError(f"{path} is damaged: {error}. {MAKE_AGAIN}") from error
        if version != FORMAT_VERSION:
            raise DataError(f"{path} has format version {version}; this release reads {FORMAT_VERSION}")

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        topology: CGTopology,
        *,
        temperature: float,
        force_map_hash: str,
        config_hash: str = "",
        on_damage: Callable[..., None] | None = None,
    ) -> DataStore:
        """Create a store, or open the existing one if it is for the same data.

        With ``on_damage``, a damaged ``store.json`` is put aside and written again, and
        ``on_damage("damage", what=..., remedy=...)`` is called.

        Raises
        ------
        DataError
            A store for another topology, temperature or force map exists.
        """
        path = Path(root) / "store.json"
        try:
            store = cls(root) if path.exists() else None
        except DataError as error:
            if on_damage is None:
                raise
            remedy = f"it is kept in {set_aside(path, path.parent)}, and written again"
            on_damage("damage", what=str(error), remedy=remedy)
            store = None
        if store is not None:
            store._check_same(topology, temperature, force_map_hash)
            return store
        write_sealed(
            path,
            {
                "format_version": FORMAT_VERSION,
                "topology": topology.to_dict(),
                "temperature": float(temperature),
                "force_map_hash": force_map_hash,
                "units": {"positions": "angstrom", "forces": "kcal/mol/angstrom"},
                "config_hash": config_hash,
                "versions": versions(),
            },
        )
        return cls(root)

    def _check_same(self, topology: CGTopology, temperature: float, force_map_hash: str) -> None:
        own = self.topology.embedding
        check_same_embedding(own, topology.embedding, f"store {self.root}", repr(topology), DataError)
        if topology != self.topology:
            raise DataError(f"store {self.root} is for {self.topology!r}, not {topology!r}")
        if abs(temperature - self.temperature) > 1e-6:
            raise DataError(
                f"store {self.root} holds labels at {self.temperature} K, not {temperature} K; "
                "a potential of mean force belongs to one temperature: use another store"
            )
        if force_map_hash != self.force_map_hash:
            raise DataError(
                f"store {self.root} holds forces mapped with {self.force_map_hash[:12]}, not "
                f"{force_map_hash[:12]}; force maps are not mixed: label again with the stored map"
            )

    # ------------------------------------------------------------------ shards

    def _paths(self, name: str) -> tuple[Path, Path]:
        if not _NAME.fullmatch(name):
            raise DataError(f"shard name {name!r} is not allowed; use letters, digits, '_', '-', '.'")
        folder = self.root / "shards"
        return folder / f"{name}.npz", folder / f"{name}.json"

    def names(self) -> list[str]:
        """Return the names of the finished shards, sorted."""
        folder = self.root / "shards"
        if not folder.is_dir():
            return []
        return sorted(p.stem for p in folder.glob("*.json") if not p.name.startswith("."))

    def __contains__(self, name: str) -> bool:
        return self._paths(name)[1].is_file()

    def append(self, name: str, frames: LabelledFrames, *, source: str, **facts: Any) -> None:
        """Add one shard.

        Parameters
        ----------
        name
            Name of the shard, unique; a finished shard is never overwritten.
        frames
            Frames with forces. Temperature and force map in their metadata must be those of the store.
        source
            Origin of the frames, such as ``"seed"`` or ``"round_001"``.
        **facts
            JSON-ready values for the record (round, seed, config hash).

        Raises
        ------
        DataError
            The name is already used; bead count, temperature or force map differ; or there are no frames.
        """
        self._check(name, len(frames), frames.positions.shape[1], frames.metadata)
        self._enter(name, ShardFile.write(self._paths(name)[0], frames), source, facts)

    def adopt(self, name: str, shard: ShardFile, *, source: str, **facts: Any) -> None:
        """Add a shard that is already on disk by moving its file; see :meth:`append`.

        Raises
        ------
        DataError
            As for :meth:`append`, or the file is damaged.
        """
        self._check(name, shard.n_frames, shard.n_beads, shard.metadata)
        if hash_file(shard.path) != shard.sha256:
            raise DataError(f"{shard.path} is damaged: its SHA-256 differs from that of the written file")
        target = self._paths(name)[0]
        target.parent.mkdir(exist_ok=True)
        os.replace(shard.path, target)
        self._enter(name, shard, source, facts)

    def _check(self, name: str, n_frames: int, n_beads: int, metadata: Mapping[str, Any]) -> None:
        if self._paths(name)[1].exists():
            raise DataError(f"shard {name!r} is already in {self.root}; shards are never rewritten")
        if n_frames == 0:
            raise DataError(f"shard {name!r} has no frames")
        if n_beads != self.topology.n_beads:
            raise DataError(
                f"shard {name!r} has {n_beads} beads; {self.topology!r} has {self.topology.n_beads}"
            )
        self._check_same(
            self.topology,
            float(metadata.get("temperature", self.temperature)),
            str(metadata.get("force_map_hash", self.force_map_hash)),
        )

    def _enter(self, name: str, shard: ShardFile, source: str, facts: Mapping[str, Any]) -> None:
        write_sealed(
            self._paths(name)[1],
            {
                "name": name,
                "source": source,
                "n_frames": shard.n_frames,
                "sha256": shard.sha256,
                "metadata": dict(shard.metadata),
                "quarantined": [vars(q) for q in shard.quarantined],
                "facts": dict(facts),
                "versions": versions(),
            },
            sync=False,  # the arrays were synced; one sync per label is enough
        )

    def record(self, name: str) -> dict[str, Any]:
        """Return the JSON record of a finished shard.

        Raises
        ------
        DataError
            The shard does not exist, or its record is damaged.
        """
        path = self._paths(name)[1]
        if not path.is_file():
            raise DataError(f"store {self.root} has no shard {name!r}")
        try:
            return read_sealed(path)
        except ValueError as error:
            raise DataError(f"shard record {path} is damaged: {error}") from error

    def verify(self, name: str) -> dict[str, Any]:
        """Check the SHA-256 of a shard and return its record.

        A shard is hashed once per process, and again after its file was replaced or modified.

        Raises
        ------
        DataError
            Shard or record is missing or damaged.
        """
        record = self.record(name)
        verify_bytes(self._paths(name)[0], record.get("sha256"))
        return record

    def set_aside(self, name: str) -> None:
        """Move the files of a shard to the folder ``damaged``; its name can then be used again."""
        arrays, record = self._paths(name)
        for path in (record, arrays):  # the record first: without its record, a shard does not count
            if path.exists():
                set_aside(path, self.root)
        self._sha256.pop(name, None)

    def digest(self, names: Sequence[str]) -> str:
        """Return a digest of the content of the named shards, from their records."""
        for name in names:
            if name not in self._sha256:
                self._sha256[name] = str(self.record(name).get("sha256"))
        return hash_object([[name, self._sha256[name]] for name in names])

    def load(self, name: str) -> LabelledFrames:
        """Read one shard, verified as by :meth:`verify`.

        Raises
        ------
        DataError
            The shard is missing or damaged.
        """
        return read_frames(self._paths(name)[0], self.verify(name))

    def __iter__(self) -> Iterator[tuple[str, LabelledFrames]]:
        for name in self.names():
            yield name, self.load(name)

    def positions(self, names: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Return the positions of the named shards (default: all), ``(n, n_beads, 3)`` Å.

        Raises
        ------
        DataError
            There are no shards, or one is missing or damaged.
        """
        names = self._chosen(names)
        records = [self.verify(name) for name in names]
        out = self._empty(records)
        for name, part in zip(names, _slices(records), strict=True):
            self._fill(out, part, read_positions(self._paths(name)[0]), name)
        return out

    def load_all(self, names: Sequence[str] | None = None) -> StoredFrames:
        """Return all frames of the named shards (default: all), with shard and block numbers.

        Raises
        ------
        DataError
            There are no shards, or one is missing or damaged.
        """
        names = self._chosen(names)
        records = [self.verify(name) for name in names]
        # filled shard by shard, so that memory never holds two copies of all frames
        positions, forces = self._empty(records), self._empty(records)
        n = len(positions)
        error, block, offset = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64), 0
        for name, record, part in zip(names, records, _slices(records), strict=True):
            frames = read_frames(self._paths(name)[0], record)
            self._fill(positions, part, frames.positions, name)
            self._fill(forces, part, frames.forces, name)
            error[part] = frames.force_error
            block[part] = frames.block
            block[part] += offset
            offset = int(block[part].max()) + 1
        return StoredFrames(
            positions=positions,
            forces=forces,
            force_error=error,
            shard=np.repeat(np.arange(len(names)), [int(r["n_frames"]) for r in records]),
            block=block,
            names=tuple(names),
            sources=tuple(str(r["source"]) for r in records),
        )

    def _chosen(self, names: Sequence[str] | None) -> list[str]:
        chosen = self.names() if names is None else list(names)
        if not chosen:
            raise DataError(f"data store {self.root} has no frames yet")
        return chosen

    def _empty(self, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        n = sum(int(r["n_frames"]) for r in records)
        return np.empty((n, self.topology.n_beads, 3), dtype=np.float32)

    def _fill(self, out: NDArray[np.float32], part: slice, values: NDArray[np.floating], name: str) -> None:
        if values.shape != out[part].shape:
            raise DataError(
                f"shard {name!r} has arrays of shape {values.shape}; its record says {out[part].shape}"
            )
        out[part] = values


def _slices(records: Sequence[Mapping[str, Any]]) -> list[slice]:
    """Return the rows of each shard in an array of all frames."""
    ends = np.cumsum([int(r["n_frames"]) for r in records]).tolist()
    return [slice(end - int(r["n_frames"]), end) for end, r in zip(ends, records, strict=True)]
