"""Small peptides, built once; and the OpenMM platform that the tests run on.

``CGAL_TEST_PLATFORM=Reference pytest tests/oracle`` runs on OpenMM's Reference platform instead of the CPU
platform.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pytest

from cgal_plugin.oracle import AllAtomModel, AllAtomTrajectory, OpenMMOracle
from tests.oracle.user_inputs import Inputs, write_inputs

TEMPERATURE = 400.0
PLATFORM = os.environ.get("CGAL_TEST_PLATFORM", "CPU")


def use_test_platform() -> None:
    """Make contexts on ``PLATFORM`` where the package asks for the CPU platform."""
    original = AllAtomModel.context

    def context(self: AllAtomModel, temperature: float, *, platform: str = "CPU", **options: Any) -> Any:
        engine = PLATFORM if platform == "CPU" else platform
        return original(self, temperature, platform=engine, **options)

    AllAtomModel.context = context  # type: ignore[method-assign]


if PLATFORM != "CPU":
    use_test_platform()


def import_this_module() -> None:
    """Initialise a spawned process: unpickling this function imports this module, which sets the platform."""


@pytest.fixture(scope="session")
def aa_oracle() -> OpenMMOracle:
    """Two alanines: two beads, whose distance is the only CG coordinate."""
    return OpenMMOracle(
        "AA",
        temperature=TEMPERATURE,
        mode="free",
        save_ps=0.04,
        relax_ps=1.0,
        production_ps=2.0,
    )


@pytest.fixture(scope="session")
def aa_short(aa_oracle: OpenMMOracle) -> AllAtomTrajectory:
    """250 frames at 400 K, one per 0.04 ps: enough to fit a force map, too few for averages."""
    return aa_oracle.run("auto", 10.0, seed=1, equilibrate_ps=1.0)


@cache
def _aa_run(oracle: OpenMMOracle, seed: int) -> AllAtomTrajectory:
    return oracle.run("auto", 60.0, seed=seed, equilibrate_ps=4.0)


@pytest.fixture(scope="module")
def aa_trajectory(aa_oracle: OpenMMOracle, chance_seed: int) -> AllAtomTrajectory:
    """1,500 frames at 400 K, one per 0.04 ps, after 4 ps of equilibration."""
    return _aa_run(aa_oracle, chance_seed)


@pytest.fixture(scope="session")
def dry_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Files of every kind for a peptide in vacuum."""
    return write_inputs(tmp_path_factory.mktemp("dry"), solvated=False)


@pytest.fixture(scope="session")
def wet_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Files of AMBER, GROMACS and OpenMM for the peptide in a box of 500 waters with ions."""
    return write_inputs(tmp_path_factory.mktemp("wet"), solvated=True)
