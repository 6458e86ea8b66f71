"""Cheap runs that more than one file uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import cheap, stand_ins


@pytest.fixture
def without_figures() -> Iterator[None]:
    """See :func:`tests.driver.cheap.without_figures`."""
    with cheap.without_figures():
        yield


@pytest.fixture(scope="module")
def cheap_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the seed store and a complete run of one round, ``run``."""
    folder = tmp_path_factory.mktemp("cheap")
    with cheap.without_figures():
        cheap.cheap_run(folder / "run", stand_ins.config(folder))
    return folder
