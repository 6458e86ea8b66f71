"""The kernels of the GPU engine on Warp's CPU device, against the exact float64 network."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warp as wp

from cgal_plugin._warp import quiet
from cgal_plugin.errors import ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.gpu import build, pairs, program
from cgal_plugin.export.gpu.arrays import cubic, network_arrays
from cgal_plugin.export.gpu.device import find_device
from cgal_plugin.export.gpu.potential import GPUPotential
from cgal_plugin.export.gpu.sizes import Sizes, list_capacity
from cgal_plugin.export.modules import module_list
from cgal_plugin.export.network import OutputLayer
from cgal_plugin.export.potential import potential_module
from cgal_plugin.export.tables import reference_forces
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.export.test_torchscript import EAGER, eager
from tests.priors.chains import chains

FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
NO_GPU = not torch.cuda.is_available()
MODELS = {
    **{name: keys for name, keys in EAGER.items() if not name.endswith("embedding")},
    # not a multiple of 32; filters narrower than features
    "odd_sizes": {"cgschnet": {"form": "mlcg", "num_filters": 24}, "embedding_dimension": 40},
    "usual": {"model": "graph-network", "embedding_dimension": 128, "num_layers": 4, "num_rbf": 18},
    "one_block": {"cgschnet": {"form": "majewski"}, "num_layers": 1, "embedding_dimension": 33},
    **{
        kind: {"cgschnet": {"form": "mlcg"}, "activation": kind, "cutoff_lower": 0.0}
        for kind in ("ssp", "mish", "sigmoid")
    },
}


def check(gpu: GPUPotential, model: Any, topology: CGTopology, frames: np.ndarray) -> None:
    """Forces within 5e-5 of the largest one, energies of replicas within 1e-5."""
    energy, forces = eager(model, topology, frames)
    x = frames.reshape(-1, 3) / ANGSTROM_PER_NM
    found = gpu.with_replicas(len(frames))
    e, f = found(x)
    assert f.shape == x.shape
    assert np.abs(f / FORCE - forces.numpy()).max() < 5e-5 * float(forces.abs().max())
    each = found.replica_energies(x) / KJ_PER_KCAL
    assert np.abs(each - energy.numpy()).max() < 1e-5 * float(energy.abs().max())
    assert e == pytest.approx(each.sum() * KJ_PER_KCAL)


@pytest.mark.parametrize("name", list(MODELS))
def test_equals_the_exact_model(name: str, make: Any, topology: CGTopology, frames: np.ndarray) -> None:
    """Also with all priors, and with both forms of the matrix products: few and many beads."""
    model = make(**MODELS[name])
    gpu = GPUPotential.from_model(model, topology, device="cpu")
    assert gpu.metadata["table_error"] < 5e-5
    assert gpu.metadata["engine_error"] < 6e-5
    check(gpu, model, topology, frames[:1])
    check(gpu, model, topology, frames[:31])


@pytest.fixture(scope="module")
def small(make: Any, topology: CGTopology) -> GPUPotential:
    return GPUPotential.from_model(make(cgschnet={"form": "majewski"}), topology, device="cpu")


LONG = 90


@pytest.fixture(scope="module")
def long(make: Any) -> tuple[CGTopology, np.ndarray, Any, GPUPotential]:
    """A molecule with a neighbour list, folded to a globule of its density."""
    topology = CGTopology.from_sequence("GAVLYWDKTS" * (LONG // 10))
    x = chains(3, LONG, seed=4)
    x = x - x.mean(1, keepdims=True)
    x *= 13.0 / np.sqrt((x**2).sum(2).mean(1))[:, None, None]
    model = make(cgschnet={"form": "mlcg"}, cutoff_lower=0.0, prior_model=None)
    return topology, x, model, GPUPotential.from_model(model, topology, device="cpu")


def test_a_list_gives_the_forces_of_all_pairs(long: Any) -> None:
    """At the first call, after small steps on the same list, and after large ones; energies too."""
    topology, x, model, gpu = long
    exact = potential_module(model, topology, n_replicas=3, pairs="dense", verify=False)
    several = gpu.with_replicas(3)
    assert several._program.has_list
    rng = np.random.default_rng(1)
    for step in (0.0, 0.05, 0.05, 0.4, 0.4, 3.0, 0.01):
        x = x + rng.normal(scale=step, size=x.shape)
        positions = x.reshape(-1, 3) / ANGSTROM_PER_NM
        energy, forces = several(positions)
        e, f = exact(torch.from_numpy(positions))
        assert np.abs(forces - f.numpy()).max() < 5e-5 * float(f.abs().max())
        assert energy == pytest.approx(float(e), rel=1e-5)


def test_the_list_is_that_of_brute_force(long: Any) -> None:
    """Sorted neighbours within cutoff and skin, and for each the slot of the other direction."""
    _, x, _, gpu = long
    gpu.reset()
    gpu(x[0] / ANGSTROM_PER_NM)
    b, capacity = gpu._program.buffers, gpu.capacity
    count = b["count"].numpy()
    neighbor, reverse = (b[name].numpy().reshape(LONG, capacity) for name in ("neighbor", "reverse"))
    r = np.linalg.norm(x[0][:, None] - x[0], axis=2)
    np.fill_diagonal(r, np.inf)
    reach = gpu._arrays.scalars["lower"] + gpu._arrays.scalars["span"] + 1.5
    assert 20 < count.mean() < LONG - 2
    for i in range(LONG):
        own = neighbor[i, : count[i]]
        assert own.tolist() == np.flatnonzero(r[i] < reach).tolist()
        assert (neighbor.ravel()[reverse[i, : count[i]]] == i).all()
        assert (reverse[i, : count[i]] // capacity == own).all()


def test_the_list_is_kept_until_a_bead_has_moved(long: Any) -> None:
    _, x, _, gpu = long
    two = gpu.with_replicas(2)
    start = np.concatenate([x[0], x[1]])
    two(start / ANGSTROM_PER_NM)
    moved = start.copy()
    moved[LONG + 3] += [0.7, 0.0, 0.0]
    two(moved / ANGSTROM_PER_NM)
    assert two._program.buffers["stale"].numpy().tolist() == [0, 0]
    moved[LONG + 3] += [0.1, 0.0, 0.0]
    two(moved / ANGSTROM_PER_NM)
    # only the list of the second replica is made again
    assert two._program.buffers["stale"].numpy().tolist() == [0, 1]
    built = two._program.buffers["built"].numpy()
    assert np.abs(built - start)[:LONG].max() < 1e-9
    assert np.abs(built - moved)[LONG:].max() < 1e-9


def test_a_list_that_is_too_short(long: Any) -> None:
    """``compute`` reports it until ``grow``; a call from the host grows by itself. Results do not change."""
    _, x, _, gpu = long
    tight = GPUPotential(gpu._arrays, gpu.metadata, 1, device="cpu", capacity=8)
    positions = wp.array(x[0], dtype=wp.vec3d, device="cpu")
    forces, energy = wp.zeros(LONG, dtype=wp.vec3f, device="cpu"), wp.zeros(1, dtype=float, device="cpu")
    tight.compute(positions, forces)
    assert tight.overflowed
    tight.compute(positions, forces)
    assert tight.overflowed
    tight.grow()
    assert not tight.overflowed
    tight.compute(positions, forces)
    assert not tight.overflowed
    assert tight.capacity > 8
    gpu.reset()
    expected = gpu(x[0] / ANGSTROM_PER_NM)[1]
    assert np.array_equal(forces.numpy(), (expected / FORCE).astype(np.float32))
    again = GPUPotential(gpu._arrays, gpu.metadata, 1, device="cpu", capacity=8)
    assert np.array_equal(again(x[0] / ANGSTROM_PER_NM)[1], expected)
    # an extended molecule in a list for folded ones, and back
    line = np.arange(LONG)[:, None] * np.array([3.8, 0.0, 0.0])
    again(line / ANGSTROM_PER_NM)
    assert np.allclose(again(x[0] / ANGSTROM_PER_NM)[1], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert energy.shape == (1,)


def test_replicas_do_not_see_each_other(small: GPUPotential, frames: np.ndarray) -> None:
    """One replica alone, in a batch, beside a broken one, far away, and repeated: deterministic."""
    x = frames[:7] / ANGSTROM_PER_NM
    several = small.with_replicas(7)
    energies, (_, forces) = several.replica_energies(x.reshape(-1, 3)), several(x.reshape(-1, 3))
    forces = forces.reshape(x.shape)
    alone = [small.replica_energies(one)[0] for one in x]
    assert np.array_equal(energies, alone)
    assert np.array_equal(forces, [small(one)[1] for one in x])
    for value in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 2, 1] = value
        total, found = several(broken.reshape(-1, 3))
        found = found.reshape(x.shape)
        assert np.isnan(total)
        assert np.isnan(found[3]).all()
        assert np.isnan(several.replica_energies(broken.reshape(-1, 3))).tolist() == [
            k == 3 for k in range(7)
        ]
        assert np.array_equal(np.delete(found, 3, 0), np.delete(forces, 3, 0))
    assert np.array_equal(several(x.reshape(-1, 3))[1].reshape(x.shape), forces)
    far = (x + np.array([1e4, -2e4, 3e4])).reshape(-1, 3)
    assert np.abs(several(far)[1].reshape(x.shape) - forces).max() < 2e-6 * np.abs(forces).max()


def test_a_broken_replica_with_a_list_recovers(long: Any) -> None:
    _, x, _, gpu = long
    two = gpu.with_replicas(2)
    start = np.concatenate([x[0], x[1]]) / ANGSTROM_PER_NM
    expected = two(start)[1]
    broken = start.copy()
    broken[LONG + 5] = np.nan
    found = two(broken)[1]
    assert np.array_equal(found[:LONG], expected[:LONG])
    assert np.isnan(found[LONG:]).all()
    assert np.array_equal(two(start)[1], expected)


def test_forces_turn_with_the_molecule_and_sum_to_zero(small: GPUPotential, frames: np.ndarray) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    x = frames[0] / ANGSTROM_PER_NM
    energy, forces = small(x)
    turned = small(x @ q + 3.0)
    scale = np.abs(forces).max()
    assert turned[0] == pytest.approx(energy, rel=1e-6)
    assert np.abs(turned[1] - forces @ q).max() < 1e-5 * scale
    assert np.abs(forces.sum(0)).max() < 1e-5 * scale
    assert np.abs(np.cross(x, forces).sum(0)).max() < 1e-4 * scale


def test_forces_are_the_gradient_of_the_energy(small: GPUPotential, frames: np.ndarray) -> None:
    x, step = frames[2] / ANGSTROM_PER_NM, 1e-3
    forces = small(x)[1]
    rng = np.random.default_rng(3)
    for _ in range(5):
        way = rng.normal(size=x.shape)
        way /= np.linalg.norm(way)
        slope = (small(x + step * way)[0] - small(x - step * way)[0]) / (2.0 * step)
        assert slope == pytest.approx(-float((forces * way).sum()), rel=2e-3, abs=1e-3 * np.abs(forces).max())


@pytest.mark.parametrize("hidden", [(), (48,), (40, 24), (32, 20, 12)])
def test_output_networks(hidden: tuple[int, ...], make: Any, topology: CGTopology) -> None:
    """A single linear layer to three hidden layers, with few and with many beads."""
    potential = potential_module(
        make(cgschnet={"form": "mlcg"}, cutoff_lower=0.0, prior_model=None),
        topology,
        dtype="float64",
        verify=False,
    )
    torch.manual_seed(1)
    widths = (32, *hidden, 1)
    layers = [
        OutputLayer(torch.randn(b, a, dtype=torch.float64) / a**0.5, torch.randn(b, dtype=torch.float64))
        for a, b in pairwise(widths)
    ]
    network: Any = potential.network
    network.output = module_list(layers)
    network.output_reversed = module_list(layers[::-1])
    table = cubic(network.filters, 768)
    frame = chains(1, 10, seed=2)[0]
    gpu = GPUPotential(network_arrays(potential, table), {}, 1, device="cpu")
    energy, forces = gpu(frame / ANGSTROM_PER_NM)
    expected = reference_forces(network, network.filters, frame)
    assert np.abs(forces / FORCE - expected).max() < 1e-5 * np.abs(expected).max()
    exact = float(potential(torch.from_numpy(frame / ANGSTROM_PER_NM))[0])
    assert energy == pytest.approx(exact, rel=1e-5)
    many = program._SPLIT_ROWS // len(frame) + 1  # products of blocks of rows
    forces = gpu.with_replicas(many)(np.tile(frame, (many, 1)) / ANGSTROM_PER_NM)[1].reshape(many, -1, 3)
    assert np.abs(forces / FORCE - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_engine_holds_what_its_recorded_launches_read(
    make: Any, topology: CGTopology, frames: np.ndarray
) -> None:
    """Recorded launches of Warp before 1.19 hold addresses, not arrays."""
    gpu = GPUPotential.from_model(make(cgschnet={"form": "majewski"}), topology, device="cpu")
    expected = gpu(frames[0] / ANGSTROM_PER_NM)[1]
    weights = [
        weakref.ref(value)
        for command in gpu._program._fixed
        for value in command.fwd_args
        if isinstance(value, wp.array)
    ]
    for command in gpu._program._fixed:
        command.fwd_args = None
    gc.collect()
    assert all(weight() is not None for weight in weights)
    np.testing.assert_array_equal(gpu(frames[0] / ANGSTROM_PER_NM)[1], expected)


def test_the_threads_of_a_warp_share_the_channels(
    small: GPUPotential, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the 8 channel lanes of a GPU, each on its own, all that needs no sum over them is the same."""
    x = frames[0] / ANGSTROM_PER_NM
    small(x)
    names = ("message", "v", "active", "derivative", "gradient", "scratch")
    expected = {name: small._program.buffers[name].numpy().copy() for name in names}
    monkeypatch.setattr(program.Lanes, "of", classmethod(lambda cls, is_cuda: cls(8, 1)))
    other = small.with_replicas(1)
    # the other kernels sum over all lanes, which the CPU device cannot
    other._program._lanes = program.Lanes(1, 1)
    assert other(x)[0] == small(x)[0]
    for name, values in expected.items():
        assert np.array_equal(other._program.buffers[name].numpy(), values), name


