"""The neighbour list is correct for any motion; potentials with a list and with all pairs are equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ExportError
from cgal_plugin.export import export_torchscript, load_metadata
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.export.neighbors import NeighborList
from cgal_plugin.export.potential import potential_module
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM
from tests.export.conftest import unscripted
from tests.export.test_torchscript import EAGER
from tests.priors.chains import chains
from tests.priors.pairs import with_pairs

CUTOFF, SKIN = 12.0, 2.0


def brute(x: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of one replica within the cutoff, rows of R·N."""
    found = set()
    n = x.shape[1]
    for r, frame in enumerate(x):
        with np.errstate(invalid="ignore"):
            d = np.linalg.norm(frame[:, None] - frame[None], axis=-1)
            near = np.triu(d < CUTOFF, 1)
        found |= {(r * n + i, r * n + j) for i, j in np.argwhere(near)}
    return found


def check(found: tuple[torch.Tensor, ...], x: np.ndarray) -> None:
    i, j, d = (t.numpy() for t in found)
    pairs = list(zip(i.tolist(), j.tolist(), strict=True))
    assert set(pairs) == brute(x)
    assert pairs == sorted(set(pairs))
    flat = x.reshape(-1, 3)
    np.testing.assert_array_equal(d, flat[j] - flat[i])


