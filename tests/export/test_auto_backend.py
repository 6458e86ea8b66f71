"""``backend="auto"``: the fast engine (``"cpu"``) if it supports the potential, otherwise a logged reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from cgal_plugin.dynamics import SimulationResult, simulate
from cgal_plugin.dynamics.force import resolve_backend
from cgal_plugin.export import export_torchscript
from cgal_plugin.mapping import CGTopology


def start(
    potential: Path, topology: CGTopology, frames: np.ndarray, out: Path, **options: Any
) -> SimulationResult:
    return simulate(
        potential, topology, frames[:2], timestep_fs=2.0, temperature=300.0, friction=1.0, report_interval=10,
        out_dir=out, **{"steps": 40, **options},
    )  # fmt: skip


def used(out: Path) -> str:
    return json.loads((out / "simulation.json").read_text())["inputs"]["backend"]


@pytest.fixture(scope="module")
def potential(make: Any, topology: CGTopology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("potential") / "p.pt"
    export_torchscript(make(precision=32), topology, path, n_replicas=2)
    return path


def test_the_fast_engine_is_taken_and_recorded(
    potential: Path, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    result = start(potential, topology, frames, tmp_path / "a")
    assert result.backend == used(tmp_path / "a") == "cpu"
    named = start(potential, topology, frames, tmp_path / "b", backend="cpu")
    for ours, theirs in zip(result.trajectories, named.trajectories, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    portable = start(potential, topology, frames, tmp_path / "c", backend="python")
    fast = start(potential, topology, frames, tmp_path / "d", backend="fast")
    for ours, theirs in zip(fast.load(), portable.load(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_continued_simulation_keeps_its_backend(
    potential: Path, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    start(potential, topology, frames, tmp_path / "a", backend="python", steps=20)
    result = start(potential, topology, frames, tmp_path / "a")
    assert result.backend == used(tmp_path / "a") == "python"
    whole = start(potential, topology, frames, tmp_path / "b", backend="python")
    assert result.trajectories[1].read_bytes() == whole.trajectories[1].read_bytes()
    start(potential, topology, frames, tmp_path / "c", steps=20)
    again = start(potential, topology, frames, tmp_path / "c")
    assert again.backend == "cpu"
    whole = start(potential, topology, frames, tmp_path / "d")
    assert again.trajectories[1].read_bytes() == whole.trajectories[1].read_bytes()


def test_a_potential_that_the_engine_cannot_use(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(precision=32, neighbor_embedding=True)
    export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=2)
    with caplog.at_level(logging.INFO):
        result = start(tmp_path / "p.pt", topology, frames, tmp_path / "a")
    assert result.backend == used(tmp_path / "a") == resolve_backend("auto") != "cpu"
    (record,) = [r for r in caplog.records if r.name.startswith("cgal_plugin")]
    assert record.levelno == logging.WARNING
    assert "neighbour embedding" in record.message
    assert result.backend in record.message
