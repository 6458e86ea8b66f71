"""Toy trajectories that the analysis tests share."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.mapping import CGTopology
from tests.analysis.toy import chain_trajectories


@pytest.fixture(scope="session")
def topology() -> CGTopology:
    return CGTopology.from_sequence("YYDPETGT")


@pytest.fixture(scope="session")
def reference() -> list[np.ndarray]:
    return chain_trajectories(30, 50, attraction=6.0, seed=1, stride=60)


@pytest.fixture(scope="session")
def stiff() -> list[np.ndarray]:
    """Too cold and without the attraction: a poor model of the reference."""
    return chain_trajectories(12, 40, attraction=0.0, seed=2, stride=60, temperature_kcal=0.25)


@pytest.fixture(scope="session")
def good() -> list[np.ndarray]:
    """The reference's own dynamics with another seed."""
    return chain_trajectories(12, 40, attraction=6.0, seed=3, stride=60)
