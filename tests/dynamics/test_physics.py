"""Conservation, temperature, the Boltzmann distribution, independence of replicas.

Each statistical assertion is a test with significance level ALPHA: the probability of a false alarm is 1e-6
for correct code and any seed, CPU and kernel. This module has 11 such assertions per seed, so the rate is
1.4e-5 per seed. Samples are independent: one per replica, or from the same replica after many relaxation
times. That a test can detect an error follows from the critical values of its statistic, without chance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from scipy import integrate, stats

from cgal_plugin.dynamics import Guard, add_potential, build_system, simulate
from cgal_plugin.dynamics.engine import Engine
from cgal_plugin.dynamics.guard import kinetic_temperature
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL
from tests.dynamics.potentials import HarmonicChain, chain_start, coil_start, save_potential
from tests.torchforce import DEFAULT, TORCHFORCE

ALPHA = 1e-6
KT = BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * 300.0  # kJ/mol


#: replicas of the test of energy conservation
COPIES = 4
#: bound on the relative change of the energy. The Verlet energy oscillates by (ω Δt)² / 8 = 1e-4 of that of a
#: mode; forces that are wrong by 2 % change it by 0.02 sqrt(9/2) / 15 sqrt(COPIES) = 1.4e-3
DRIFT = 4e-4


def energy_drift(potential: Path, topology, backend: str, seed: int) -> float:
    """Return the change of the total energy over 10 ps of Verlet dynamics relative to the kinetic energy."""
    system = build_system(topology, COPIES)
    add_potential(system, potential, topology, backend=backend, n_replicas=COPIES)
    integrator = openmm.VerletIntegrator(0.002)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(coil_start(COPIES, 10).reshape(-1, 3) / 10)
    context.setVelocitiesToTemperature(300, seed + 1)
    energies, kinetic = [], []
    for _ in range(200):
        integrator.step(25)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy()._value)
        energies.append(kinetic[-1] + state.getPotentialEnergy()._value)
    first, last = np.mean(energies[:50]), np.mean(energies[-50:])
    # drift, and fluctuation, which shows a wrong force at once
    return (abs(last - first) + np.std(energies)) / np.mean(kinetic)


@pytest.mark.parametrize("backend", [TORCHFORCE, "python"])
def test_energy_is_conserved_without_a_thermostat(chignolin, tmp_path, backend, chance_seed):
    right = save_potential(HarmonicChain(COPIES, 10, k=5000.0), tmp_path / "right.pt")
    assert energy_drift(right, chignolin, backend, chance_seed) < DRIFT


def settings(potential, topology, n_replicas, **changes):
    return Settings(
        **{
            "potential": potential,
            "topology": topology,
            "n_replicas": n_replicas,
            "timestep_fs": 4.0,
            "temperature": 300.0,
            "friction": 5.0,
            "seed": 1,
            "backend": DEFAULT,
            "platform": "Reference",
        }
        | changes
    )


def test_the_temperature_is_that_of_the_bath(chignolin, tmp_path, chance_seed):
    n = 200
    potential = save_potential(HarmonicChain(n, 10, k=5000.0), tmp_path / "p.pt")
    engine = Engine(settings(potential, chignolin, n, seed=chance_seed))
    engine.set_start(coil_start(n, 10))
    # starting velocities: 3 * 10 * n independent degrees of freedom
    initial = kinetic_temperature(engine.velocities(), chignolin.masses) / 300.0
    samples = []
    for _ in range(4):
        assert engine.step(500) is None  # 2 ps, ten relaxation times of velocities
        samples.append(kinetic_temperature(engine.velocities(), chignolin.masses) / 300.0)
    # the critical values detect velocities that are 10 % too hot and a bath that is 5 % too hot
    for ratios, resolution in ((initial, 0.10), (np.concatenate(samples), 0.05)):
        low, high = critical_ratios(30 * ratios.size)
        assert 1 - resolution < low < ratios.mean() < high < 1 + resolution
        # the kinetic energy of each replica has the chi-squared distribution
        assert stats.kstest(30 * ratios, stats.chi2(30).cdf).pvalue > ALPHA


def critical_ratios(freedom: int) -> tuple[float, float]:
    """Return the critical values of a chi-squared variable divided by its degrees of freedom."""
    return stats.chi2.ppf(ALPHA / 2, freedom) / freedom, stats.chi2.isf(ALPHA / 2, freedom) / freedom


@pytest.fixture(scope="module")
def harmonic_samples(pair, tmp_path_factory, chance_seed):
    """Return frames (400, 2, 2, 3) nm of pairs of beads restrained to the origin, and the force constant."""
    folder = tmp_path_factory.mktemp("harmonic")
    n, k = 400, 300.0
    potential = save_potential(HarmonicChain(n, 2, k=0.0, self_term=k), folder / "p.pt")
    start = chain_start(n, 2, spacing=1.0)
    result = simulate(
        potential,
        pair,
        start,
        steps=3000,
        timestep_fs=10.0,
        temperature=300.0,
        friction=5.0,
        seed=chance_seed,
        out_dir=folder / "sim",
        report_interval=1500,  # 15 ps; correlations decay as exp(-2.5 t/ps)
        guard=Guard.off(),
        center_frames=False,
    )
    return np.stack(result.load()).astype(np.float64) / 10, k


def test_a_harmonic_well_is_sampled_with_the_exact_boltzmann_distribution(harmonic_samples):
    # LangevinMiddle samples positions in a harmonic well without time step error
    frames, k = harmonic_samples
    sigma = np.sqrt(KT / k)
    values = frames.ravel()
    assert values.size == 4800
    assert stats.kstest(values, stats.norm(scale=sigma).cdf).pvalue > ALPHA
    energies = 0.5 * k * (frames**2).sum(axis=-1).ravel() / KT
    assert stats.kstest(energies, stats.gamma(1.5).cdf).pvalue > ALPHA
    # the second moment is the sharper test: it detects an error of the temperature of 11 %
    low, high = critical_ratios(values.size)
    assert 0.89 < low < (values**2).mean() / sigma**2 < high < 1.11


def test_replicas_and_beads_are_independent(harmonic_samples):
    frames, _ = harmonic_samples
    last = frames[:, -1].reshape(len(frames), 6)
    pairs = [
        (last[:-1].ravel(), last[1:].ravel()),  # a replica and the next
        (last[:, :3].ravel(), last[:, 3:].ravel()),  # a bead and the other
        (frames[:, 0].ravel(), frames[:, 1].ravel()),  # 15 ps apart
    ]
    for x, y in pairs:
        assert stats.pearsonr(x, y).pvalue > ALPHA


def test_a_bond_has_the_boltzmann_distribution_of_its_length(pair, tmp_path, chance_seed):
    n, k, r0 = 400, 2000.0, 0.38
    potential = save_potential(HarmonicChain(n, 2, k=k, r0=r0), tmp_path / "p.pt")
    result = simulate(
        potential,
        pair,
        chain_start(n, 2),
        steps=3000,
        timestep_fs=4.0,
        temperature=300.0,
        friction=5.0,
        seed=chance_seed,
        out_dir=tmp_path / "sim",
        report_interval=1000,
    )
    assert result.events == ()
    frames = np.stack(result.load()).astype(np.float64) / 10
    lengths = np.linalg.norm(frames[..., 1, :] - frames[..., 0, :], axis=-1).ravel()
    assert lengths.size == 1200
    grid = np.linspace(0.1, 0.7, 4001)

    energy = 0.5 * k * (grid - r0) ** 2 / KT
    density = grid**2 * np.exp(-energy)
    total = integrate.cumulative_trapezoid(density, grid, initial=0.0)
    assert stats.kstest(lengths, lambda r: np.interp(r, grid, total / total[-1])).pvalue > ALPHA
    # the mean energy detects an error of the temperature of 25 %; the skewness of the mean, 0.08 for 1200
    # values, raises the false-alarm rate from 1e-6 to 4e-6 (Edgeworth)
    mean = np.average(energy, weights=density)
    error = np.sqrt(np.average((energy - mean) ** 2, weights=density) / lengths.size)
    bound = stats.norm.isf(ALPHA / 2) * error
    assert bound < 0.25 * mean
    assert abs((0.5 * k * (lengths - r0) ** 2 / KT).mean() - mean) < bound


def test_wrong_forces_do_not_conserve_energy(chignolin, tmp_path, chance_seed):
    wrong = save_potential(HarmonicChain(COPIES, 10, k=5000.0, energy_factor=1.02), tmp_path / "wrong.pt")
    assert energy_drift(wrong, chignolin, DEFAULT, chance_seed) > DRIFT
