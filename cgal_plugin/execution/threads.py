"""Threads of this process: one for numerical libraries, several for functions that release Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def one_numerical_thread() -> Iterator[None]:
    """Limit BLAS and torch to one thread in this block.

    With more threads they divide sums differently, so that the results of a run would depend on the number of
    cores. The parts of a run for which more cores pay divide their work themselves.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