def test_distances_at_the_edges(make: Any) -> None:
    """Two and three beads at both sides of the cutoffs, coincident, and far apart."""
    chain = CGTopology.from_sequence("GAW")
    model = make(**EAGER["majewski"], prior_model=None)
    exact, gpu = potential_module(model, chain), GPUPotential.from_model(model, chain, device="cpu")
    lower, upper = float(exact.network.filters.filter_lower), float(exact.network.filters.upper)
    scan = [0.3, 2.5, 3.3, 6.0, 11.0, 20.0]
    scan += [edge + d for edge in (lower, upper) for d in (-1e-3, -1e-7, 0.0, 1e-7, 1e-3)]
    frames = np.array([[[0, 0, 0], [r, 0, 0], [r + 4.1, k, 0]] for r in scan for k in (0.0, 1.0)])
    found = gpu.with_replicas(len(frames))(frames.reshape(-1, 3) / ANGSTROM_PER_NM)[1]
    expected = np.concatenate([exact(torch.from_numpy(x / ANGSTROM_PER_NM))[1].numpy() for x in frames])
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max()
    assert np.abs(gpu(np.arange(9.0).reshape(3, 3) * 100)[1]).max() == 0.0
    assert np.isfinite(gpu(np.zeros((3, 3)))[1]).all()


