"""Toy trajectories that the analysis tests share."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.mapping import CGTopology
from tests.analysis.toy import ensembles


@pytest.fixture(scope="session")
def topology() -> CGTopology:
    return CGTopology.from_sequence("YYDPETGT")


@pytest.fixture(scope="session")
def reference() -> list[np.ndarray]:
    return ensembles(0)[0]


@pytest.fixture(scope="session")
def good() -> list[np.ndarray]:
    """The reference's own dynamics with another seed."""
    return ensembles(0)[1]


@pytest.fixture(scope="session")
def stiff() -> list[np.ndarray]:
    """Too cold and without the attraction: a poor model of the reference."""
    return ensembles(0)[2]
