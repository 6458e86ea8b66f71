"""Start structures of the model test: the same for all rounds, and none that the model was trained on.

Half of the replicas start from the given structure (or the known fold), half from a stretched chain. Where
one of these does not exist, its place is taken by frames of the seed data that are reserved for this
(:mod:`cgal_plugin.data.reserved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.frames import start_positions
from cgal_plugin.components.protocols import StructureSource
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.data.reserved import RESERVED as FOLDER
from cgal_plugin.data.reserved import Withheld
from cgal_plugin.errors import CGALError
from cgal_plugin.runs.layout import seed_shards
from cgal_plugin.runs.summary import load_arrays, save_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.oracle import OpenMMOracle

STRUCTURE, STRETCHED, RESERVED, TRAINING = "structure", "stretched", "reserved", "training data"
#: most frames that are kept of a kind
_MOST = 256
#: Å; library frames with a lower RMSD to a frame that is kept back are the same frame
_SAME = 0.05


def known_structures(source: StructureSource | None) -> tuple[str, ...]:
    """Return which start structures the source of structures has."""
    from cgal_plugin.oracle import OpenMMOracle
    from cgal_plugin.oracle.sampling import can_stretch

    if source is None:
        return ()
    if not isinstance(source, OpenMMOracle):
        return (STRUCTURE, STRETCHED)
    return (STRUCTURE,) * source.model.folded + (STRETCHED,) * can_stretch(source.model)


def needs_reserved(config: Config, source: StructureSource | None) -> bool:
    """Return whether frames of the seed data are kept back for the test's starts."""
    return config.tested is not None and len(known_structures(source)) < 2


def common_starts(oracle: StructureSource, n: int) -> NDArray[np.floating]:
    """Return ``(n, n_beads, 3)`` Å: the folded and the stretched chain in turn."""
    both = np.stack([oracle.native_positions(), oracle.extended_positions()])
    starts: NDArray[np.floating] = oracle.mapping.map_positions(both)[np.arange(n) % 2]
    return starts


@dataclass(frozen=True, eq=False)
class StartSet:
    """Start structures by kind, ``(n, n_beads, 3)`` Å each, of one or two kinds."""

    frames: Mapping[str, NDArray[np.floating]]

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds."""
        return sorted(self.frames, key=[STRUCTURE, STRETCHED, RESERVED, TRAINING].index)

    def replicas(self, n: int) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return ``(n, n_beads, 3)`` Å, the kinds in turn, and ``(n,)`` the index of the kind of each."""
        kind = np.arange(n) % len(self.kinds)
        turn = np.arange(n) // len(self.kinds)
        pools = [self.frames[name] for name in self.kinds]
        start = [pools[k][i % len(pools[k])] for k, i in zip(kind, turn, strict=True)]
        return np.stack(start), kind.astype(np.int64)

    @property
    def fold(self) -> NDArray[np.floating] | None:
        """``(n_beads, 3)`` Å: the given structure; None without one."""
        return self.frames[STRUCTURE][0] if STRUCTURE in self.frames else None

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` file."""
        return save_arrays(path, **{name.replace(" ", "_"): self.frames[name] for name in self.kinds})

    @classmethod
    def load(cls, path: Path) -> StartSet:
        """Read a file of :meth:`save`."""
        return cls({name.replace("_", " "): array for name, array in load_arrays(path).items()})


def find_starts(
    source: StructureSource | None, store: DataStore, seed: int
) -> tuple[StartSet, dict[str, Any]]:
    """Return the start structures of a run, and JSON-ready facts about them.

    ``notes`` of the facts says what cannot be had and what is used instead.
    """
    frames: dict[str, NDArray[np.floating]] = {}
    notes: list[str] = []
    for kind in known_structures(source):
        assert source is not None
        try:
            made = source.native_positions() if kind == STRUCTURE else source.extended_positions()
        except CGALError as error:
            notes.append(f"the test has no {kind} start: {error}")
            continue
        frames[kind] = np.asarray(source.mapping.map_positions(np.asarray(made)[None]))
    if len(frames) < 2:
        reserved = Withheld.read(store).starts
        if len(reserved):
            frames[RESERVED] = _spread(reserved)
        else:
            frames[TRAINING] = start_positions(store, seed_shards(store), _MOST, seed, spread=True)
            notes.append(
                "the test starts from frames of the training data, because this run has kept back none "
                "(its seed data are those of an earlier version, or too few): W1 may keep something of them"
            )
    found = StartSet(frames)
    counts = {name: len(found.frames[name]) for name in found.kinds}
    return found, {"kinds": counts, "notes": notes}


def _spread(frames: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return frames in an order in which the first ones differ most."""
    from cgal_plugin.selector import k_centre

    pool = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 2000)).round().astype(int))]
    return np.asarray(pool[k_centre(pool, min(len(pool), _MOST))[0]])


def reserved_notes(store: DataStore) -> list[str]:
    """Say which frames of the seed data the store has kept back."""
    withheld = Withheld.read(store)
    n_starts, n = len(withheld.starts), len(withheld.positions)
    if not n:
        return []
    return [
        f"{n_starts} frames of the seed data are kept back as starts of the model test, and {n - n_starts} "
        f"left out because they are correlated with them ({store.root / FOLDER}): nothing is trained on them"
    ]


def without_withheld(oracle: OpenMMOracle, store: DataStore) -> OpenMMOracle:
    """Return the oracle without library frames that the store has kept back.

    Backmapping starts from the nearest library frame: labels near a reserved frame would otherwise start from
    its own all-atom structure.
    """
    from cgal_plugin.oracle import AllAtomLibrary
    from cgal_plugin.selector import nearest_rmsd

    library, withheld = oracle.library, Withheld.read(store).positions
    if library is None or not len(library) or not len(withheld):
        return oracle
    kept = nearest_rmsd(library.beads, withheld)[0] > _SAME
    rest = AllAtomLibrary(oracle.model, library.positions[kept]) if kept.any() else None
    return oracle.with_library(rest)
