"""Conservation, temperature, the Boltzmann distribution, independence of replicas.

Statistical tests have a fixed seed, so they pass or fail reproducibly; ALPHA is the chance that one
would fail for correct code under another seed. Samples are independent: one a replica, or of the
same replica after many relaxation times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from scipy import integrate, stats

from cgal_plugin.dynamics import Guard, add_potential, build_system, simulate
from cgal_plugin.dynamics.engine import Engine, Settings
from cgal_plugin.dynamics.guard import kinetic_temperature
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL
from tests.dynamics.potentials import HarmonicChain, chain_start, coil_start, save_potential

ALPHA = 1e-3
KT = BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * 300.0  # kJ/mol


def energy_drift(potential: Path, topology, backend: str) -> float:
    """Change of the total energy over 40 ps of Verlet dynamics, in units of the kinetic energy."""
    system = build_system(topology)
    add_potential(system, potential, topology, backend=backend)
    integrator = openmm.VerletIntegrator(0.002)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(coil_start(1, 10)[0] / 10)
    context.setVelocitiesToTemperature(300, 5)
    energies, kinetic = [], []
    for _ in range(400):
        integrator.step(25)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy()._value)
        energies.append(kinetic[-1] + state.getPotentialEnergy()._value)
    first, last = np.mean(energies[:100]), np.mean(energies[-100:])
    # the fluctuation, which a wrong force would show at once, and the drift
    return (abs(last - first) + np.std(energies)) / np.mean(kinetic)


@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_energy_is_conserved_without_a_thermostat(chignolin, tmp_path, backend):
    right = save_potential(HarmonicChain(1, 10, k=5000.0), tmp_path / "right.pt")
    assert energy_drift(right, chignolin, backend) < 2e-3


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
            "backend": "torchforce",
            "platform": "Reference",
        }
        | changes
    )


def test_the_temperature_is_that_of_the_bath(chignolin, tmp_path):
    n = 200
    potential = save_potential(HarmonicChain(n, 10, k=5000.0), tmp_path / "p.pt")
    engine = Engine(settings(potential, chignolin, n))
    engine.set_start(coil_start(n, 10))
    # starting velocities: 3 * 10 * n independent degrees of freedom
    initial = kinetic_temperature(engine.velocities(), chignolin.masses) / 300.0
    samples = []
    for _ in range(4):
        assert engine.step(500) is None  # 2 ps: ten velocity relaxation times
        samples.append(kinetic_temperature(engine.velocities(), chignolin.masses) / 300.0)
    for ratios in (initial, np.concatenate(samples)):
        freedom = 30 * ratios.size
        p = stats.chi2.cdf(30 * ratios.sum(), freedom)
        assert ALPHA / 2 < p < 1 - ALPHA / 2
        # not only the mean: each replica's kinetic energy has the chi-squared distribution
        assert stats.kstest(30 * ratios, stats.chi2(30).cdf).pvalue > ALPHA
        # the test would notice a bath 5 % too warm
        assert stats.chi2.sf(30 * 1.05 * ratios.sum(), freedom) < ALPHA


@pytest.fixture(scope="module")
def harmonic_samples(pair, tmp_path_factory):
    """Final frames (n, 2, 3) nm of 400 pairs of beads, each bead held to the origin; their constant."""
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
        seed=2,
        out_dir=folder / "sim",
        report_interval=1500,  # 15 ps: the slowest correlation decays as exp(-2.5 t/ps)
        guard=Guard.off(),
        center_frames=False,
    )
    return np.stack(result.load()).astype(np.float64) / 10, k


def test_a_harmonic_well_is_sampled_with_the_exact_boltzmann_distribution(harmonic_samples):
    # LangevinMiddle samples the positions of a harmonic well without error of the time step
    frames, k = harmonic_samples
    sigma = np.sqrt(KT / k)
    values = frames.ravel()
    assert values.size == 4800
    assert stats.kstest(values, stats.norm(scale=sigma).cdf).pvalue > ALPHA
    energies = 0.5 * k * (frames**2).sum(axis=-1).ravel() / KT
    assert stats.kstest(energies, stats.gamma(1.5).cdf).pvalue > ALPHA
    # the second moment is the sharper test: it would notice a temperature 10 % off
    moment, freedom = (values**2).sum() / sigma**2, values.size
    assert ALPHA / 2 < stats.chi2.cdf(moment, freedom) < 1 - ALPHA / 2
    for factor in (0.9, 1.1):
        p = stats.chi2.cdf(factor * moment, freedom)
        assert min(p, 1 - p) < ALPHA / 2


def test_replicas_and_beads_are_independent(harmonic_samples):
    frames, _ = harmonic_samples
    last = frames[:, -1].reshape(len(frames), 6)
    pairs = [
        (last[:-1].ravel(), last[1:].ravel()),  # a replica and the next
        (last[:, :3].ravel(), last[:, 3:].ravel()),  # a bead and the other
        (frames[:, 0].ravel(), frames[:, 1].ravel()),  # 15 ps apart
    ]
    for x, y in pairs:
        assert stats.pearsonr(x, y).pvalue > ALPHA / 3


def test_a_bond_has_the_boltzmann_distribution_of_its_length(pair, tmp_path):
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
        seed=3,
        out_dir=tmp_path / "sim",
        report_interval=1000,
    )
    assert result.events == ()
    frames = np.stack(result.load()).astype(np.float64) / 10
    lengths = np.linalg.norm(frames[..., 1, :] - frames[..., 0, :], axis=-1).ravel()
    assert lengths.size == 1200
    grid = np.linspace(0.1, 0.7, 4001)

    def cdf(temperature):
        density = grid**2 * np.exp(-0.5 * k * (grid - r0) ** 2 / (KT * temperature / 300.0))
        total = integrate.cumulative_trapezoid(density, grid, initial=0.0)
        return lambda r: np.interp(r, grid, total / total[-1])

    assert stats.kstest(lengths, cdf(300.0)).pvalue > ALPHA
    assert stats.kstest(lengths, cdf(400.0)).pvalue < ALPHA


def test_energy_conservation_notices_wrong_forces(chignolin, tmp_path):
    wrong = save_potential(HarmonicChain(1, 10, k=5000.0, energy_factor=1.02), tmp_path / "wrong.pt")
    assert energy_drift(wrong, chignolin, "torchforce") > 2e-3
