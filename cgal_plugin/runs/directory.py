"""The run directory: one holder at a time, one manifest a stage, nothing finished done again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cgal_plugin.config import Config, dump_yaml, parse_config
from cgal_plugin.config.load import read_mapping
from cgal_plugin.errors import ConfigError, StateError
from cgal_plugin.provenance import (
    atomic_write,
    hash_file,
    hash_object,
    read_json,
    read_sealed,
    versions,
    write_json,
    write_sealed,
)

MANIFEST = "manifest.json"
#: names that provenance.atomic_write and atomic_path give to files on the way
_LEFTOVER = re.compile(r"\..*\.tmp(\.\w+)?")
_CHECKSUM = "# SHA-256 of the lines below: "
#: keys that may change between two calls without a question: they alter no result that exists
HARMLESS = ("name", "stopping.", "executor.", "oracle.max_failure_rate")


class RunDirectory:
    """The folder of one run.

    ``config.yaml`` is the resolved configuration; ``run.lock`` is held while a process works on it;
    every stage is a folder with a manifest, written last.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run; a second holder is refused with the first one's host and process id.

        Raises
        ------
        StateError
            Another process holds it, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = open(self.root / "run.lock", "a+", encoding="utf-8")  # noqa: SIM115  held below
        except OSError as error:
            raise StateError(f"run directory {self.root} cannot be written: {error}") from error
        with handle:
            if not _lock(handle):
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise StateError(f"run directory {self.root} is in use by {holder}")
            handle.seek(0)
            handle.truncate()
            handle.write(f"pid {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield

    def adopt(self, config: Config, *, accept_changes: bool = False) -> None:
        """Record the configuration, or compare it with the one that is there.

        Raises
        ------
        StateError
            The run was made with another configuration (the difference is shown) and
            ``accept_changes`` is false.
        """
        path = self.root / "config.yaml"
        if path.exists():
            changes = _difference(self.config().resolved(), config.resolved())
            serious = [text for key, text in changes if not key.startswith(HARMLESS)]
            if serious and not accept_changes:
                raise StateError(
                    f"{self.root} was started with another configuration:\n  "
                    + "\n  ".join(serious)
                    + "\nUse another folder (--out), or --accept-changes to go on with the new values; "
                    "finished stages are kept as they are, unfinished ones start anew."
                )
            if serious:
                self._restart_unfinished()
            if changes:
                history = self.root / "config_changes.json"
                past = read_json(history) if history.exists() else []
                write_json(history, [*past, {"time": time.time(), "changes": [text for _, text in changes]}])
        text = dump_yaml(config)
        with atomic_write(path, "w") as handle:
            handle.write(f"{_CHECKSUM}{_digest(text)}\n{text}")
        write_json(
            self.root / "run.json",
            {"config_hash": config.hash, "seed": config.seed, "versions": versions(), "name": config.name},
        )

    def sweep(self) -> None:
        """Delete what a kill left of files that were being written, and of what workers were sent."""
        for path in self.root.rglob(".*"):
            if path.name.startswith(".send-"):
                shutil.rmtree(path, ignore_errors=True)
            elif _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _restart_unfinished(self) -> None:
        """Put aside what stages of the old configuration had begun: it cannot be continued with the new one.

        Labels are not concerned: each is whole, or not there.
        """
        stages = [folder / name for folder in self.round_folders() for name in ("train", "simulate")]
        for stage in [*stages, *self.root.glob("refinement/iteration_*")]:
            if stage.is_dir() and not (stage / MANIFEST).is_file():
                number = sum(1 for _ in stage.parent.glob(f".{stage.name}.*"))
                os.replace(stage, stage.with_name(f".{stage.name}.{number}"))

    def config(self) -> Config:
        """The configuration that the run was last called with.

        Raises
        ------
        StateError
            The folder is not a run directory, or its configuration is damaged.
        """
        try:
            source = str(self.root / "config.yaml")
            return parse_config(self.read_config(), base=self.root, source=source, look_up=False)
        except ConfigError as error:
            raise StateError(f"the configuration of this run is damaged: {error}") from error

    def read_config(self) -> dict[str, Any]:
        """The configuration as it was written, its keys not checked.

        Raises
        ------
        StateError
            As :meth:`config`.
        """
        path = self.root / "config.yaml"
        if not path.is_file():
            raise StateError(f"{self.root} is not a run directory: it has no config.yaml")
        try:
            content = read_mapping(path)[0]
        except ConfigError as error:
            raise StateError(f"the configuration of this run is damaged: {error}") from error
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
        if first.startswith(_CHECKSUM) and first.removeprefix(_CHECKSUM) != _digest(text):
            raise StateError(
                f"{path} is not what this run wrote (checksum): it is damaged, or was edited; edit the file "
                "that `cgal run` is called with instead"
            )
        return content

    def stage(self, *parts: str) -> Stage:
        """The stage with that path below the run directory."""
        return Stage(self.root.joinpath(*parts), "/".join(parts))

    def round_folders(self) -> list[Path]:
        """Folders of the rounds there are, in order."""
        return sorted(p for p in (self.root / "rounds").glob("round_*") if p.is_dir())


class Stage:
    """One stage's folder; it is finished when its manifest is there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._started = time.time()

    @property
    def done(self) -> bool:
        """Whether the stage is finished."""
        return (self.folder / MANIFEST).is_file()

    def begin(self) -> Path:
        """Make the folder and start the clock; returns the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._started = time.time()
        return self.folder

    def finish(
        self,
        results: Mapping[str, Any],
        *,
        inputs: Mapping[str, Any],
        outputs: Iterable[Path] = (),
        seeds: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Write the manifest: what went in, what came out, seeds, versions, seconds."""
        write_sealed(
            self.folder / MANIFEST,
            {
                "stage": self.name,
                "inputs": dict(inputs),
                "inputs_hash": hash_object(dict(inputs)),
                "outputs": {os.path.relpath(p, self.folder): hash_file(p) for p in outputs},
                "results": dict(results),
                "seeds": dict(seeds or {}),
                "seconds": time.time() - self._started,
                "finished": time.time(),
                "versions": versions(),
            },
        )
        return self.results()

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished stage, its outputs checked.

        Raises
        ------
        StateError
            The manifest cannot be read, or an output is gone or has other bytes.
        """
        path = self.folder / MANIFEST
        try:
            manifest = read_sealed(path)
            outputs = manifest["outputs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path} is damaged ({error!r}); delete it to run stage {self.name} again"
            ) from error
        for name, digest in outputs.items():
            file = self.file(name)
            if not file.is_file() or hash_file(file) != digest:
                state = "damaged" if file.is_file() else "gone"
                raise StateError(f"{file} is {state}; delete {path} to run stage {self.name} again")
        return manifest

    def file(self, name: str) -> Path:
        """A file of the stage that a manifest names.

        Raises
        ------
        StateError
            The name leads out of the folder.
        """
        path = Path(os.path.normpath(self.folder / name))
        if not path.is_relative_to(os.path.normpath(self.folder)):
            raise StateError(
                f"the manifest in {self.folder} names {name!r}, outside the folder; it is refused"
            )
        return path

    def results(self) -> dict[str, Any]:
        """The ``results`` of the manifest."""
        return self.manifest()["results"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(handle: IO[str]) -> bool:
    """Take the lock; a second's patience, because ``cgal status`` tries it for a moment."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= _flat(item, f"{prefix}{key}.")
        return flat
    return {prefix.rstrip("."): value}


def _difference(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    a, b = _flat(old), _flat(new)
    absent = "(not set)"
    return [
        (key, f"{key}: {a.get(key, absent)!r} -> {b.get(key, absent)!r}")
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
    ]
