"""Map a function over items on threads, for functions that release Python's lock in their slow part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cgal_plugin.execution.resources import resolve_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_map(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return ``function(item)`` of each item, in order, on the cores that this process may use.

    The first exception of ``function``, in the order of the items, is raised.
    """
    n = resolve_threads("auto", len(items))
    if n == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
