"""Parallel tempering samples the Boltzmann distribution of every temperature.

Each statistical assertion is a test with significance level ALPHA = 1e-6: the probability of a false alarm
for correct code and any seed. This module has 20 such assertions per seed, so the rate is 2e-5 per seed.
Samples at one temperature are of independent ladders, or far apart in time; those of different temperatures
at one time are independent in equilibrium.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

from cgal_plugin.dynamics import Guard, simulate
from cgal_plugin.dynamics.engine import Engine
from cgal_plugin.dynamics.guard import kinetic_temperature
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.dynamics.tempering import ExchangeState, Ladder, acceptance, exchange
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL, kT
from tests.dynamics.potentials import save_potential
from tests.dynamics.wells import Wells
from tests.torchforce import DEFAULT

ALPHA = 1e-6
GAS = BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL  # kJ/mol/K
T = (300.0, 400.0, 550.0)
LADDERS = 80


def critical_ratios(freedom: int) -> tuple[float, float]:
    return stats.chi2.ppf(ALPHA / 2, freedom) / freedom, stats.chi2.isf(ALPHA / 2, freedom) / freedom


def harmonic(pair, folder, seed):
    """Return frames (rungs, ladders, 2, 2, 3) nm of harmonic beads under frequent exchanges, and result."""
    n = LADDERS * len(T)
    potential = save_potential(Wells(n, 2), folder / "p.pt")
    result = simulate(
        potential,
        pair,
        np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        n_replicas=n,
        steps=1500,
        timestep_fs=10.0,
        temperature=T[0],
        temperatures=T,
        exchange_interval=5,  # 0.05 ps, a tenth of the relaxation time: a wrong exchange cannot relax
        friction=2.0,
        seed=seed,
        out_dir=folder / "sim",
        report_interval=300,  # 3 ps; correlations of x² decay as exp(-2 t/ps), or faster by the exchanges
        guard=Guard.off(),
        center_frames=False,
        backend=DEFAULT,
    )
    frames = np.array([result.load_temperature(t) for t in T]).astype(np.float64) / 10
    return frames, result


def test_each_temperature_of_a_harmonic_well_has_its_distribution(pair, tmp_path, chance_seed):
    frames, result = harmonic(pair, tmp_path, chance_seed)
    assert frames.shape == (3, LADDERS, 5, 2, 3)
    for t, at in zip(T, frames, strict=True):
        sigma = np.sqrt(GAS * t / 300.0)
        assert stats.kstest(at.ravel(), stats.norm(scale=sigma).cdf).pvalue > ALPHA
        # momenta scaled the wrong way (mlcg, pull request 70) make this 1.23 at the lowest temperature
        low, high = critical_ratios(at.size)
        assert 0.86 < low < (at**2).mean() / sigma**2 < high < 1.15
    # energies of the six degrees of freedom that MBAR gets: U/kT at each temperature is gamma(3)
    with np.load(result.energies_file) as saved:
        bounds = np.concatenate([[0], np.cumsum(saved["N_k"])])
        assert saved["u_kn"].shape == (3, 3 * 5 * LADDERS)
        for k, (a, b) in enumerate(itertools.pairwise(bounds)):
            assert stats.kstest(saved["u_kn"][k, a:b], stats.gamma(3.0).cdf).pvalue > ALPHA
        # MBAR finds the free energies of six harmonic coordinates, f = -3 ln T; a standard error is 0.05
        f = mbar(saved["u_kn"], saved["N_k"])
        np.testing.assert_allclose(f, -3 * np.log(np.array(T) / T[0]), atol=0.3)
    # two walkers with gamma(3) energies: the acceptance of the exchange in closed form, by quadrature
    for p in result.tempering["pairs"]:
        n = p["attempts"]
        assert n == LADDERS * 150
        expected = gamma_acceptance(*p["temperatures"])
        # attempts are correlated over some 0.5 ps = 5 attempts of a pair; 25 is on the safe side
        bound = stats.norm.isf(ALPHA / 2) * math.sqrt(25 * expected * (1 - expected) / n)
        assert abs(p["acceptance"] - expected) < bound < 0.11


def mbar(u_kn, n_k):
    """Solve the MBAR equations by iteration (Shirts and Chodera 2008)."""
    f = np.zeros(len(n_k))
    for _ in range(200):
        denominator = logsumexp(f[:, None] - u_kn, b=n_k[:, None], axis=0)
        f = -logsumexp(-u_kn - denominator, axis=1)
        f -= f[0]
    return f


def gamma_acceptance(low: float, high: float) -> float:
    ratio = low / high
    grid = np.linspace(1e-6, 40.0, 1500)
    density = stats.gamma(3.0).pdf(grid)
    # reduced energies u = U_low/kT_low and w = U_high/kT_high
    exponent = (1 - ratio) * grid[:, None] - (1 / ratio - 1) * grid[None, :]
    inner = integrate.trapezoid(np.exp(np.minimum(0, exponent)) * density[None, :], grid, axis=1)
    return float(integrate.trapezoid(inner * density, grid))


def test_the_integrator_repeats_the_scheme_of_openmm(pair, tmp_path):
    """Without noise, it gives the trajectory of LangevinMiddleIntegrator; other tests are of the noise."""
    temperature = 1e-20
    potential = save_potential(Wells(3, 2), tmp_path / "p.pt")
    common = (potential, pair, 3, 10.0, temperature, 2.0, 4, DEFAULT, "Reference")
    start = np.random.default_rng(0).normal(size=(3, 2, 3))
    found = []
    for temperatures in ((), (temperature,) * 3):
        engine = Engine(Settings(*common, temperatures))
        engine.set_start(start)
        assert engine.step(200) is None
        found.append((engine.positions(), engine.velocities()))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-9)
    assert abs(found[0][0]).max() > 1e-2  # the beads have not come to rest


def test_the_kinetic_temperature_right_after_an_exchange_is_that_of_the_new_bath(pair, tmp_path, chance_seed):
    n = 300
    potential = save_potential(Wells(n, 2), tmp_path / "p.pt")
    old = np.tile([300.0, 500.0], n // 2)
    engine = Engine(
        Settings(potential, pair, n, 10.0, 300.0, 2.0, chance_seed, DEFAULT, "Reference", tuple(old))
    )
    engine.set_start(np.zeros((n, 2, 3)))
    assert engine.step(500) is None
    before, positions = engine.velocities(), engine.positions()
    new = old[::-1].copy()
    engine.set_temperatures(new)
    assert np.array_equal(engine.positions(), positions)
    np.testing.assert_allclose(engine.velocities(), before * np.sqrt(new / old)[:, None, None], rtol=1e-12)
    for t in (300.0, 500.0):
        ratio = kinetic_temperature(engine.velocities()[new == t], pair.masses) / t
        low, high = critical_ratios(6 * ratio.size)
        # 10 fs steps cool velocities of a stiff mode by (ω Δt)²/8 < 1 %
        assert 0.99 * low < ratio.mean() < 1.01 * high


@pytest.mark.integration
def test_exchanges_carry_walkers_over_a_barrier_that_plain_dynamics_does_not_cross(
    pair, tmp_path, chance_seed
):
    temperatures = (300.0, 420.0, 600.0, 850.0, 1200.0)
    ladders, barrier, tilt = 40, 32.0, 0.6
    n = ladders * len(temperatures)
    common = {
        "timestep_fs": 10.0,
        "friction": 2.0,
        "report_interval": 400,
        "guard": Guard.off(),
        "center_frames": False,
        "backend": DEFAULT,
        "seed": chance_seed,
        "temperature": 300.0,
        "steps": 3200,
    }
    start = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    well = {"barrier": barrier, "a": 0.1, "tilt": tilt}
    potential = save_potential(Wells(n, 2, **well), tmp_path / "p.pt")
    result = simulate(
        potential,
        pair,
        start,
        n_replicas=n,
        temperatures=temperatures,
        exchange_interval=20,
        out_dir=tmp_path / "tempered",
        **common,
    )
    grid = np.linspace(-0.25, 0.25, 4001)
    energy = barrier * ((grid / 0.1) ** 2 - 1) ** 2 + tilt * grid / 0.1
    for t in temperatures:
        density = np.exp(-energy / (GAS * t))
        expected = integrate.trapezoid(density[grid > 0], grid[grid > 0]) / integrate.trapezoid(density, grid)
        right = sum(frames[-1, 0, 0] > 0 for frames in result.load_temperature(t))
        assert stats.binomtest(int(right), ladders, expected).pvalue > ALPHA
    assert result.tempering["round_trips"] > 100
    # as many replicas at 300 K for as many steps: P(at most 3 right | equilibrium) < 1e-7
    plain = simulate(
        save_potential(Wells(ladders, 2, **well), tmp_path / "q.pt"),
        pair,
        start,
        n_replicas=ladders,
        out_dir=tmp_path / "plain",
        **common,
    )
    assert sum(frames[-1, 0, 0] > 0 for frames in plain.load()) <= 3


# ---------------------------------------------------------------------- the exchange alone


class Fixed(Ladder):
    """A ladder with given random numbers."""

    value = 0.0

    def random(self, step):
        return np.full((self.n_ladders, len(self.temperatures)), self.value)


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("energies", [(-3.0, 1.0, 2.5), (0.4, 0.4, -7.0), (5.0, -5.0, 0.0)])
def test_the_exchange_obeys_detailed_balance_exactly(parity, energies):
    """For all assignments of three walkers to three rungs: π_a P_ab = π_b P_ba."""
    ladder = Fixed((300.0, 380.0, 500.0), 3, 1, 0)
    beta = [1.0 / kT(t) for t in ladder.temperatures]
    states = list(itertools.permutations(range(3)))
    weight = {s: math.exp(-sum(beta[r] * e for r, e in zip(s, energies, strict=True))) for s in states}

    def step(rungs, value):
        ladder_with = Fixed(ladder.temperatures, 3, 1, 0)
        object.__setattr__(ladder_with, "value", value)
        state = ExchangeState.start(ladder)
        state.rungs = list(rungs)
        exchange(ladder_with, state, np.array(energies), [False] * 3, 2 + parity)
        return tuple(state.rungs)

    for a in states:
        b = step(a, 0.0)  # accepted unless the probability is 0
        assert b != a
        low, high = (parity, parity + 1)
        walker = {r: w for w, r in enumerate(a)}
        p = acceptance(
            ladder.temperatures[low], ladder.temperatures[high], energies[walker[low]], energies[walker[high]]
        )
        back = acceptance(
            ladder.temperatures[low], ladder.temperatures[high], energies[walker[high]], energies[walker[low]]
        )
        assert weight[a] * p == pytest.approx(weight[b] * back, rel=1e-12)
        assert max(p, back) == 1.0
        if p < 1.0:  # the threshold is this probability
            assert step(a, p * (1 - 1e-9)) == b
            assert step(a, p * (1 + 1e-9)) == a


def test_the_permutations_of_fixed_energies_have_the_exact_distribution(chance_seed):
    energies = np.array([-1.0, 0.3, 0.9])
    ladder = Ladder((300.0, 380.0, 500.0), 3, 1, chance_seed)
    state = ExchangeState.start(ladder)
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for step in range(1, 4001):
        exchange(ladder, state, energies, [False] * 3, step)
        if step % 10 == 0:  # the second eigenvalue of two attempts is below 0.5: independent
            counts[tuple(state.rungs)] += 1
    beta = np.array([1.0 / kT(t) for t in ladder.temperatures])
    weight = np.array([math.exp(-beta[list(s)] @ energies) for s in counts])
    expected = 400 * weight / weight.sum()
    assert stats.chisquare(list(counts.values()), expected).pvalue > ALPHA
