"""One stage of a run: computed once, recorded in a manifest, loaded afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgal_plugin.errors import StateError
from cgal_plugin.provenance import hash_file, hash_object, read_sealed, versions, write_sealed
from cgal_plugin.runs.log import Progress, SilentReporter, StageReporter

MANIFEST = "manifest.json"


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


class Stage:
    """The folder of one stage. The stage is complete when its manifest exists.

    Parameters
    ----------
    folder
        Folder of the stage.
    name
        Path of the stage below the run directory, for messages and the manifest.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

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
        reporter: StageReporter | None = None,
        restore: Callable[[Path], object] | None = None,
        usable: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> dict[str, Any]:
        """Compute the stage and write its manifest, or load the results of a complete stage.

        Parameters
        ----------
        compute
            ``compute(folder, progress)``. After an interruption, it is called again with the same folder.
        title
            Name of the stage for the reporter.
        inputs, seeds
            Recorded in the manifest.
        reporter
            Receives the start, progress and end of the stage.
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
            The manifest or an output file of a complete stage is missing or damaged.
        """
        reporter = SilentReporter() if reporter is None else reporter
        if self.done:
            manifest = self.manifest()
            if usable is None or usable(manifest):
                reporter.skipped(title)
                if restore is not None:
                    restore(self.folder)
                return dict(manifest["results"])
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        with reporter.stage(title) as progress:
            output = compute(self.folder, progress)
        recorded = {**inputs, **output.inputs}
        write_sealed(
            self.folder / MANIFEST,
            {
                "stage": self.name,
                "inputs": recorded,
                "inputs_hash": hash_object(recorded),
                "outputs": {os.path.relpath(p, self.folder): hash_file(p) for p in output.files},
                "results": dict(output.results),
                "seeds": dict(seeds or {}),
                "seconds": time.time() - started,
                "finished": time.time(),
                "versions": versions(),
            },
        )
        return dict(read_sealed(self.folder / MANIFEST)["results"])

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete stage, after a check of its output files.

        Raises
        ------
        StateError
            The manifest cannot be read, or an output file is missing or damaged.
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
                state = "damaged" if file.is_file() else "missing"
                raise StateError(f"{file} is {state}; delete {path} to run stage {self.name} again")
        return manifest

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


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, without hidden ones."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
