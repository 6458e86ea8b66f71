"""Labelled frames on disk: one directory, one shard a label, never rewritten."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.data.frames import LabelledFrames, Quarantined, StoredFrames
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import (
    BAD_ARCHIVE,
    atomic_write,
    hash_file,
    read_json,
    read_sealed,
    versions,
    write_json,
    write_sealed,
)

FORMAT_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ShardFile:
    """A shard's arrays on disk, outside a store, with what its record has to say of them.

    Attributes
    ----------
    path
        The ``.npz``.
    sha256
        Of its bytes.
    n_frames, n_beads
        Its size.
    metadata, quarantined
        Those of the frames.
    """

    path: Path
    sha256: str
    n_frames: int
    n_beads: int
    metadata: Mapping[str, Any]
    quarantined: Sequence[Quarantined]

    @classmethod
    def write(cls, path: Path, frames: LabelledFrames) -> ShardFile:
        """Write frames, atomically."""
        with atomic_write(path) as handle:
            np.savez(
                handle,
                positions=np.asarray(frames.positions, dtype=np.float32),
                forces=np.asarray(frames.forces, dtype=np.float32),
                frame_index=np.asarray(frames.frame_index, dtype=np.int64),
                start_index=np.asarray(frames.start_index, dtype=np.int64),
                force_error=np.asarray(frames.force_error, dtype=np.float32),
            )
        size = len(frames), frames.positions.shape[1]
        return cls(path, hash_file(path), *size, dict(frames.metadata), tuple(frames.quarantined))


class DataStore:
    """A directory of labelled-frame shards for one molecule, one temperature and one force map.

    ``store.json`` holds the topology, temperature and force-map hash; ``shards/NAME.npz`` the
    arrays; ``shards/NAME.json`` each shard's record with its SHA-256. The record is written last,
    so a shard without one is unfinished and ignored.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        path = self.root / "store.json"
        if not path.is_file():
            raise DataError(f"{str(self.root)!r} is not a data store: it has no store.json")
        try:
            header = read_json(path)
            self.topology = CGTopology.from_dict(header["topology"])
            self.temperature = float(header["temperature"])
            self.force_map_hash = str(header["force_map_hash"])
            version = header["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged: {error!r}") from error
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
    ) -> DataStore:
        """Make a store, or open the one that is there if it is for the same thing.

        Raises
        ------
        DataError
            A store for another topology, temperature or force map is there.
        """
        path = Path(root) / "store.json"
        if path.exists():
            store = cls(root)
            store._check_same(topology, temperature, force_map_hash)
            return store
        write_json(
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
        if topology != self.topology:
            raise DataError(f"store {self.root} is for {self.topology!r}, not {topology!r}")
        if abs(temperature - self.temperature) > 1e-6:
            raise DataError(
                f"store {self.root} holds labels at {self.temperature} K, not {temperature} K; "
                "a PMF belongs to one temperature: use another store"
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
        """Names of the finished shards, sorted."""
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
            Unique; a finished shard of that name is an error, never overwritten.
        frames
            The data. Their metadata must agree with the store in temperature and force map.
        source
            Where they come from, such as ``"seed"`` or ``"round_001"``.
        **facts
            Anything JSON-ready to keep in the record (round, seed, config hash).

        Raises
        ------
        DataError
            Name taken, bead count, temperature or force map differ, or there are no frames.
        """
        self._check(name, len(frames), frames.positions.shape[1], frames.metadata)
        self._enter(name, ShardFile.write(self._paths(name)[0], frames), source, facts)

    def adopt(self, name: str, shard: ShardFile, *, source: str, **facts: Any) -> None:
        """Add a shard that is on disk already, by moving its file; otherwise as :meth:`append`.

        Raises
        ------
        DataError
            As for :meth:`append`, or the file does not have the bytes that were written.
        """
        self._check(name, shard.n_frames, shard.n_beads, shard.metadata)
        if hash_file(shard.path) != shard.sha256:
            raise DataError(f"{shard.path} is damaged: its SHA-256 is not the one of what was written")
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
            sync=False,  # one wait for the disk a label is enough, that of the arrays
        )

    def record(self, name: str) -> dict[str, Any]:
        """The JSON record of a finished shard."""
        path = self._paths(name)[1]
        if not path.is_file():
            raise DataError(f"store {self.root} has no shard {name!r}")
        try:
            return read_sealed(path)
        except ValueError as error:
            raise DataError(f"shard record {path} is damaged: {error}") from error

    def verify(self, name: str) -> dict[str, Any]:
        """The record of a shard whose bytes are those that were written.

        Raises
        ------
        DataError
            Shard or record is missing or damaged.
        """
        record, path = self.record(name), self._paths(name)[0]
        if not path.is_file():
            raise DataError(
                f"shard {path} is gone though its record is there; delete the record to label again"
            )
        if hash_file(path) != record.get("sha256"):
            raise DataError(f"shard {path} is damaged: its SHA-256 is not the one that was recorded")
        return record

    def set_aside(self, name: str) -> None:
        """Move a shard's files to the folder ``damaged``; the name is free again."""
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        for path in reversed(self._paths(name)):  # the record first: without it there is no shard
            if path.exists():
                number = sum(1 for _ in folder.glob(f"{path.name}.*"))
                os.replace(path, folder / f"{path.name}.{number}")

    def load(self, name: str) -> LabelledFrames:
        """Read one shard, checking its SHA-256.

        Raises
        ------
        DataError
            The shard is missing or does not have the bytes that were written.
        """
        record = self.verify(name)
        path = self._paths(name)[0]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return LabelledFrames(
                    **{k: arrays[k] for k in arrays.files},
                    quarantined=tuple(Quarantined(**q) for q in record["quarantined"]),
                    metadata=record["metadata"],
                )
        except (DataError, *BAD_ARCHIVE) as error:
            raise DataError(f"shard {path} cannot be used: {error}") from error

    def __iter__(self) -> Iterator[tuple[str, LabelledFrames]]:
        for name in self.names():
            yield name, self.load(name)

    def load_all(self, names: Sequence[str] | None = None) -> StoredFrames:
        """All frames of the named shards (default: all), with shard and block numbers.

        Raises
        ------
        DataError
            There are no shards.
        """
        names = self.names() if names is None else list(names)
        if not names:
            raise DataError(f"data store {self.root} has no frames yet")
        parts = [self.load(name) for name in names]
        blocks, offset = [], 0
        for part in parts:
            blocks.append(part.block + offset)
            offset += int(part.block.max()) + 1
        return StoredFrames(
            positions=np.concatenate([p.positions for p in parts]),
            forces=np.concatenate([p.forces for p in parts]),
            force_error=np.concatenate([p.force_error for p in parts]),
            shard=np.repeat(np.arange(len(parts)), [len(p) for p in parts]),
            block=np.concatenate(blocks),
            names=tuple(names),
            sources=tuple(self.record(n)["source"] for n in names),
        )
