"""The device-resident engine on Warp's CPU device: noise, integrator, distributions, groups, restarts.

Each statistical assertion has significance level ALPHA = 1e-6 for any seed, see test_physics.py; this module
has 10 such assertions per seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cgal_plugin._warp import load_warp
from cgal_plugin.dynamics.engine import Engine
from cgal_plugin.dynamics.gpu_engine import GPUEngine
from cgal_plugin.dynamics.guard import kinetic_temperature
from cgal_plugin.dynamics.packing import PackedForce
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL
from tests.dynamics.potentials import HarmonicChain, chain_start, coil_start, save_potential

wp = load_warp()
from tests.dynamics.device_potentials import DeviceChain, write_noise  # noqa: E402

ALPHA = 1e-6
#: kJ/mol/nm² per kcal/mol/Å²
STIFFNESS = 100.0 * KJ_PER_KCAL
KT = BOLTZMANN_KCAL_PER_MOL_K * 300.0  # kcal/mol


def settings(topology, n_replicas, **changes):
    values = {
        "potential": Path("unused"),
        "topology": topology,
        "n_replicas": n_replicas,
        "timestep_fs": 4.0,
        "temperature": 300.0,
        "friction": 5.0,
        "seed": 1,
        "backend": "gpu",
        "platform": "CPU",
    }
    return Settings(**values | changes)


def engine(topology, n_replicas, potential, *, parked=(), memory_limit=None, start=None, **changes):
    found = GPUEngine(
        settings(topology, n_replicas, **changes), parked, potential=potential, memory_limit=memory_limit
    )
    found.set_start(coil_start(n_replicas, topology.n_beads) if start is None else start)
    return found


def noise(steps, beads, first=0, keys=(1, 2), counters=(), words=()):
    out = wp.zeros((steps, beads), dtype=wp.vec3d, device="cpu")
    found = wp.zeros(len(counters), dtype=wp.vec4ui, device="cpu")
    given = [
        wp.array(np.array(values, dtype=np.uint32).reshape(-1, n), dtype=kind, device="cpu")
        for values, n, kind in ((counters, 4, wp.vec4ui), (words, 2, wp.vec2ui))
    ]
    wp.launch(write_noise, dim=(steps, beads), inputs=[out, found, *given, first, *keys], device="cpu")
    return out.numpy(), found.numpy()


# ---------------------------------------------------------------------- noise


def test_philox_gives_the_published_words():
    # test vectors of Random123 (Salmon et al., SC 2011), philox4x32-10
    counters = [(0,) * 4, (0xFFFFFFFF,) * 4, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    keys = [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0xA4093822, 0x299F31D0)]
    expected = [
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ]
    assert noise(1, 3, counters=counters, words=keys)[1].tolist() == [list(words) for words in expected]


def test_noise_is_normal_and_independent_over_steps_beads_and_axes(chance_seed):
    x, _ = noise(100, 200, first=2**32 - 50, keys=(chance_seed, 7))  # the step number crosses 32 bits
    assert stats.kstest(x.ravel(), stats.norm.cdf).pvalue > ALPHA
    low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], x.size) / x.size
    assert 0.97 < low < (x**2).mean() < high < 1.03
    pairs = [(x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[..., 1:], x[..., :-1])]
    assert all(stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA / 3 for a, b in pairs)
    assert not np.array_equal(x, noise(100, 200, first=2**32 - 50, keys=(chance_seed + 1, 7))[0])


# ---------------------------------------------------------------------- integrator


@pytest.mark.parametrize("friction", [1.0, 50.0])
def test_without_noise_steps_are_those_of_openmm(chignolin, tmp_path, friction):
    """At a temperature of 1e-20 K only friction and forces are left, and the trajectories are equal."""
    k, changes = 10.0, {"temperature": 1e-20, "friction": friction}
    potential = save_potential(HarmonicChain(2, 10, k=k * STIFFNESS, r0=0.38), tmp_path / "p.pt")
    reference = Engine(
        settings(chignolin, 2, potential=potential, backend="python", platform="Reference", **changes)
    )
    ours = engine(chignolin, 2, DeviceChain(10, k=k), **changes)
    x = coil_start(2, 10) * 1.1
    v = np.random.default_rng(0).normal(size=x.shape)
    for each in (ours, reference):
        each.set_state(x, v)
    np.testing.assert_allclose(ours.forces(), reference.forces(), atol=1e-3)
    for _ in range(3):
        for each in (ours, reference):
            assert each.step(37) is None
        np.testing.assert_allclose(ours.positions(), reference.positions(), atol=1e-5)
        np.testing.assert_allclose(ours.velocities(), reference.velocities(), atol=1e-4)
    assert abs(ours.positions() - x).max() > 0.1


def test_a_harmonic_well_is_sampled_with_the_exact_distribution(pair, chance_seed):
    n, well = 400, 300.0 / STIFFNESS
    found = engine(
        pair, n, DeviceChain(2, well=well), start=chain_start(n, 2, 1.0), timestep_fs=10.0, seed=chance_seed
    )
    values, velocities = [], []
    for _ in range(2):
        assert found.step(1500) is None  # 15 ps; correlations decay as exp(-2.5 t/ps)
        values.append(found.positions())
        velocities.append(found.velocities())
    x = np.stack(values).ravel() / np.sqrt(KT / well)
    assert stats.kstest(x, stats.norm.cdf).pvalue > ALPHA
    low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], x.size) / x.size
    assert 0.89 < low < (x**2).mean() < high < 1.11
    # velocities of the two times are independent; the time step changes their variance by (ω Δt / 2)² = 2e-4
    ratios = np.concatenate([kinetic_temperature(v, pair.masses) for v in velocities]) / 300.0
    assert low < ratios.mean() < high
    assert stats.kstest(6 * ratios, stats.chi2(6).cdf).pvalue > ALPHA
    energies = 0.5 * well * (found.positions() ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(found.energies(), energies, rtol=1e-9)


def test_bonds_have_the_distribution_of_the_openmm_engine(pair, tmp_path, chance_seed):
    n, k = 300, 4.78
    potential = save_potential(HarmonicChain(n, 2, k=k * STIFFNESS, r0=0.38), tmp_path / "p.pt")
    reference = Engine(
        settings(pair, n, potential=potential, backend="python", platform="Reference", seed=chance_seed)
    )
    reference.set_start(chain_start(n, 2))
    ours = engine(pair, n, DeviceChain(2, k=k), start=chain_start(n, 2), seed=chance_seed)
    lengths = []
    for each in (ours, reference):
        each.step(1000)
        x = each.positions()
        lengths.append(np.linalg.norm(x[:, 1] - x[:, 0], axis=-1))
    assert stats.ks_2samp(*lengths).pvalue > ALPHA
    # 300 pairs of samples detect a difference of the distribution functions of 0.22
    assert stats.kstwo.isf(ALPHA, n // 2) < 0.22


def test_each_replica_has_its_bath(pair, chance_seed):
    n, well = 400, 1.0
    baths = np.tile([300.0, 600.0], n // 2)
    found = engine(
        pair,
        n,
        DeviceChain(2, well=well),
        start=chain_start(n, 2, 1.0),
        seed=chance_seed,
        temperatures=tuple(baths.tolist()),
    )
    ratios = kinetic_temperature(found.velocities(), pair.masses) / baths
    low, high = stats.chi2.ppf([ALPHA / 4, 1 - ALPHA / 4], 3 * n) / (3 * n)
    assert 0.79 < low < high < 1.22
    assert all(low < ratios[i::2].mean() < high for i in (0, 1))
    before = found.velocities()
    found.set_temperatures(baths[::-1].copy())
    factor = np.sqrt(baths[::-1] / baths)[:, None, None]
    np.testing.assert_allclose(found.velocities(), before * factor, rtol=1e-12)
    found.set_temperatures(baths, rescale=False)
    np.testing.assert_allclose(found.velocities(), before * factor, rtol=1e-12)
    found.set_temperatures(baths[::-1].copy(), rescale=False)
    found.step(1500)
    x2 = (found.positions() ** 2).mean(axis=(1, 2)) * well / (KT * baths[::-1] / 300.0)
    assert all(low < x2[i::2].mean() < high for i in (0, 1))


# ---------------------------------------------------------------------- groups, lists, restarts


def trajectory(found, calls=(5, 70, 25)):
    states = []
    for n in calls:
        assert found.step(n) is None
        states.append((found.positions(), found.velocities()))
    return states


def assert_equal(first, second):
    assert all(
        np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_an_interval_may_be_split_into_any_calls(chignolin):
    whole = trajectory(engine(chignolin, 3, DeviceChain(10, k=10.0)), (100,))
    parts = trajectory(engine(chignolin, 3, DeviceChain(10, k=10.0)), (1, 2, 64, 13, 20))
    assert_equal(whole[-1:], parts[-1:])


@pytest.mark.parametrize(("limit", "groups"), [(700, 1), (400, 2), (399, 4), (150, 7)])
def test_with_little_memory_replicas_are_evaluated_in_groups(chignolin, limit, groups):
    make = DeviceChain(10, k=10.0, replica_bytes=100)
    expected = trajectory(engine(chignolin, 7, make))
    if groups == 1:
        found = engine(chignolin, 7, make, memory_limit=limit)
    else:
        with pytest.warns(
            UserWarning, match=f"too little memory for 7 replicas .* in {groups} groups"
        ) as said:
            found = engine(chignolin, 7, make, memory_limit=limit)
        assert len(said) == 1
    assert found.force.groups == groups
    assert found.describe()["device"]["groups"] == groups
    assert found.force.memory_bytes <= limit
    assert_equal(trajectory(found), expected)
    np.testing.assert_array_equal(found.forces(), engine_at(found, chignolin, make).forces())


def engine_at(other, topology, potential):
    found = engine(topology, other.settings.n_replicas, potential)
    found.set_state(other.positions(), other.velocities())
    return found


def test_one_replica_that_does_not_fit_is_an_error(chignolin):
    with pytest.raises(DynamicsError, match=r"too little memory for one replica of 10 beads .*99"):
        PackedForce(DeviceChain(10, replica_bytes=100), 7, 99)


class Exhausted(DeviceChain):
    """Runs out of memory at a launch, as a driver without memory for a graph does, unless it is small."""

    def with_replicas(self, n_replicas):
        return Exhausted(self.n_beads, n_replicas, **self.options)

    def compute(self, positions, forces, energies):
        if self.n_replicas > 2:
            raise RuntimeError("Warp CUDA error 2: out of memory (in function wp_cuda_graph_create_exec)")
        super().compute(positions, forces, energies)


def test_memory_that_runs_out_during_the_dynamics_loses_no_step(chignolin):
    expected = trajectory(engine(chignolin, 5, DeviceChain(10, k=10.0)))
    found = engine(chignolin, 5, Exhausted(10, k=10.0))
    with pytest.warns(UserWarning, match="in 2 groups"), pytest.warns(UserWarning, match="in 4 groups"):
        states = trajectory(found)
    assert_equal(states, expected)


def test_another_failure_of_the_device_is_said(chignolin):
    class Broken(DeviceChain):
        def with_replicas(self, n_replicas):
            return Broken(self.n_beads, n_replicas)

        def compute(self, positions, forces, energies):
            raise RuntimeError("Warp CUDA error 700: an illegal memory access was encountered")

    with pytest.raises(DynamicsError, match=r"device cpu failed: .* illegal memory access"):
        engine(chignolin, 2, Broken(10)).step(1)


def test_a_list_without_room_is_enlarged_and_the_interval_repeated(chignolin):
    start = coil_start(3, 10)
    expected = trajectory(engine(chignolin, 3, DeviceChain(10, k=10.0), start=start))
    found = engine(chignolin, 3, DeviceChain(10, k=10.0, room=1.0), start=start)
    assert_equal(trajectory(found), expected)
    assert found.force._potential.room >= 8.0
    # also if only the call for forces finds out
    fresh = engine(chignolin, 3, DeviceChain(10, k=10.0, room=1.0), start=start)
    np.testing.assert_array_equal(
        fresh.forces(), engine(chignolin, 3, DeviceChain(10, k=10.0), start=start).forces()
    )


def test_a_checkpoint_continues_to_the_same_bytes(chignolin):
    first = engine(chignolin, 3, DeviceChain(10, k=10.0), temperatures=(300.0, 310.0, 320.0))
    first.step(50)
    first.set_temperatures(np.array([320.0, 310.0, 300.0]))
    binary = first.checkpoint()
    expected = trajectory(first)
    other = engine(chignolin, 3, DeviceChain(10, k=10.0), temperatures=(300.0, 310.0, 320.0))
    other.restore(binary)
    assert_equal(trajectory(other), expected)
    # one that failed in between is taken back too
    other.restore(binary)
    assert other.checkpoint() == binary
    assert_equal(trajectory(other), expected)


@pytest.mark.parametrize("binary", [b"", b"OpenMM", None])
def test_a_checkpoint_of_something_else_is_an_error(chignolin, binary):
    found = engine(chignolin, 3, DeviceChain(10, k=10.0))
    if binary is None:
        binary = engine(chignolin, 2, DeviceChain(10, k=10.0)).checkpoint()
    with pytest.raises(StateError, match=r"not one of backend 'gpu' for 3 replica\(s\) of 10 beads"):
        found.restore(binary)


def test_a_parked_replica_rests_and_does_not_affect_the_others(chignolin):
    start = coil_start(3, 10)
    whole, parked = (engine(chignolin, 3, DeviceChain(10, k=10.0), start=start) for _ in range(2))
    for each in (whole, parked):
        each.step(20)
    parked.park([1], start, 20)
    for each in (whole, parked):
        each.step(30)
    np.testing.assert_array_equal(parked.positions()[1], start[1])
    np.testing.assert_array_equal(parked.velocities()[1], 0.0)
    np.testing.assert_array_equal(parked.positions()[[0, 2]], whole.positions()[[0, 2]])
    # a resumed engine is told who is parked
    resumed = engine(chignolin, 3, DeviceChain(10, k=10.0), parked=[1], start=start)
    resumed.restore(parked.checkpoint())
    for each in (resumed, parked):
        each.step(10)
    np.testing.assert_array_equal(resumed.positions(), parked.positions())


def test_a_restarted_replica_gets_new_velocities_at_its_bath(chignolin):
    start = coil_start(2, 10)
    found = engine(chignolin, 2, DeviceChain(10, k=10.0), start=start)
    first = found.velocities()
    found.step(20)
    kept = found.positions()[0]
    found.restart([1], start, 20)
    np.testing.assert_array_equal(found.positions()[1], start[1])
    np.testing.assert_array_equal(found.positions()[0], kept)
    assert not np.allclose(found.velocities()[1], first[1])


def test_a_replica_that_is_not_finite_does_not_affect_the_others(chignolin):
    start = coil_start(3, 10)
    good = engine(chignolin, 3, DeviceChain(10, k=10.0), start=start)
    far = start.copy()
    far[1, 9] += 100.0
    bad = engine(chignolin, 3, DeviceChain(10, k=10.0, limit=60.0), start=far)
    for each in (good, bad):
        assert each.step(20) is None
    assert np.isnan(bad.positions()[1]).any()
    np.testing.assert_array_equal(bad.positions()[[0, 2]], good.positions()[[0, 2]])


def test_energy_is_conserved_without_a_thermostat(chignolin, chance_seed):
    """With friction 0 the scheme is leapfrog, and a half step gives velocities at the time of positions."""
    found = engine(chignolin, 4, DeviceChain(10, k=12.0), friction=0.0, timestep_fs=2.0, seed=chance_seed)
    energies, kinetic = [], []
    for _ in range(100):
        found.step(25)
        push = found.forces() * (0.5 * found.settings.timestep_ps * 10.0) / chignolin.masses[:, None]
        half = found.velocities() + push
        kinetic.append(0.5 * (chignolin.masses[:, None] * half**2).sum() / STIFFNESS)
        energies.append(kinetic[-1] + found.energies().sum())
    assert abs(np.mean(energies[-25:]) - np.mean(energies[:25])) < 4e-4 * np.mean(kinetic)
    assert np.std(energies) < 1e-3 * np.mean(kinetic)


# ---------------------------------------------------------------------- bad input


@pytest.mark.skipif(wp.is_cuda_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_what_to_do(pair):
    with pytest.raises(DynamicsError, match=r"finds no NVIDIA GPU .* use backend 'auto' or 'fast'"):
        GPUEngine(settings(pair, 1, platform="CUDA"), potential=DeviceChain(2))


def test_another_platform_is_refused(pair):
    with pytest.raises(DynamicsError, match="backend 'gpu' runs on CUDA, not on platform 'OpenCL'"):
        GPUEngine(settings(pair, 1, platform="OpenCL"), potential=DeviceChain(2))
