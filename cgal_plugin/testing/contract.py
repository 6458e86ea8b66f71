"""Run the loop's own checks as assertions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.components.checks import check_component
from cgal_plugin.errors import CGALError

Result = TypeVar("Result")


def checked(check: Callable[..., Result], *arguments: Any) -> Result:
    """Call one of the loop's checks; its error becomes an AssertionError."""
    try:
        return check(*arguments)
    except CGALError as error:
        raise AssertionError(str(error)) from error


def has_role(role: str, component: object) -> None:
    """Assert that a component has the methods of its role."""
    checked(check_component, role, component)


@contextmanager
def unchanged(array: NDArray[Any], message: str) -> Iterator[None]:
    """Assert that the block leaves the array as it is."""
    before = array.copy()
    yield
    assert np.array_equal(before, array), message


def is_json(value: object, name: str) -> None:
    """Assert that a value can be written to a manifest."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name} cannot be written as JSON: {error}") from None