@pytest.fixture(params=["python", "scripted", "frozen"])
def neighbors(request: pytest.FixtureRequest) -> Any:
    module = NeighborList(CUTOFF, SKIN).eval()
    if request.param == "python":
        return module
    scripted = torch.jit.script(module)
    return scripted if request.param == "scripted" else torch.jit.freeze(scripted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_every_kind_of_motion(neighbors: Any) -> None:
    """Slow drift, jumps of one bead and of all, a collapse, an explosion, and back."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-20, 20, size=(3, 40, 3))

    def call(frame: np.ndarray) -> None:
        check(neighbors(torch.from_numpy(frame)), frame)

    for step in range(40):
        x = x + rng.normal(scale=0.3, size=x.shape)
        if step % 5 == 1:
            x[rng.integers(3), rng.integers(40)] = rng.uniform(-60, 60, size=3)
        if step % 7 == 3:
            x = x[:, rng.permutation(40)]
        call(x)
    call(0.01 * x)
    call(np.zeros_like(x))
    call(1e3 * x)
    call(1e9 * x)
    call(x)
    # on both sides of the cells' edges, and beyond the outermost cells
    grid = (CUTOFF + SKIN) * rng.integers(-1, 2, size=x.shape) + rng.choice([-1e-9, 0.0, 1e-9], size=x.shape)
    call(grid)
    call(grid + 1e5)


def test_made_again_only_when_needed() -> None:
    """Two beads that close in by just under skin/2 each are still found, and the list is the old one."""
    x = np.zeros((1, 3, 3))
    x[0, 1, 0], x[0, 2, 1] = CUTOFF + 0.999 * SKIN, 200.0
    module = NeighborList(CUTOFF, SKIN)
    check(module(torch.from_numpy(x)), x)
    first = module.pairs
    assert module(torch.from_numpy(x))[0].numel() == 0
    x[0, 0, 0] += 0.4999 * SKIN
    x[0, 1, 0] -= 0.4999 * SKIN
    found = module(torch.from_numpy(x))
    check(found, x)
    assert found[0].tolist() == [0]
    assert module.pairs is first
    x[0, 2, 1] -= 0.51 * SKIN
    check(module(torch.from_numpy(x)), x)
    assert module.pairs is not first


def test_not_a_number_and_back() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-8, 8, size=(3, 12, 3))
    module = NeighborList(CUTOFF, SKIN)
    bad = x.copy()
    bad[1] = np.nan
    bad[2, 3] = np.inf
    for frame in (x, bad, bad, x, bad, 0.01 * x):
        check(module(torch.from_numpy(frame)), frame)
    nowhere = np.full_like(x, np.nan)
    check(module(torch.from_numpy(nowhere)), nowhere)
    check(module(torch.from_numpy(0.0 * x)), 0.0 * x)


def test_many_beads_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-30, 30, size=(2, 300, 3))
    module = NeighborList(CUTOFF, SKIN)
    module.at_a_time = 64
    check(module(torch.from_numpy(x)), x)


@pytest.mark.parametrize("name", list(EAGER))
@pytest.mark.parametrize("filters", ["exact", "table"])
def test_list_equals_all_pairs(
    name: str, filters: str, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    if filters == "table" and name.endswith("embedding"):
        pytest.skip("a neighbour embedding has no tables")
    model = make(**EAGER[name])
    potentials: dict[str, Any] = {
        pairs: unscripted(model, topology, 4, filters, pairs) for pairs in ("dense", "list")
    }
    if name == "majewski":
        for pairs in ("dense", "list"):
            path = tmp_path / f"{pairs}.pt"
            metadata = export_torchscript(model, topology, path, n_replicas=4, pairs=pairs, filters=filters)
            assert load_metadata(path)["pairs"] == metadata["pairs"] == pairs
            potentials[pairs] = torch.jit.load(str(path))
    # stretched until pairs leave the cutoff, crowded, coincident, and far apart
    far = frames[:4].copy()
    far[1, 5:] += 50.0
    same = frames[:4].copy()
    same[2, 4] = same[2, 7]
    for x in (frames[:4], 1.7 * frames[4:8], 0.3 * frames[:4], far, same, 50.0 * frames[:4], frames[:4]):
        nm = torch.from_numpy(x.reshape(-1, 3) / ANGSTROM_PER_NM)
        (e, f), (found_e, found_f) = potentials["dense"](nm), potentials["list"](nm)
        assert float((found_f - f).abs().max()) <= 1e-11 * float(f.abs().max())
        assert float(found_e) == pytest.approx(float(e), rel=1e-11)
    bad = frames[:4].copy()
    bad[1, 3] = np.nan
    nm = torch.from_numpy(bad.reshape(-1, 3) / ANGSTROM_PER_NM)
    listed = potentials["list"]
    energies, forces = listed.replica_energies(nm), listed(nm)[1].view(4, -1)
    assert torch.isnan(energies).tolist() == [False, True, False, False]
    assert torch.isnan(forces[1]).all()
    expected = potentials["dense"](nm)[1].view(4, -1)
    kept = [0, 2, 3]
    assert float((forces - expected)[kept].abs().max()) <= 1e-11 * float(expected[kept].abs().max())


def test_forces_do_not_depend_on_the_past(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    """To the last bit, so that a restarted simulation repeats itself."""
    export_torchscript(make(precision=32), topology, tmp_path / "p.pt", n_replicas=2, pairs="list")
    x = [
        torch.from_numpy((frames[:2] + 0.05 * k).reshape(-1, 3) * (1 + 0.004 * k) / ANGSTROM_PER_NM)
        for k in range(30)
    ]
    used = torch.jit.load(str(tmp_path / "p.pt"))
    for frame in x:
        e, f = used(frame)
    again = torch.jit.load(str(tmp_path / "p.pt"))
    for _ in range(3):
        fresh = again(x[-1])
    assert torch.equal(f, fresh[1])
    assert torch.equal(e, fresh[0])
    assert used.neighbors.built.shape == (20, 3)


SCRIPT = """
import json, sys
import numpy as np
import openmm, openmmtorch

n, moves = np.load("start.npy"), np.load("moves.npy")
force = openmmtorch.TorchForce("list.pt")
force.setOutputsForces(True)
system = openmm.System()
for _ in n:
    system.addParticle(110.0)
system.addForce(force)
platform = openmm.Platform.getPlatformByName("Reference")
integrators = [openmm.LangevinMiddleIntegrator(400.0, 1.0, 0.002) for _ in (0, 1)]
contexts = [openmm.Context(system, integrator, platform) for integrator in integrators]
forces = []
for k, x in enumerate(moves):
    # two contexts of one force, each with a list of its own
    for context in contexts[: 1 + k % 2]:
        context.setPositions(x)
        found = context.getState(forces=True).getForces(asNumpy=True)._value.copy()
    forces.append(found)
context.setPositions(moves[0])
context.setVelocitiesToTemperature(4000.0, 1)
steps = []
for _ in range(20):
    context.getIntegrator().step(25)
    state = context.getState(positions=True, forces=True)
    steps.append([state.getPositions(asNumpy=True)._value, state.getForces(asNumpy=True)._value])
np.savez("out.npz", forces=forces, steps=steps)
"""


def test_teleporting_beads_through_openmm(make: Any, tmp_path: Path) -> None:
    """The list is also correct in the frozen module of openmm-torch."""
    pytest.importorskip("openmmtorch")
    chain = CGTopology.from_sequence("YYDPETGTWYGAKLE")
    model = make(prior_model=None, precision=32, max_num_neighbors=80)
    export_torchscript(model, chain, tmp_path / "list.pt", n_replicas=2, pairs="list")
    dense = potential_module(model, chain, n_replicas=2, dtype="float64", pairs="dense")
    rng = np.random.default_rng(3)
    start = chains(2, 15, seed=4).reshape(-1, 3) / ANGSTROM_PER_NM
    moves = np.repeat(start[None], 30, axis=0)
    for k, x in enumerate(moves[1:], start=1):
        if k % 3 == 0:
            x[rng.integers(30, size=4)] += rng.normal(scale=1.5, size=(4, 3))
        else:
            x += rng.normal(scale=0.01 * k, size=x.shape)
    np.save(tmp_path / "start.npy", start)
    np.save(tmp_path / "moves.npy", moves)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        pairs = [*zip(moves, found["forces"], strict=True), *found["steps"]]
    travelled = np.abs(pairs[-1][0] - pairs[30][0]).max() * ANGSTROM_PER_NM
    assert travelled > 2 * SKIN
    for x, forces in pairs:
        expected = dense(torch.from_numpy(np.array(x)))[1].numpy()
        assert np.abs(forces - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_thousand_beads(make: Any, tmp_path: Path) -> None:
    """Memory stays small, and forces equal those of the fast engine, which visits all pairs."""
    code = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
script, x = torch.jit.load("p.pt"), torch.from_numpy(np.load("x.npy"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for k in range(3):
    forces = script(x * (1 + 0.02 * k))[1]
np.save("f.npy", forces.numpy())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    chain = CGTopology.from_sequence("YYDPETGTWY" * 100)
    size = {"embedding_dimension": 128, "num_layers": 4, "num_rbf": 18, "max_num_neighbors": 100}
    model = make(model="graph-network", prior_model=None, precision=32, **size)
    grid = np.stack(np.meshgrid(*[np.arange(10) * 5.12] * 3), -1).reshape(-1, 3)
    x = (grid + np.random.default_rng(0).normal(scale=0.4, size=grid.shape)) / ANGSTROM_PER_NM
    metadata = export_torchscript(model, chain, tmp_path / "p.pt")
    assert metadata["pairs"] == "list"
    assert metadata["filters"] == "table"
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    # all pairs with filters: 4 blocks x 500,000 x 128 x 4 bytes, and as much again for derivatives
    assert int(done.stdout) / 2**10 < 700
    if fast_available():
        fast = FastPotential.from_model(model, chain)
        forces = fast(x * 1.04)[1]
        assert np.abs(np.load(tmp_path / "f.npy") - forces).max() < 1e-5 * np.abs(forces).max()
        # from the same file, since the engine reads both forms
        again = FastPotential.from_file(tmp_path / "p.pt")(x * 1.04)[1]
        assert np.abs(again - forces).max() < 1e-5 * np.abs(forces).max()


def test_priors_of_a_large_molecule(make: Any, tmp_path: Path) -> None:
    """All priors give equal forces with a neighbour list, with all pairs and in the fast engine."""
    from cgal_plugin.priors import fit_priors

    chain = CGTopology.from_sequence("YYDPETGTWY" * 4)
    x = chains(60, 40, seed=5)
    model = make(prior_model=with_pairs(fit_priors(chain, x, 400.0)).to_prior_model())
    dense = potential_module(model, chain, n_replicas=3, pairs="dense")
    listed = potential_module(model, chain, n_replicas=3)
    export_torchscript(model, chain, tmp_path / "p.pt", n_replicas=3)
    assert load_metadata(tmp_path / "p.pt")["pairs"] == "list"
    for part in (x[:3], 0.5 * x[:3], x[3:6]):
        nm = torch.from_numpy(part.reshape(-1, 3) / ANGSTROM_PER_NM)
        e, f = dense(nm)
        for found_e, found_f in (listed(nm), torch.jit.load(str(tmp_path / "p.pt"))(nm)):
            assert float((found_f - f).abs().max()) < 1e-11 * float(f.abs().max())
            assert float(found_e) == pytest.approx(float(e), rel=1e-11)
        if fast_available():
            found_e, forces = FastPotential.from_file(tmp_path / "p.pt")(nm.numpy())
            assert np.abs(forces - f.numpy()).max() < 1e-5 * float(f.abs().max())


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        *[("pairs", value, "'auto', 'dense' or 'list'") for value in ("sparse", None)],
        *[("skin", value, "skin") for value in (0.0, -1.0, float("nan"), "2")],
        *[("tolerance", value, "tolerance") for value in (0.0, float("nan"))],
    ],
)
def test_invalid_arguments(
    argument: str, value: Any, message: str, make: Any, topology: CGTopology, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_torchscript(make(precision=32), topology, tmp_path / "p.pt", **{argument: value})


def test_without_a_sufficient_table(make: Any, topology: CGTopology, tmp_path: Path) -> None:
    """An error if tables are requested, otherwise exact filters."""
    with pytest.raises(ExportError, match="raise tolerance"):
        export_torchscript(make(), topology, tmp_path / "p.pt", filters="table", tolerance=1e-14)
    metadata = export_torchscript(make(precision=32), topology, tmp_path / "p.pt", tolerance=1e-14)
    assert metadata["filters"] == "exact"
    assert "raise tolerance" in metadata["no_table"]
