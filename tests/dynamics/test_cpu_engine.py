"""The engine on CPU threads without OpenMM: noise, integrator, distributions, threads, restarts.

Each statistical assertion has significance level ALPHA = 1e-6 for any seed, see test_physics.py; this module
has 9 such assertions per seed.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

pytest.importorskip("numba")

from cgal_plugin.dynamics import add_potential, build_system, simulate
from cgal_plugin.dynamics.cpu_engine import CPUEngine
from cgal_plugin.dynamics.engine import Engine
from cgal_plugin.dynamics.engines import open_engine
from cgal_plugin.dynamics.guard import kinetic_temperature
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.errors import DynamicsError, ExportError, StateError
from cgal_plugin.export.engine.langevin import normals, philox
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL
from tests.dynamics.potentials import HarmonicChain, chain_start, coil_start, save_potential

ALPHA = 1e-6
#: kJ/mol/nm² per kcal/mol/Å²
STIFFNESS = 100.0 * KJ_PER_KCAL
KT = BOLTZMANN_KCAL_PER_MOL_K * 300.0  # kcal/mol
EXAMPLE = Path(__file__).parents[2] / "examples/chignolin/benchmark_1/models/static/seed_1/model.ckpt"


class HostChain:
    """Chains with bonds ``k`` (kcal/mol/Å²) of 3.8 Å in a ``well`` (kcal/mol/Å²), as a FastPotential."""

    def __init__(
        self, n_beads: int, n_replicas: int, n_threads: int = 1, k: float = 0.0, well: float = 0.0
    ) -> None:
        self.n_beads, self.n_replicas, self.n_threads, self.k, self.well = (
            n_beads, n_replicas, n_threads, k * STIFFNESS, well * STIFFNESS,
        )  # fmt: skip
        self.fails = False

    def __call__(self, positions: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        energies, forces = self.evaluate(positions)
        return float(energies.sum()), forces

    def parts(self) -> list[HostChain]:
        limits = [self.n_replicas * i // self.n_threads for i in range(self.n_threads + 1)]
        scale = 1 / STIFFNESS
        return [
            HostChain(self.n_beads, b - a, 1, self.k * scale, self.well * scale) for a, b in pairwise(limits)
        ]

    def evaluate(self, positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.fails:
            raise ExportError("memory does not suffice for 9 pairs")
        x = positions.reshape(self.n_replicas, self.n_beads, 3)
        bonds = x[:, 1:] - x[:, :-1]
        lengths = np.linalg.norm(bonds, axis=-1, keepdims=True)
        pull = self.k * (lengths - 0.38) / lengths * bonds
        forces = -self.well * x
        forces[:, :-1] += pull
        forces[:, 1:] -= pull
        energies = 0.5 * self.well * (x**2).sum(axis=(1, 2)) + 0.5 * self.k * ((lengths - 0.38) ** 2).sum(
            axis=(1, 2)
        )
        return energies, forces.reshape(-1, 3)


def settings(topology: CGTopology, n_replicas: int, **changes: Any) -> Settings:
    values = {
        "potential": Path("unused"), "topology": topology, "n_replicas": n_replicas, "timestep_fs": 4.0,
        "temperature": 300.0, "friction": 5.0, "seed": 1, "backend": "cpu", "platform": "Reference",
    }  # fmt: skip
    return Settings(**values | changes)


def engine(
    topology: CGTopology,
    n_replicas: int,
    *,
    k: float = 0.0,
    well: float = 0.0,
    threads: int = 1,
    start: NDArray[np.float64] | None = None,
    parked: tuple[int, ...] = (),
    **changes: Any,
) -> CPUEngine:
    chain: Any = HostChain(topology.n_beads, n_replicas, threads, k, well)
    found = CPUEngine(settings(topology, n_replicas, **changes), parked, potential=chain)
    found.set_start(coil_start(n_replicas, topology.n_beads) if start is None else start)
    return found


# ---------------------------------------------------------------------- noise


def test_philox_gives_the_published_words() -> None:
    # test vectors of Random123 (Salmon et al., SC 2011), philox4x32-10
    vectors = [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in vectors:
        assert tuple(int(word) for word in philox(counter, *key)) == expected


def noise(steps: int, beads: int, first: int, key: tuple[int, int]) -> NDArray[np.float64]:
    found = np.empty((steps, beads, 3))
    for step in range(steps):
        normals(first + step, 0, *key, found[step])
    return found


def test_noise_is_normal_and_independent_over_steps_beads_and_axes(chance_seed: int) -> None:
    x = noise(100, 200, 2**32 - 50, (chance_seed, 7))  # the step number crosses 32 bits
    assert stats.kstest(x.ravel(), stats.norm.cdf).pvalue > ALPHA
    low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], x.size) / x.size
    assert 0.97 < low < (x**2).mean() < high < 1.03
    pairs = [(x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[..., 1:], x[..., :-1])]
    assert all(stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA / 3 for a, b in pairs)
    assert not np.array_equal(x, noise(100, 200, 2**32 - 50, (chance_seed + 1, 7)))


# ---------------------------------------------------------------------- integrator


@pytest.mark.parametrize("friction", [1.0, 50.0])
def test_without_noise_steps_are_those_of_openmm(
    chignolin: CGTopology, tmp_path: Path, friction: float
) -> None:
    """At a temperature of 1e-20 K only friction and forces are left, and the trajectories are equal."""
    k, changes = 10.0, {"temperature": 1e-20, "friction": friction}
    potential = save_potential(HarmonicChain(2, 10, k=k * STIFFNESS, r0=0.38), tmp_path / "p.pt")
    reference = Engine(settings(chignolin, 2, potential=potential, backend="python", **changes))
    ours = engine(chignolin, 2, k=k, **changes)
    x = coil_start(2, 10) * 1.1
    v = np.random.default_rng(0).normal(size=x.shape)
    for each in (ours, reference):
        each.set_state(x, v)
    np.testing.assert_allclose(ours.forces(), reference.forces(), atol=1e-9)
    for _ in range(3):
        for each in (ours, reference):
            assert each.step(37) is None
        np.testing.assert_allclose(ours.positions(), reference.positions(), atol=1e-9)
        np.testing.assert_allclose(ours.velocities(), reference.velocities(), atol=1e-8)
    assert abs(ours.positions() - x).max() > 0.1


def test_a_harmonic_well_is_sampled_with_the_exact_distribution(pair: CGTopology, chance_seed: int) -> None:
    n, well = 400, 300.0 / STIFFNESS
    found = engine(
        pair, n, well=well, threads=2, start=chain_start(n, 2, 1.0), timestep_fs=10.0, seed=chance_seed
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


def test_each_replica_has_its_bath(pair: CGTopology, chance_seed: int) -> None:
    n, well = 400, 1.0
    baths = np.tile([300.0, 600.0], n // 2)
    found = engine(
        pair, n, well=well, start=chain_start(n, 2, 1.0), seed=chance_seed, temperatures=tuple(baths.tolist())
    )
    ratios = kinetic_temperature(found.velocities(), pair.masses) / baths
    low, high = stats.chi2.ppf([ALPHA / 4, 1 - ALPHA / 4], 3 * n) / (3 * n)
    assert 0.79 < low < high < 1.22
    assert all(low < ratios[i::2].mean() < high for i in (0, 1))
    before = found.velocities()
    found.set_temperatures(baths[::-1].copy())
    factor = np.sqrt(baths[::-1] / baths)[:, None, None]
    np.testing.assert_allclose(found.velocities(), before * factor, rtol=1e-12)
    found.step(1500)
    x2 = (found.positions() ** 2).mean(axis=(1, 2)) * well / (KT * baths[::-1] / 300.0)
    assert all(low < x2[i::2].mean() < high for i in (0, 1))


def test_energy_is_conserved_without_a_thermostat(chignolin: CGTopology, chance_seed: int) -> None:
    """With friction 0 the scheme is leapfrog, and a half step gives velocities at the time of positions."""
    found = engine(chignolin, 4, k=12.0, friction=0.0, timestep_fs=2.0, seed=chance_seed)
    energies, kinetic = [], []
    for _ in range(100):
        found.step(25)
        push = found.forces() * (0.5 * found.settings.timestep_ps * 10.0) / chignolin.masses[:, None]
        half = found.velocities() + push
        kinetic.append(0.5 * (chignolin.masses[:, None] * half**2).sum() / STIFFNESS)
        energies.append(kinetic[-1] + found.energies().sum())
    assert abs(np.mean(energies[-25:]) - np.mean(energies[:25])) < 4e-4 * np.mean(kinetic)
    assert np.std(energies) < 1e-3 * np.mean(kinetic)


def test_minimisation_is_that_of_openmm(chignolin: CGTopology, tmp_path: Path) -> None:
    potential = save_potential(HarmonicChain(2, 10, k=10.0 * STIFFNESS, r0=0.38), tmp_path / "p.pt")
    reference = Engine(settings(chignolin, 2, potential=potential, backend="python"))
    reference.set_start(coil_start(2, 10) * 1.1, 200)
    ours = engine(chignolin, 2, k=10.0)
    ours.set_start(coil_start(2, 10) * 1.1, 200)
    assert ours.energies().max() < 1e-3
    np.testing.assert_allclose(ours.positions(), reference.positions(), atol=1e-2)


# ---------------------------------------------------------------------- threads, restarts


def trajectory(found: Any, calls: tuple[int, ...] = (5, 70, 25)) -> list[NDArray[np.float64]]:
    states = []
    for n in calls:
        assert found.step(n) is None
        states += [found.positions(), found.velocities()]
    return states


def assert_equal(first: list[NDArray[np.float64]], second: list[NDArray[np.float64]]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(chignolin: CGTopology, threads: int) -> None:
    one, several = (engine(chignolin, 7, k=10.0, threads=n) for n in (1, threads))
    assert_equal(trajectory(one), trajectory(several))


def test_an_interval_may_be_split_into_any_calls(chignolin: CGTopology) -> None:
    whole = trajectory(engine(chignolin, 3, k=10.0), (100,))
    parts = trajectory(engine(chignolin, 3, k=10.0), (1, 2, 64, 13, 20))
    assert_equal(whole, parts[-2:])


def test_a_checkpoint_continues_to_the_same_bytes(chignolin: CGTopology) -> None:
    first = engine(chignolin, 3, k=10.0, temperatures=(300.0, 310.0, 320.0))
    first.step(50)
    first.set_temperatures(np.array([320.0, 310.0, 300.0]))
    binary = first.checkpoint()
    expected = trajectory(first)
    other = engine(chignolin, 3, k=10.0, threads=2, temperatures=(300.0, 310.0, 320.0))
    other.restore(binary)
    assert other.checkpoint() == binary
    assert_equal(trajectory(other), expected)
    with pytest.raises(StateError, match=r"not one of backend 'cpu' for 3 replica\(s\) of 10 beads"):
        other.restore(b"OpenMM")


def test_a_parked_replica_rests_and_does_not_affect_the_others(chignolin: CGTopology) -> None:
    start = coil_start(3, 10)
    whole, parked = (engine(chignolin, 3, k=10.0, start=start, threads=2) for _ in range(2))
    for each in (whole, parked):
        each.step(20)
    parked.park([1], start, 20)
    for each in (whole, parked):
        each.step(30)
    np.testing.assert_array_equal(parked.positions()[1], start[1])
    np.testing.assert_array_equal(parked.velocities()[1], 0.0)
    np.testing.assert_array_equal(parked.positions()[[0, 2]], whole.positions()[[0, 2]])
    resumed = engine(chignolin, 3, k=10.0, parked=(1,), start=start)
    resumed.restore(parked.checkpoint())
    for each in (resumed, parked):
        each.step(10)
    np.testing.assert_array_equal(resumed.positions(), parked.positions())


def test_a_replica_that_is_not_finite_does_not_affect_the_others(chignolin: CGTopology) -> None:
    start = coil_start(3, 10)
    good, bad = (engine(chignolin, 3, k=10.0, start=start) for _ in range(2))
    x, v = bad.positions(), bad.velocities()
    v[1, 4] = np.nan
    bad.set_state(x, v)
    for each in (good, bad):
        assert each.step(20) is None
    assert np.isnan(bad.positions()[1]).any()
    np.testing.assert_array_equal(bad.positions()[[0, 2]], good.positions()[[0, 2]])


def test_a_failure_of_one_thread_is_the_message_of_the_step(chignolin: CGTopology) -> None:
    found: Any = engine(chignolin, 4, k=10.0, threads=2)
    found._parts[1].fails = True
    assert found.step(5) == "memory does not suffice for 9 pairs"
    found._parts[1].fails = False
    assert found.step(5) is None
    found.potential.fails = True
    with pytest.raises(DynamicsError, match="memory does not suffice"):
        found.forces()


# ---------------------------------------------------------------------- real potentials


@pytest.fixture(scope="module")
def exported(chignolin: CGTopology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cgal_plugin.export import export_potential

    path = tmp_path_factory.mktemp("exported") / "p.npz"
    export_potential(EXAMPLE, chignolin, path)
    return path


@pytest.mark.filterwarnings("ignore:.*embedding.*")
def test_a_real_potential_in_simulate(exported: Path, chignolin: CGTopology, tmp_path: Path) -> None:
    """The choice of ``auto``; threads and interruptions change no byte; forces are those in OpenMM."""
    options: dict[str, Any] = {
        "timestep_fs": 4.0, "temperature": 400.0, "friction": 1.0, "report_interval": 10, "seed": 3,
        "temperatures": (400.0, 440.0), "exchange_interval": 5,
    }  # fmt: skip
    start = chain_start(14, 10)
    whole = simulate(exported, chignolin, start, steps=60, out_dir=tmp_path / "whole", **options)
    assert whole.backend == "cpu"
    for steps, n in ((20, 2), (40, 3), (60, 14)):
        parts = simulate(
            exported, chignolin, start, steps=steps, out_dir=tmp_path / "parts", n_threads=n, **options
        )
    for a, b in zip(whole.trajectories, parts.trajectories, strict=True):
        assert a.read_bytes() == b.read_bytes()
    engines = [
        open_engine(settings(chignolin, 14, potential=exported, backend=name)) for name in ("cpu", "fast")
    ]
    for each in engines:
        each.set_start(start)
    np.testing.assert_array_equal(engines[0].forces(), engines[1].forces())
    np.testing.assert_array_equal(engines[0].energies(), engines[1].energies())


def test_in_an_openmm_system_the_error_names_the_backend(exported: Path, chignolin: CGTopology) -> None:
    with pytest.raises(DynamicsError, match="use 'fast'"):
        add_potential(build_system(chignolin, 1), exported, chignolin, backend="cpu")


def test_another_platform_is_refused(exported: Path, chignolin: CGTopology, tmp_path: Path) -> None:
    with pytest.raises(DynamicsError, match="backend 'cpu' computes on the CPU, but platform is 'CUDA'"):
        simulate(
            exported, chignolin, coil_start(1, 10), steps=10, timestep_fs=4.0, temperature=300.0,
            friction=1.0, out_dir=tmp_path / "out", backend="cpu", platform="CUDA",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
