"""The guard detects blow-ups, and gives no false alarm in equilibrium."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.dynamics import Guard
from cgal_plugin.dynamics.guard import Limits, find_blown, kinetic_temperature, stereocentres
from cgal_plugin.errors import DynamicsError
from cgal_plugin.oracle.system import AllAtomModel
from cgal_plugin.units import BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL
from tests.dynamics.potentials import chain_start


def maxwell(rng, n, masses, temperature):
    """Å/ps; 1 amu Å²/ps² is 0.01 kJ/mol."""
    scale = np.sqrt(BOLTZMANN_KCAL_PER_MOL_K * KJ_PER_KCAL * 100 * temperature / masses)
    return rng.standard_normal((n, len(masses), 3)) * scale[:, None]


def limits(topology, start, guard=None, temperature=300.0):
    return Limits.build(guard or Guard(), topology.bond_index, topology.masses, temperature, start)


def test_each_kind_of_blow_up_is_found_in_its_replica(chignolin):
    start = chain_start(5, 10)
    velocities = np.zeros_like(start)
    positions = start.copy()
    positions[1, 4] = np.nan
    positions[2, 5:] += 3.8 * 0.7  # bond 4-5, along the chain and across it
    velocities[3] = 50.0
    positions[4, 1:] -= [3.8 * 0.9, 0, 0]
    found = find_blown(positions, velocities, limits(chignolin, start))
    assert {r: kind for r, (kind, _) in found.items()} == {1: "non-finite", 2: "bond", 3: "energy", 4: "bond"}
    assert "bond 4-5" in found[2][1]
    assert "bond 0-1" in found[4][1]
    only_finite = find_blown(positions, velocities, limits(chignolin, start, Guard.off()))
    assert list(only_finite) == [1]


def test_overflowing_replicas_are_caught(chignolin):
    start = chain_start(2, 10)
    positions = start.copy()
    positions[1, 3] = 1e200
    assert list(find_blown(positions, np.zeros_like(start), limits(chignolin, start))) == [1]
    velocities = np.zeros_like(start)
    velocities[0] = 1e200
    assert find_blown(start, velocities, limits(chignolin, start))[0][0] == "energy"


@pytest.mark.parametrize("sequence_beads", [2, 10])
def test_replicas_in_equilibrium_do_not_run_away(chignolin, pair, sequence_beads, chance_seed):
    # false-alarm rate of the guard: 100,000 checks at 1e-12 or less each, so 1e-7
    topology = pair if sequence_beads == 2 else chignolin
    velocities = maxwell(np.random.default_rng(chance_seed), 100_000, topology.masses, 300.0)
    # standard error 300 K sqrt(2 / 600,000) = 0.55 K at most: 3.6 standard errors would be 2.0 K
    assert abs(kinetic_temperature(velocities, topology.masses).mean() - 300.0) < 3.0  # 5.5 sigma, 4e-8
    start = chain_start(1, topology.n_beads)
    assert not find_blown(np.repeat(start, 100_000, 0), velocities, limits(topology, start))


def test_the_reference_lengths_are_the_median_of_the_starts_or_given(pair):
    start = chain_start(3, 2)
    start[0, 1, 0] = 30.0
    assert limits(pair, start).bond_reference.tolist() == [3.8]
    assert limits(pair, start, Guard(bond_reference=(4.2,))).bond_reference.tolist() == [4.2]
    with pytest.raises(DynamicsError, match=r"2 lengths; the topology has 1 bond"):
        limits(pair, start, Guard(bond_reference=(4.2, 3.8)))


@pytest.mark.parametrize(
    "wrong",
    [{"max_bond_ratio": 0.9}, {"min_bond_ratio": 1.5}, {"max_temperature_ratio": 0}, {"max_restarts": -1}],
)
def test_senseless_limits_are_refused(wrong):
    with pytest.raises(DynamicsError, match=next(iter(wrong))):
        Guard(**wrong)


def test_an_inverted_stereocentre_is_found_in_its_replica():
    model = AllAtomModel.from_sequence("AGT", "5bead")
    topology = model.cg_topology
    start = np.repeat(np.asarray(model.mapping.map_positions(model.positions))[None], 3, axis=0)
    centres = stereocentres(topology)
    assert [topology.type_names[ca] for *_, ca in centres] == ["CA_ALA", "CA_THR"]
    args = topology.bond_index, topology.masses, 300.0, start, centres
    positions = start.copy()
    n, ca, cb, c = positions[1, :4]
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal)
    positions[1, 2] -= 2 * normal * ((cb - ca) @ normal)  # the mirror image, with all bonds unchanged
    velocities = np.zeros_like(start)
    found = find_blown(positions, velocities, Limits.build(Guard(), *args))
    assert found == {1: ("chirality", "the chirality at bead 1 is inverted")}
    assert not find_blown(positions, velocities, Limits.build(Guard.off(), *args))
    # the start frames say which chirality is right, such as that of a D-amino acid
    mirrored = start * [1, 1, -1]
    own = topology.bond_index, topology.masses, 300.0, mirrored, centres
    assert not find_blown(mirrored, velocities, Limits.build(Guard(), *own))
    noise = start[:1] + np.random.default_rng(0).normal(scale=0.05, size=(1000, *start.shape[1:]))
    assert not find_blown(noise, np.zeros_like(noise), Limits.build(Guard(), *args))
