"""A refused simulation leaves nothing; the corrected call is as if it had been the first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.dynamics import simulate
from cgal_plugin.dynamics.backends import choose_backend
from cgal_plugin.errors import CGALError, StateError
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.export.loading import convert_potential
from cgal_plugin.mapping import CGTopology
from tests.dynamics.potentials import save_potential

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"
#: for one replica
SCRIPT = EXAMPLE / "benchmark_1/models/rmsd/seed_1/potential.pt"
COMMON = {"steps": 20, "timestep_fs": 4.0, "temperature": 400.0, "friction": 1.0, "report_interval": 10}

pytestmark = pytest.mark.filterwarnings("ignore:.*does not record the embedding")


@pytest.fixture(scope="module")
def topology() -> CGTopology:
    return CGTopology.from_sequence("YYDPETGTWY")


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    with np.load(EXAMPLE / "reference.npz") as arrays:
        return np.asarray(arrays[arrays.files[0]][:2], dtype=np.float64)


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file in the form for any number of replicas."""
    path = tmp_path_factory.mktemp("potential") / "p.npz"
    convert_potential(SCRIPT, path)
    return path


class Fails(torch.nn.Module):
    """A potential that cannot be evaluated, from the first or from a later call."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.left -= 1
        if self.left < 0:
            raise ValueError("no forces")
        return x.sum() * 0.0, x * 0.0


class NoNumbers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum() * 0.0, x * float("nan")


def _script(folder: Path, module: torch.nn.Module) -> Path:
    return save_potential(module, folder / "p.pt")


CALLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "replicas": lambda folder: {"potential": SCRIPT, "backend": "python"},
    "platform": lambda folder: {"platform": "Nope"},
    "temperatures": lambda folder: {"platform": "Nope", "temperatures": (380.0, 400.0)},
    "fails": lambda folder: {"potential": _script(folder, Fails(0)), "backend": "python"},
    "fails in the first step": lambda folder: {"potential": _script(folder, Fails(3)), "backend": "python"},
    "not finite": lambda folder: {"potential": _script(folder, NoNumbers()), "backend": "python"},
}


def _files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_left(
    name: str, existing: bool, potential: Path, topology: CGTopology, start: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "a/b/out"
    if existing:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("kept")
    arguments = {"potential": potential, "start_positions": start, "out_dir": out, **COMMON}
    arguments |= CALLS[name](tmp_path)
    before = [n for n in _files(tmp_path) if n.startswith("a")]
    with pytest.raises(CGALError):
        simulate(topology=topology, **arguments)
    assert [n for n in _files(tmp_path) if n.startswith("a") and not n.endswith(".lock")] == before
    assert (out / "notes.txt").exists() == existing


def test_the_corrected_call_has_the_backend_of_a_first_call(
    potential: Path, topology: CGTopology, start: np.ndarray, tmp_path: Path
) -> None:
    arguments = {"potential": potential, "topology": topology, "start_positions": start, **COMMON}
    with pytest.raises(CGALError):
        simulate(**arguments, out_dir=tmp_path / "out", platform="Nope")
    found = simulate(**arguments, out_dir=tmp_path / "out")
    first = simulate(**arguments, out_dir=tmp_path / "first")
    assert found.backend == first.backend == "cpu"
    for a, b in zip(found.trajectories, first.trajectories, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_record_without_a_checkpoint_does_not_choose_the_backend(
    potential: Path, topology: CGTopology, start: np.ndarray, tmp_path: Path
) -> None:
    """As a killed process, or a refused call of an earlier version, leaves it."""
    arguments = {"potential": potential, "topology": topology, "start_positions": start[:1], **COMMON}
    simulate(**arguments, out_dir=tmp_path / "out", backend="python")
    assert choose_backend("auto", potential, 1, "Reference", tmp_path / "out") == "python"
    os.unlink(tmp_path / "out/checkpoint.npz")
    assert choose_backend("auto", potential, 1, "Reference", tmp_path / "out") == "cpu"
    assert simulate(**arguments, out_dir=tmp_path / "out").backend == "cpu"


def test_what_was_simulated_is_kept(
    potential: Path, topology: CGTopology, start: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = {"potential": potential, "topology": topology, "start_positions": start, "out_dir": out}
    simulate(**arguments, **COMMON)
    before = {p: p.read_bytes() for p in out.iterdir()}
    for changes in ({"friction": 2.0}, {"steps": 10}, {"seed": 3}):
        with pytest.raises(StateError):
            simulate(**arguments, **(COMMON | changes))
        assert {p: p.read_bytes() for p in out.iterdir()} == before

    def stop(done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(**arguments, **(COMMON | {"steps": 60}), progress=stop)
    assert simulate(**arguments, **(COMMON | {"steps": 60})).n_frames == (6, 6)


def test_trajectories_of_others_are_kept(
    potential: Path, topology: CGTopology, start: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "replica_000.dcd").write_bytes(b"theirs")
    with pytest.raises(StateError, match="remove them"):
        simulate(potential, topology, start, out_dir=tmp_path, **COMMON)
    assert (tmp_path / "replica_000.dcd").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["p.npz", "p.pt", "p"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_command_takes_files_of_the_fast_engine(
    name: str, replicas: int, potential: Path, start: np.ndarray, tmp_path: Path
) -> None:
    FastPotential.from_file(potential).with_replicas(replicas).save(tmp_path / name)
    np.save(tmp_path / "start.npy", start)

    def call(path: Path, out: str) -> Any:
        options = f"--topology YYDPETGTWY --start {tmp_path / 'start.npy'} --steps 20 --report-interval 10"
        return CliRunner().invoke(app, f"simulate -p {path} {options} --replicas 2 -o {tmp_path / out}")

    found = call(tmp_path / name, "fast")
    assert found.exit_code == 0, found.output
    assert "4 frames of 2 replicas" in found.output
    assert call(potential, "exported").exit_code == 0
    for number in range(2):
        pair = [(tmp_path / out / f"replica_{number:03d}.dcd").read_bytes() for out in ("fast", "exported")]
        assert pair[0] == pair[1]
