"""Threads of test workers; the option ``--seeds`` and the fixture ``chance_seed``."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # one thread per worker, set before numpy and torch are imported: with more threads than cores, the
    # workers of `pytest -n` slow each other down
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENMM_CPU_THREADS"):
        os.environ.setdefault(_name, "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="run every test that takes chance_seed with the seeds 0 to N - 1 (default 1)",
    )


@pytest.fixture(scope="module")
def chance_seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of a random trajectory or fit; a test that takes it is marked ``chance``."""
    seed: int = request.param
    return seed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``chance_seed`` once per seed."""
    if "chance_seed" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("seeds"))
        values = [pytest.param(seed, marks=pytest.mark.chance, id=f"seed{seed}") for seed in seeds]
        metafunc.parametrize("chance_seed", values, indirect=True, scope="module")
