"""A ten-bead topology and a two-bead one."""

from __future__ import annotations

import pytest

from cgal_plugin.mapping import CGTopology


@pytest.fixture(scope="session")
def chignolin() -> CGTopology:
    return CGTopology.from_sequence("YYDPETGTWY")


@pytest.fixture(scope="session")
def pair() -> CGTopology:
    return CGTopology.from_sequence("GA")
