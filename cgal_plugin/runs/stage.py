"""One stage of a run: computed once, recorded in a manifest, loaded afterwards, and made again if damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgal_plugin.damage import DAMAGED, set_aside
from cgal_plugin.errors import DamageError, StateError
from cgal_plugin.provenance import hash_content, hash_file, hash_object, read_sealed, versions, write_sealed
from cgal_plugin.runs.log import Progress, SilentReporter, StageReporter

MANIFEST = "manifest.json"
#: output files on which no other stage depends
_FOR_USERS = (".png", ".pdb")


@dataclass(frozen=True)
class StageOutput:
    """Result of the computation of a stage.

    Attributes
    ----------
    results
        JSON-ready results, kept in the manifest.
    files
        Output files, below the folder of the stage; the manifest records their SHA-256.
    inputs
        Inputs that are known only after the computation; added to those given to :meth:`Stage.run`.
    """

    results: Mapping[str, Any]
    files: Sequence[Path] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dependencies:
    """Content on which a stage depends.

    Attributes
    ----------
    digests
        Digest of each input by name.
    keep
        Why a complete stage is kept although its inputs have changed; empty: it is computed again.
    """

    digests: Mapping[str, str]
    keep: str = ""


class Stage:
    """The folder of one stage. The stage is complete when its manifest exists.

    Parameters
    ----------
    folder
        Folder of the stage.
    name
        Path of the stage below the run directory, for messages and the manifest.
    resources
        What the run uses of the machine, for the manifest.
    """

    def __init__(self, folder: Path, name: str, resources: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.name = name
        self.resources = dict(resources or {})
        self.root = folder.parents[name.count("/")]

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return (self.folder / MANIFEST).is_file()

    def run(
        self,
        compute: Callable[[Path, Progress], StageOutput],
        *,
        title: str,
        inputs: Mapping[str, Any],
        seeds: Mapping[str, int] | None = None,
        depends: Dependencies | None = None,
        reporter: StageReporter | None = None,
        restore: Callable[[Path], object] | None = None,
        usable: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> dict[str, Any]:
        """Compute the stage and write its manifest, or load the results of a complete stage.

        A damaged or missing file of a complete stage is put aside, and the stage is computed again: in the
        same folder or, if ``compute`` finds more damage there, in an empty one.

        Parameters
        ----------
        compute
            ``compute(folder, progress)``. After an interruption or damage, it is called again with the same
            folder. Damage that it finds there must be a :class:`~cgal_plugin.errors.DamageError`.
        title
            Name of the stage for the reporter.
        inputs, seeds
            Recorded in the manifest.
        depends
            Content on which the stage depends. A complete stage that was computed from other content is moved
            aside and computed again.
        reporter
            Receives the start, progress and end of the stage, and what is damaged.
        restore
            ``restore(folder)``, called instead of ``compute`` if the stage is complete.
        usable
            ``usable(manifest)``: whether a complete stage can be used; if false, it is computed again.

        Returns
        -------
        dict
            The results.

        Raises
        ------
        StateError
            The manifest names files outside the folder.
        """
        reporter = SilentReporter() if reporter is None else reporter
        depends = Dependencies({}) if depends is None else depends
        manifest, lost = self._intact(reporter)
        if (
            manifest is not None
            and self._current(manifest, depends, reporter)
            and (usable is None or usable(manifest))
        ):
            reporter.skipped(title)
            if restore is not None:
                restore(self.folder)
            return dict(manifest["results"])
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        with reporter.stage(title) as progress:
            try:
                output = compute(self.folder, progress)
            except DamageError as error:
                self._put_aside(self.folder, str(error).partition("; delete")[0], reporter)
                self.folder.mkdir(parents=True)
                output = compute(self.folder, progress)
        recorded = {**inputs, **output.inputs}
        outputs = {os.path.relpath(p, self.folder): hash_file(p) for p in output.files}
        content = {name: hash_content(self.folder / name) for name in outputs}
        for name in sorted(content.keys() & lost.keys()):
            same = "equal to" if content[name] == lost[name] else "different from"
            reporter.event("message", text=f"{self.folder / name} is made again, {same} the damaged one")
        write_sealed(
            self.folder / MANIFEST,
            {
                "stage": self.name,
                "inputs": recorded,
                "inputs_hash": hash_object(recorded),
                "upstream": dict(depends.digests),
                "outputs": outputs,
                "content": content,
                "results": dict(output.results),
                "seeds": dict(seeds or {}),
                "seconds": time.time() - started,
                "finished": time.time(),
                "versions": versions(),
                "resources": self.resources,
            },
        )
        return dict(read_sealed(self.folder / MANIFEST)["results"])

    def _intact(self, reporter: StageReporter) -> tuple[dict[str, Any] | None, dict[str, str]]:
        """Return the manifest of a complete and intact stage, or None; put damaged files aside.

        Also return the hash of the content of the files that are damaged or missing.
        """
        if not self.done:
            return None, {}
        path = self.folder / MANIFEST
        try:
            manifest = self._read()
        except DamageError as error:
            self._put_aside(path, str(error), reporter)
            return None, {}
        damaged = self._damaged(manifest)
        if not damaged:
            return manifest, {}
        set_aside(path, self.root)  # first: without it the stage is not complete
        for name in damaged:
            file = self.file(name)
            self._put_aside(file, f"{file} is {'damaged' if file.is_file() else 'missing'}", reporter)
        content = _content(manifest)
        return None, {name: content[name] for name in damaged}

    def _put_aside(self, path: Path, what: str, reporter: StageReporter) -> None:
        kept = f"it is kept in {set_aside(path, self.root)}, and " if path.exists() else ""
        reporter.event("damage", what=what, remedy=f"{kept}stage {self.name} is run again")

    def _current(self, manifest: Mapping[str, Any], depends: Dependencies, reporter: StageReporter) -> bool:
        """Return whether a complete stage was computed from its present inputs; if not, move it aside."""
        now, before = depends.digests, manifest.get("upstream", {})  # earlier versions recorded none
        changed = sorted(k for k in now if before.get(k, now[k]) != now[k])
        if not changed:
            return True
        text = f"stage {self.name} was computed from other data than there are now ({', '.join(changed)})"
        if depends.keep:
            reporter.event("message", text=f"{text}; it is kept, because {depends.keep}")
            return True
        self._put_aside(self.folder, text, reporter)
        return False

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest = read_sealed(path)
            if not all(isinstance(manifest[key], dict) for key in ("inputs", "outputs", "results")):
                raise TypeError("inputs, outputs and results must be objects")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamageError(f"{path} is damaged ({error})") from error
        return manifest

    def _damaged(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the names of the output files that are missing or damaged."""
        files = {name: self.file(name) for name in manifest["outputs"]}
        return [n for n, f in files.items() if not f.is_file() or hash_file(f) != manifest["outputs"][n]]

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete stage, after a check of its output files.

        Raises
        ------
        DamageError
            The manifest cannot be read, or an output file is missing or damaged.
        """
        remedy = f"run `cgal run` again: it makes stage {self.name} again"
        try:
            manifest = self._read()
        except DamageError as error:
            raise DamageError(f"{error}; {remedy}") from error
        for name in self._damaged(manifest):
            state = "damaged" if self.file(name).is_file() else "missing"
            raise DamageError(f"{self.file(name)} is {state}; {remedy}")
        return manifest

    def digest(self) -> str:
        """Return a digest of the output files on which other stages depend, from the manifest.

        Raises
        ------
        DamageError
            The manifest cannot be read.
        """
        content = _content(self._read())
        return hash_object({k: v for k, v in content.items() if not k.endswith(_FOR_USERS)})

    def file(self, name: str) -> Path:
        """Return the path of a file that a manifest names.

        Raises
        ------
        StateError
            The name leads out of the folder.
        """
        path = Path(os.path.normpath(self.folder / name))
        if not path.is_relative_to(os.path.normpath(self.folder)):
            raise StateError(f"the manifest in {self.folder} names {name!r}, which is outside the folder")
        return path

    def results(self) -> dict[str, Any]:
        """Return the ``results`` of the manifest; raises as :meth:`manifest`."""
        return dict(self.manifest()["results"])


def _content(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {**manifest["outputs"], **manifest.get("content", {})}  # earlier versions have outputs only


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, without hidden ones and damaged ones."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sorted(p for p in files if DAMAGED not in p.relative_to(folder).parts)