@pytest.fixture(scope="module")
def exported(make: Any, topology: CGTopology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "potential.pt"
    export_torchscript(make(cgschnet={"form": "majewski"}), topology, path, n_replicas=2)
    return path


def test_file_and_metadata(small: GPUPotential, exported: Path, topology: CGTopology) -> None:
    read = GPUPotential.from_file(exported, device="cpu")
    assert (read.n_beads, read.n_replicas, read.device) == (10, 2, "cpu")
    assert read.metadata["topology_hash"] == topology.hash
    x = chains(2, 10, seed=8).reshape(-1, 3) / ANGSTROM_PER_NM
    assert np.array_equal(read(x)[1], small.with_replicas(2)(x)[1])
    assert read.with_replicas(1).n_replicas == 1


def test_memory_is_that_of_the_arrays(long: Any) -> None:
    _, _, _, gpu = long
    several = gpu.with_replicas(3)
    held = sum(array.capacity for array in several._program.buffers.values())
    assert several.memory_bytes == held == gpu.memory_of(3)
    # 54 residues of five beads, mlcg's settings and size
    capacity = list_capacity(269, 54, 16.5)
    assert capacity == 268
    sizes = Sizes(269, 128, 4, 128, 128, (128, 64), capacity)
    assert 0.3e9 < sizes.memory < 1e9
    with pytest.raises(ExportError, match=r"10000000 replicas of 269 beads .* use fewer replicas"):
        dataclasses.replace(sizes, n_replicas=10_000_000).check()


def test_a_wrong_result_is_refused(make: Any, topology: CGTopology, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that compute something else on this device are not used: here, one weight is wrong."""
    good = build.network_arrays

    def spoilt(*args: Any) -> Any:
        arrays = good(*args)
        arrays.inner_back[1][3, 5] += 0.05
        return arrays

    monkeypatch.setattr(build, "network_arrays", spoilt)
    with pytest.raises(
        ExportError, match=r"the GPU engine on cpu differs from the exact network by .* use backend 'fast'"
    ):
        GPUPotential.from_model(make(cgschnet={"form": "majewski"}), topology, device="cpu")


def test_a_wrong_prior_is_refused(
    make: Any, topology: CGTopology, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgal_plugin.export.gpu import arrays

    good = arrays.prior_arrays

    def spoilt(potential: Any) -> Any:
        found = good(potential)
        found["angle_value"][0, 0] += 100.0
        return found

    model = make(cgschnet={"form": "majewski"})
    monkeypatch.setattr(arrays, "prior_arrays", spoilt)
    with pytest.raises(ExportError, match="differs from the model"):
        GPUPotential.from_model(model, topology, device="cpu")
    with pytest.raises(ExportError, match="on cpu differs from the file's potential, priors included"):
        GPUPotential.from_file(exported, device="cpu")


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
@pytest.mark.parametrize("device", [None, "cuda", "cuda:0"])
def test_without_a_gpu(device: str | None, make: Any, topology: CGTopology, capfd: Any) -> None:
    with pytest.raises(ExportError, match=r"no NVIDIA driver or no GPU .* use the fast engine"):
        GPUPotential.from_model(make(cgschnet={"form": "majewski"}), topology, device=device)
    assert capfd.readouterr() == ("", "")


def test_invalid_arguments(small: GPUPotential, make: Any, topology: CGTopology, tmp_path: Path) -> None:
    for n in (0, -1, True, 1.5):
        with pytest.raises(ExportError, match=r"n_replicas is .* positive integer"):
            small.with_replicas(n)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"1 replica\(s\) of 10 beads need \(10, 3\)"):
        small(np.zeros((20, 3)))
    for skin in (0.0, -1.0, float("nan")):
        with pytest.raises(ExportError, match="skin"):
            GPUPotential(small._arrays, small.metadata, 1, device="cpu", skin=skin)
    model = make(cgschnet={"form": "majewski"})
    with pytest.raises(ExportError, match="tolerance is 2"):
        GPUPotential.from_model(model, topology, device="cpu", tolerance=2.0)
    embedded = make(**next(keys for name, keys in EAGER.items() if name.endswith("embedding")))
    with pytest.raises(ExportError, match="neighbour embedding"):
        GPUPotential.from_model(embedded, topology, device="cpu")
    with pytest.raises(ExportError, match="does not exist"):
        GPUPotential.from_file(tmp_path / "no.pt", device="cpu")


def test_warp_keeps_the_settings_of_the_user() -> None:
    before = dict(vars(wp.config))
    with quiet():
        pass
    find_device("cpu")
    assert dict(vars(wp.config)) == before


@pytest.mark.integration
def test_five_beads_a_residue(make: Any) -> None:
    """269 beads with mlcg's settings: 15 Å, 64 radial functions, 128 features, 4 blocks; two replicas."""
    topology = CGTopology.from_sequence("GAVLYWDKTS" * 5 + "GAVL", mapping="5bead")
    n = topology.n_beads
    assert 250 < n < 275
    keys: dict[str, Any] = {"cutoff_lower": 0.0, "cutoff_upper": 15.0, "num_rbf": 64, "num_layers": 4}
    model = make(
        cgschnet={"form": "mlcg"}, embedding_dimension=128, activation="tanh", prior_model=None, **keys
    )
    gpu = GPUPotential.from_model(model, topology, device="cpu", n_replicas=2)
    # beads on a grid of a protein's density, out of order
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[3.0 * np.arange(7)] * 3), -1).reshape(-1, 3)
    x = np.concatenate([rng.permutation(grid)[:n] + rng.normal(scale=0.3, size=(n, 3)) for _ in range(2)])
    exact = potential_module(model, topology, n_replicas=2, verify=False)
    energy, forces = gpu(x / ANGSTROM_PER_NM)
    e, f = exact(torch.from_numpy(x / ANGSTROM_PER_NM))
    # 200 neighbours, and a network with random weights: float32 of torch is at 1.3e-5
    assert np.abs(forces - f.numpy()).max() < 5e-5 * float(f.abs().max())
    assert energy == pytest.approx(float(e), rel=1e-5)
    assert gpu.memory_of(128) < 1e9


@pytest.mark.integration
@pytest.mark.parametrize("arch", [80, 90])
def test_the_kernels_compile_for_a_gpu(arch: int, tmp_path: Path) -> None:
    """NVRTC needs no GPU: the CUDA branches compile, read 16 bytes at a time, and exchange within a warp."""
    from cgal_plugin.export.gpu import dense, forces

    text = ""
    with quiet():
        for module in (dense, pairs, forces):
            made = wp.compile_aot_module(module, arch=arch, module_dir=tmp_path, use_ptx=True)
            text += "".join(path.read_text() for path in made)
    entries = text.count(".visible .entry")
    assert entries == 10
    assert text.count("ld.global.v4") >= 20
    assert "shfl.sync.bfly" in text
    assert "atom." in text  # the overflow of the list
    # no array of a thread in local memory, which would be as slow as global memory
    for part in text.split(".visible .entry")[1:]:
        name = part.split("(")[0]
        if any(kernel in name for kernel in ("gather", "product")):
            assert ".local " not in part, name
