"""The run directory: its configuration, its lock, and its stages."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cgal_plugin.config import Config
from cgal_plugin.config.load import read_mapping
from cgal_plugin.config.paths import relative_to
from cgal_plugin.damage import set_aside
from cgal_plugin.errors import ConfigError, DamageError, StateError
from cgal_plugin.execution.window import Event, no_event
from cgal_plugin.file_lock import locked
from cgal_plugin.provenance import read_json, read_sealed, versions, write_json, write_sealed
from cgal_plugin.runs.config_file import is_intact, parse_recorded, write_config
from cgal_plugin.runs.log import LOG
from cgal_plugin.runs.stage import MANIFEST, Stage

#: version of the layout of a run directory (key ``layout`` of run.json)
LAYOUT = 2
#: record of a run with several systems
SYSTEMS = "systems.json"
#: lock file of the process that works on a run
LOCK = "run.lock"
#: temporary names of provenance.atomic_write and atomic_path
_LEFTOVER = re.compile(r"\..*\.tmp(\.\w+)?")
#: keys that may change between two calls, because they do not change existing results
HARMLESS = ("name", "preset", "stopping.", "executor.", "oracle.max_failure_rate")
START = "To continue with the values that it was started with"
#: keys of run.json, and their types
_FACTS = {"config_hash": str, "seed": int, "layout": int, "versions": dict, "platforms": dict}
#: keys whose ``auto`` is decided once in a run
PLATFORMS = ("oracle.platform", "simulation.platform", "simulation.backend")


class RunDirectory:
    """The folder of one run.

    ``config.yaml`` is the resolved configuration, ``run.json`` holds versions, seed and layout, and
    ``run.lock`` is held while a process works on the run. Each stage is a folder with a manifest.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.resources: dict[str, Any] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run directory for one process. The error for a second one names the process of the first.

        Raises
        ------
        StateError
            Another process holds the lock, or the folder cannot be written.
        """
        with ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.root / LOCK, f"run directory {self.root}"))
            except OSError as error:
                raise StateError(f"run directory {self.root} cannot be written: {error}") from error
            yield

    def adopt(
        self,
        config: Config,
        *,
        accept_changes: bool = False,
        event: Event = no_event,
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the configuration, or compare it with the recorded one.

        ``resources`` is what the run uses of the machine; its ``platforms`` are recorded, and all of it is
        written to the manifests of later stages.

        Damaged files are put aside and written again, after ``event("damage", what=..., remedy=...)``.

        Raises
        ------
        StateError
            The run was started with another configuration (the message shows the differences) and
            ``accept_changes`` is false, or by a version of this package with another layout.
        """
        path = self.root / "config.yaml"
        used = self.platforms()
        now = config.resolved()
        recorded = self._recorded(config, accept_changes, event)
        if recorded is not None:
            # relative to the run, because it may have been moved together with its files
            old, new = (relative_to(each, self.root) for each in (recorded.resolved(), now))
            changes = _difference(old, new, used)
            serious = [text for key, text in changes if not key.startswith(HARMLESS)]
            if serious and not accept_changes:
                raise StateError(
                    f"{self.root} was started with another configuration:\n  "
                    + "\n  ".join(serious)
                    + "\nUse another folder (--out), or --accept-changes to continue with the new values: "
                    "completed stages are kept, incomplete stages start again."
                    + ("" if self._is_a_system else f" {START}: cgal run {path} --out {self.root}")
                )
            if serious:
                self.restart_unfinished()
            if changes:
                history = self.root / "config_changes.json"
                try:
                    past = list(read_json(history)) if history.exists() else []
                except (ValueError, TypeError) as error:
                    self._put_aside(history, error, event)
                    past = []
                write_json(history, [*past, {"time": time.time(), "changes": [text for _, text in changes]}])
        self.resources = dict(resources or {})
        facts = {
            "name": config.name,
            "config_hash": config.hash,
            "seed": config.seed,
            "layout": LAYOUT,
            "versions": versions(),
            "platforms": {**used, **self.resources.get("platforms", {})},
        }
        # before the configuration: a directory with a configuration has a layout
        write_sealed(self.root / "run.json", facts)
        write_config(path, config)

    @property
    def _is_a_system(self) -> bool:
        """Whether this is the folder of one of several systems, which is not run alone."""
        return (self.root.parent.parent / SYSTEMS).is_file()

    def _recorded(self, config: Config, accept_changes: bool, event: Event) -> Config | None:
        """Return the recorded configuration; None in a new run, or if it was damaged and is ``config``."""
        path, facts = self.root / "config.yaml", self.root / "run.json"
        if not path.exists() and not facts.exists() and not self._begun():
            return None
        self.check_layout()
        known = ""
        try:
            known = str(self.facts()["config_hash"])
        except DamageError as error:
            if path.exists():
                before = self.config()  # run.json is written again with it
                self._put_aside(facts, error, event)
                return before
        try:
            return self.config()
        except DamageError as error:
            if known != config.hash and not accept_changes:
                raise DamageError(
                    f"{error}. The given configuration cannot be compared with it: give exactly the one of "
                    "the last call, or --accept-changes to continue with the given one"
                ) from error
            self._put_aside(path, error, event)
            if known != config.hash:
                self.restart_unfinished()
            return None

    def _put_aside(self, path: Path, error: Exception, event: Event) -> None:
        what = str(error) if isinstance(error, DamageError) else f"{path} is damaged ({error})"
        kept = f"it is kept in {set_aside(path, self.root)}, and " if path.exists() else "it is "
        event("damage", what=what, remedy=f"{kept}written again")

    def _begun(self) -> bool:
        """Return whether a run has completed a stage here. Without a log, they were copied for a new run."""
        done = any((self.root / stage / MANIFEST).exists() for stage in ("seed", "priors"))
        return done and (self.root / LOG).exists()

    def platforms(self) -> dict[str, str]:
        """Return what the run has used so far by platform key of the configuration; empty for a new run."""
        with suppress(DamageError, KeyError):
            return dict(self.facts()["platforms"])
        for path in sorted(self.root.rglob(MANIFEST)):  # run.json is damaged, or there is no run
            with suppress(OSError, ValueError, KeyError, TypeError):
                return dict(read_sealed(path)["resources"]["platforms"])
        with suppress(StateError):  # an earlier version, which had no auto
            flat = _flat(self.read_config())
            found = {key: flat[key] for key in PLATFORMS if flat.get(key) is not None}
            # an auto of the backend is decided by each simulation
            return {k: v for k, v in found.items() if v != "auto" or k == "simulation.backend"}
        return {}

    def facts(self) -> dict[str, Any]:
        """Return the content of ``run.json``: name, configuration hash, seed, layout, versions, platforms.

        Raises
        ------
        DamageError
            It is missing or damaged.
        """
        path = self.root / "run.json"
        try:
            found = read_sealed(path)
            for key, kind in _FACTS.items():
                if not isinstance(found[key] if key != "platforms" else found.get(key, {}), kind):
                    raise TypeError(f"{key} is {found[key]!r:.80}")
        except FileNotFoundError as error:
            raise DamageError(f"{path} is missing") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DamageError(f"{path} is damaged ({reason})") from error
        return found

    def sweep(self) -> None:
        """Delete temporary files of a killed process, and the files that were sent to its workers."""
        for path in self.root.rglob(".*"):
            if path.name.startswith(".send-"):
                shutil.rmtree(path, ignore_errors=True)
            elif _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def restart_unfinished(self) -> None:
        """Rename incomplete stages of the old configuration, because the new one cannot continue them.

        Labels are not affected: each is complete or absent.
        """
        names = ("train", "simulate", "test")
        stages = [folder / name for folder in self.round_folders() for name in names]
        for stage in [*stages, *self.root.glob("refinement/iteration_*"), self.root / "refinement/test"]:
            if stage.is_dir() and not (stage / MANIFEST).is_file():
                self.move_aside(*stage.relative_to(self.root).parts)

    def move_aside(self, *parts: str) -> None:
        """Rename a folder below the run directory to a hidden name, so that its stage can run again."""
        folder = self.root.joinpath(*parts)
        number = sum(1 for _ in folder.parent.glob(f".{folder.name}.*"))
        os.replace(folder, folder.with_name(f".{folder.name}.{number}"))

    def config(self) -> Config:
        """Return the configuration of the last call.

        Raises
        ------
        StateError
            The folder is not a run directory, or it has another layout.
        DamageError
            Its configuration is damaged.
        """
        try:
            return parse_recorded(self.read_config(), self.root / "config.yaml")
        except ConfigError as error:
            raise DamageError(f"the configuration of this run is damaged: {error}") from error

    def read_config(self) -> dict[str, Any]:
        """Return the configuration as stored, without a check of its keys.

        Raises
        ------
        StateError, DamageError
            As :meth:`config`.
        """
        path = self.root / "config.yaml"
        if not path.is_file() and ((self.root / "run.json").exists() or self._begun()):
            raise DamageError(f"{path} is missing; run `cgal run` again with the configuration of this run")
        if not path.is_file():
            raise StateError(f"{self.root} is not a run directory: it has no config.yaml")
        self.check_layout()
        try:
            content = read_mapping(path)[0]
        except ConfigError as error:
            raise DamageError(f"the configuration of this run is damaged: {error}") from error
        if is_intact(path) is False:
            raise DamageError(
                f"{path} does not match its checksum: it is damaged or was edited; edit the file that is "
                "given to `cgal run` instead"
            )
        return content

    def check_layout(self, *, alone: bool = False) -> None:
        """Check that a run in this folder, if there is one, has the layout of this version.

        ``alone``: also that the folder is not that of a run with several systems, or of one of its systems.

        Raises
        ------
        StateError
            It has another layout, or ``run.json`` and the configuration are damaged.
        """
        for folder in (self.root, self.root.parent.parent) if alone else ():
            if (folder / SYSTEMS).is_file():
                raise StateError(
                    f"{self.root} belongs to a run with several systems ({folder / SYSTEMS}): run its "
                    "configuration with --out " + str(folder) + ", or use another folder for this one"
                )
        path = self.root / "config.yaml"
        if not path.exists():
            return
        intact = is_intact(path)  # None: this layout has a checksum there, earlier ones have none
        facts = self.root / "run.json"
        try:
            found = read_sealed(facts).get("layout", 1)
            if not isinstance(found, int) or (found == 1 and intact is not None):
                raise TypeError(f"layout is {found!r}")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            if intact:
                return
            if intact is False or facts.exists():
                raise DamageError(
                    f"{path} and {facts} are both damaged or missing: restore one of them from a copy, or "
                    "start a new run in another folder (--out)"
                ) from error
            found = 1
        if found != LAYOUT:
            raise StateError(
                f"{self.root} was made by another version of cgal_plugin (run directory layout {found}; this "
                f"version uses {LAYOUT}): continue with that version, or start a new run in another folder"
            )

    def stage(self, *parts: str) -> Stage:
        """Return the stage with this path below the run directory."""
        return Stage(self.root.joinpath(*parts), "/".join(parts), self.resources)

    def round_folders(self) -> list[Path]:
        """Return the folders of the existing rounds, in order."""
        return sorted(p for p in (self.root / "rounds").glob("round_*") if p.is_dir())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= _flat(item, f"{prefix}{key}.")
        return flat
    return {prefix.rstrip("."): value}


def _difference(old: dict[str, Any], new: dict[str, Any], used: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the keys that differ; ``auto`` equals the platform that the run has used."""
    a, b = _flat(old), _flat(new)
    for key in PLATFORMS:
        for flat in (a, b):
            if flat.get(key) == "auto" and key in used:
                flat[key] = used[key]
    absent = "(not set)"
    return [
        (key, f"{key}: {a.get(key, absent)!r} -> {b.get(key, absent)!r}")
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
    ]
