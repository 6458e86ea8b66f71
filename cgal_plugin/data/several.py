"""Several data stores as one data set: which of them belong together, and their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from cgal_plugin.data.sources import FrameTable, read_store
from cgal_plugin.data.store import DataStore
from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import DataError
from cgal_plugin.mapping.embedding import check_same_embedding

Root: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def store_paths(root: Root, stores: Sequence[str | os.PathLike[str]] | None = None) -> list[Path]:
    """Return the folders of the stores that a data set names.

    Parameters
    ----------
    root
        A store, or a list of stores; with ``stores``, the folder of their relative paths.
    stores
        Stores, relative to ``root`` or to the working directory.

    Raises
    ------
    DataError
        No store is given, or one is given twice, or ``root`` and ``stores`` both list stores.
    """
    if stores is None:
        listed = [root] if isinstance(root, str | os.PathLike) else root
        found = [Path(path).expanduser() for path in _listed(listed, "the data set")]
    elif isinstance(stores, str | os.PathLike) or not isinstance(stores, Sequence):
        raise DataError(f"stores is {stores!r}; it must be a list of data stores")
    elif not isinstance(root, str | os.PathLike):
        raise DataError("root and stores both list data stores: give the folder of the stores as root")
    else:
        folder = Path(root).expanduser()
        below = [folder / Path(path).expanduser() for path in _listed(stores, "stores")]
        found = [b if b.exists() else Path(p).expanduser() for b, p in zip(below, stores, strict=True)]
    if not found:
        raise DataError("the list of data stores is empty")
    seen = [path.resolve() for path in found]
    twice = sorted({str(path) for path in seen if seen.count(path) > 1})
    if twice:
        raise DataError(f"data store {', '.join(twice)} is given twice")
    return found


def _listed(paths: Any, what: str) -> Sequence[str | os.PathLike[str]]:
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise DataError(f"{what} is {paths!r}; it must be a data store or a list of data stores")
    return paths


def open_stores(paths: Sequence[Path]) -> list[DataStore]:
    """Open stores and check that they can be mixed in one data set.

    Raises
    ------
    DataError
        A folder is no store; temperatures or embeddings differ; or two stores of one molecule have different
        force maps.
    """
    stores = [DataStore(path) for path in paths]
    first = stores[0]
    for number, store in enumerate(stores[1:], 1):
        where = f"store {first.root}", f"store {store.root}"
        same_temperature(first.temperature, store.temperature, *where)
        check_same_embedding(first.topology.embedding, store.topology.embedding, *where, DataError)
        for other in stores[:number]:
            if other.topology == store.topology and other.force_map_hash != store.force_map_hash:
                raise DataError(
                    f"stores {other.root} and {store.root} are for one molecule, {store.topology!r}, with "
                    f"forces of two maps ({other.force_map_hash[:12]} and {store.force_map_hash[:12]}); "
                    "force maps are not mixed: use one of the stores, label again with one map, or, if the "
                    "data have one map, import both with one --force-map NAME"
                )
    return stores


def read_stores(
    paths: Sequence[Path],
    shards: Sequence[str] | Sequence[Sequence[str]] | None,
    sources: Sequence[str] | None,
) -> Iterator[FrameTable]:
    """Yield the frames of stores that can be mixed, one table per store.

    With more than one store, the sources get the name of their store: ``chignolin/seed``.

    Parameters
    ----------
    paths
        Folders of the stores.
    shards
        Shards to use; with more than one store, one list per store. None: all.
    sources
        Sources to use, of one store. None: all.

    Raises
    ------
    DataError
        See :func:`open_stores` and :func:`~cgal_plugin.data.sources.read_store`; or there is not one list of
        shards per store, or sources are chosen from more than one store.
    """
    open_stores(paths)
    if len(paths) == 1:
        nested = shards is not None and len(shards) == 1 and not isinstance(shards[0], str)
        yield read_store(paths[0], shards[0] if nested else shards, sources)  # type: ignore[index,arg-type]
        return
    if sources is not None:
        raise DataError("sources select from one data store; with several stores, leave them out")
    if shards is not None and (len(shards) != len(paths) or any(isinstance(own, str) for own in shards)):
        raise DataError(
            f"shards must be one list per data store: {len(paths)} lists, in the order of the stores"
        )
    chosen = [None] * len(paths) if shards is None else shards
    for path, name, own in zip(paths, store_names(paths), chosen, strict=True):
        table = read_store(path, own, None)
        renamed = {source: f"{name}/{source}" for source in table.sources}
        yield replace(
            table,
            sources=tuple(renamed.values()),
            weights={renamed[source]: weight for source, weight in table.weights.items()},
        )


def store_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ, such as ``a/data`` and ``b/data``."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names
