"""Names in a run directory that several modules use."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgal_plugin.config import Config
from cgal_plugin.config.models import Training
from cgal_plugin.data import DataStore
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.data.trajectories import load_replicas, save_trajectories
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.stage import Dependencies, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: stages of a round, in order
STAGES = ("train", "simulate", "evaluate", "test", "select", "label")
#: folder for the input, output and logs of workers
WORK = "work"
#: the force map, kept beside the shards of a data store so that labels can be added to it
FORCE_MAP = "force_map.npz"
#: start structures of backmapping, from the all-atom seed data
LIBRARY = "library.npz"
#: folder of the refinement's iterations
REFINEMENT = "refinement"
#: see shard_name; numbers may have more digits than they are padded to
_ROUND_SHARD = re.compile(r"r(\d{3,})_f\d{4,}")
#: fraction at the start of each refinement trajectory that is discarded as equilibration
EQUILIBRATION = 0.2


def round_name(index: int) -> str:
    """Return the name of a round's folder, which is also the source of its shards."""
    return f"round_{index:03d}"


def shard_name(index: int, frame: int) -> str:
    """Return the name of the shard with the label of a selected frame of a round."""
    return f"r{index:03d}_f{frame:04d}"


def shard_round(name: str) -> int:
    """Return the round in which the labels of a shard were made; -1 for seed data."""
    found = _ROUND_SHARD.fullmatch(name)
    return int(found[1]) if found else -1


def seed_shards(store: DataStore) -> list[str]:
    """Return the names of the shards with seed data."""
    return [name for name in store.names() if shard_round(name) < 0]


def seed_digest(store: DataStore) -> Dependencies:
    """Return what the priors depend on: the seed data."""
    return Dependencies({"shards": store.digest(seed_shards(store))})


def round_dependencies(
    config: Config, directory: RunDirectory, store: DataStore, index: int, stage: str
) -> Dependencies:
    """Return what a stage of a round depends on.

    Labels depend on no other stage: they are forces of the frames that they hold, and an intact label is
    never computed again. A selection whose frames were labelled is kept with its labels.
    """

    def stage_of(number: int, name: str) -> tuple[str, str]:
        folder = round_name(number)
        return f"{folder}/{name}", directory.stage("rounds", folder, name).digest()

    shards = [n for n in store.names() if shard_round(n) < index]
    data = [("shards", store.digest(shards))]
    if stage == "train":
        scratch = isinstance(config.training, Training) and config.training.mode == "scratch"
        before = [] if scratch or index == 0 else [stage_of(index - 1, "train")]
        return Dependencies(dict([*data, ("priors", directory.stage("priors").digest()), *before]))
    if stage == "simulate":
        return Dependencies(dict([*data, stage_of(index, "train")]))
    if stage == "test":
        return Dependencies(dict([stage_of(index, "train")]))
    if stage == "evaluate":
        return Dependencies(dict([*data, stage_of(index, "simulate")]))
    if stage == "select":
        labelled = any(shard_round(n) == index for n in store.names())
        sources = [*data, stage_of(index, "train"), stage_of(index, "simulate")]
        return Dependencies(dict(sources), "its frames are labelled" if labelled else "")
    return Dependencies({})


def refined_stages(directory: RunDirectory) -> list[Stage]:
    """Return the complete refinement iterations of a run, in order."""
    folders = sorted((directory.root / REFINEMENT).glob("iteration_*"))
    return [s for s in (directory.stage(REFINEMENT, f.name) for f in folders) if s.done]


def test_stages(directory: RunDirectory) -> list[tuple[str, Stage]]:
    """Return the complete tests of a run in order, each with the name of its model.

    Names are ``"round 0"`` and so on, and ``"refined"`` for a final model that is refined.
    """
    names = [folder.name for folder in directory.round_folders()]
    found = [(f"round {int(name[-3:])}", directory.stage("rounds", name, "test")) for name in names]
    if directory.read_config().get("refinement") is not None:
        found.append(("refined", directory.stage(REFINEMENT, "test")))
    return [(label, stage) for label, stage in found if stage.done]


def keep_trajectories(
    folder: Path, trajectories: Sequence[NDArray[np.floating]], files: Sequence[Path] = ()
) -> tuple[list[Path], list[str]]:
    """Write sampled trajectories, unless ``files`` already hold them.

    Parameters
    ----------
    folder
        Folder of the stage.
    trajectories
        One ``(n, n_beads, 3)`` array per replica, Å.
    files
        DCD files of :mod:`cgal_plugin.data.dcd` below ``folder`` that already hold them, one per replica.

    Returns
    -------
    The files, and their names relative to ``folder`` for :func:`sampled_trajectories`.
    """
    kept = list(files)
    if not kept:
        kept = [folder / "frames.npz"]
        save_trajectories(kept[0], trajectories)
    return kept, [Path(os.path.relpath(path, folder)).as_posix() for path in kept]


def sampled_trajectories(stage: Stage) -> list[NDArray[np.floating]]:
    """Return the trajectories of a complete simulation, one ``(n, n_beads, 3)`` array per replica, Å."""
    found: list[NDArray[np.floating]] = []
    for name in stage.results()["trajectories"]:
        path = stage.file(name)
        found += load_replicas(path) if path.suffix == ".npz" else [read_dcd(path)]
    return found


def without_equilibration(trajectories: Sequence[NDArray[np.floating]]) -> list[NDArray[np.floating]]:
    """Return the trajectories of a refinement iteration without their equilibration."""
    used = [t[round(EQUILIBRATION * len(t)) :] for t in trajectories]
    return [t for t in used if len(t)]
