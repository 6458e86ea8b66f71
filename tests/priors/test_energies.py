"""The pure energy functions: values, gradients, invariances, degenerate geometries."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.priors import bonded, nonbonded
from tests.priors.chains import chains

ANGLE = torch.tensor([[0], [1], [2]])
DIHEDRAL = torch.tensor([[0], [1], [2], [3]])


def total_energy(pos: torch.Tensor, order: torch.Tensor | None = None) -> torch.Tensor:
    """All terms of a five-bead chain; ``order[i]`` is where bead i is found."""
    order = torch.arange(5) if order is None else order
    one = torch.ones(1, dtype=pos.dtype)

    def table(*rows: list[int]) -> torch.Tensor:
        return order[torch.tensor(rows)]

    bonds = bonded.bond_length(pos, table([0, 1, 2, 3], [1, 2, 3, 4]))
    triples = table([0, 1, 2], [1, 2, 3], [2, 3, 4])
    phi, fade = bonded.dihedral_angle(pos, table([0, 1], [1, 2], [2, 3], [3, 4]))
    k = torch.tensor([[1.0, 0.5, 0.2]], dtype=pos.dtype).expand(2, 3)
    phase = torch.tensor([[0.3, -1.0, 2.0]], dtype=pos.dtype).expand(2, 3)
    apart = bonded.bond_length(pos, table([0, 0, 1], [3, 4, 4]))
    return (
        bonded.harmonic_energy(bonds, 50 * one, 3.8 * one).sum()
        + bonded.harmonic_energy(bonded.bond_angle(pos, triples), 8 * one, 1.8 * one).sum()
        + bonded.harmonic_energy(bonded.bond_angle_cosine(pos, triples), 5 * one, -0.3 * one).sum()
        + bonded.dihedral_energy(phi, k, phase, fade).sum()
        + nonbonded.repulsion_energy(apart, one, 4.5 * one, 6).sum()
        + nonbonded.pair_energy(apart, k[:1].expand(3, 3), 3.0, 2.0).sum()
    )


def test_values_by_hand() -> None:
    pos = torch.tensor([[3.0, 0, 0], [0, 0, 0], [0, 4.0, 0], [0, 4.0, 5.0]], dtype=torch.float64)
    assert bonded.bond_length(pos, torch.tensor([[0, 0], [1, 2]])).tolist() == [3.0, 5.0]
    assert bonded.bond_angle(pos, ANGLE).item() == pytest.approx(np.pi / 2, abs=1e-14)
    assert bonded.bond_angle_cosine(pos, ANGLE).item() == pytest.approx(0.0, abs=1e-15)
    phi, fade = bonded.dihedral_angle(pos, DIHEDRAL)
    assert abs(phi.item()) == pytest.approx(np.pi / 2, abs=1e-14)
    assert fade.item() == 1.0
    k, phase = torch.tensor([[2.0, 3.0]]), torch.tensor([[0.1, 0.2]])
    expected = 2 * (1 + np.cos(0.7 - 0.1)) + 3 * (1 + np.cos(1.4 - 0.2))
    energy = bonded.dihedral_energy(torch.tensor([0.7]), k, phase, torch.ones(1))
    assert energy.item() == pytest.approx(expected, rel=1e-6)
    r = torch.tensor([2.0], dtype=torch.float64)
    e = nonbonded.repulsion_energy(r, torch.tensor([1.5]).double(), torch.tensor([4.0]).double(), 6)
    assert e.item() == pytest.approx(1.5 * 2.0**6, rel=1e-14)
    u = nonbonded.pair_energy(
        torch.tensor([0.0, 5.0, 500.0]).double(), torch.tensor([[2.0, -3.0]]).double(), 3.0, 4.0
    )
    expected = [2 * np.exp(-9 / 32) - 3 * np.exp(-49 / 32), -np.exp(-1 / 8), 0.0]
    np.testing.assert_allclose(u.numpy(), expected, rtol=1e-14)


def test_geometry_agrees_with_mdtraj() -> None:
    frames = chains(40, 4, seed=3)
    top = mdtraj.Topology()
    residue = top.add_residue("ALA", top.add_chain())
    for _ in range(4):
        top.add_atom("CA", mdtraj.element.carbon, residue)
    trajectory = mdtraj.Trajectory(frames / 10, top)
    for i, frame in enumerate(frames):
        pos = torch.from_numpy(frame)
        theta = mdtraj.compute_angles(trajectory[i], [[0, 1, 2]], opt=False)[0, 0]
        phi = mdtraj.compute_dihedrals(trajectory[i], [[0, 1, 2, 3]], opt=False)[0, 0]
        assert bonded.bond_angle(pos, ANGLE).item() == pytest.approx(float(theta), abs=2e-5)
        gap = bonded.dihedral_angle(pos, DIHEDRAL)[0].item() - float(phi)
        assert abs(np.angle(np.exp(1j * gap))) < 2e-5


def test_forces_are_the_gradient() -> None:
    for frame in chains(5, 5, seed=1):
        pos = torch.from_numpy(frame).requires_grad_(True)
        assert torch.autograd.gradcheck(total_energy, (pos,), atol=1e-6)


def test_fade_region_is_the_gradient_too() -> None:
    straight = torch.tensor([[0.0, 0, 0], [3.8, 0.02, 0.1], [7.5, 0.3, 0], [9.0, 3.0, 1.0], [12.0, 3, 3]])
    pos = straight.double().requires_grad_(True)
    assert 0 < bonded.dihedral_angle(pos, DIHEDRAL)[1].item() < 1
    assert torch.autograd.gradcheck(total_energy, (pos,), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.integers(0, 3), angle=st.floats(0, 6.28))
def test_rotation_translation_and_bead_order(seed: int, axis: int, angle: float) -> None:
    pos = torch.from_numpy(chains(1, 5, seed=seed)[0])
    rng = np.random.default_rng(axis)
    v = torch.from_numpy(rng.normal(size=3))
    v = v / v.norm()
    cross = torch.tensor([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], dtype=torch.float64)
    rotation = torch.matrix_exp(angle * cross)
    energy = total_energy(pos)
    moved = pos @ rotation.T + torch.from_numpy(rng.normal(size=3) * 30)
    assert total_energy(moved).item() == pytest.approx(energy.item(), rel=1e-9)
    order = torch.from_numpy(rng.permutation(5))
    shuffled = torch.empty_like(pos)
    shuffled[order] = pos
    assert total_energy(shuffled, order).item() == pytest.approx(energy.item(), rel=1e-12)


def test_mirror_image_changes_the_dihedral_energy() -> None:
    pos = torch.from_numpy(chains(1, 5, seed=2)[0])
    mirrored = pos * torch.tensor([1.0, 1.0, -1.0])
    assert abs(total_energy(pos) - total_energy(mirrored)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "points",
    [
        [[0, 0, 0], [3.8, 0, 0], [7.6, 0, 0], [11.4, 0, 0], [15.2, 0, 0]],  # straight
        [[0, 0, 0], [3.8, 0, 0], [0, 0, 0], [3.8, 0, 0], [0, 0, 0]],  # folded back, θ = 0
        [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],  # all in one place
        [[0, 0, 0], [3.8, 0, 0], [7.6, 1e-9, 0], [11.4, 0, 1e-12], [11.4, 3.8, 0]],  # nearly straight
    ],
)
def test_degenerate_geometries_are_finite(dtype: torch.dtype, points: list[list[float]]) -> None:
    pos = torch.tensor(points, dtype=dtype, requires_grad=True)
    energy = total_energy(pos)
    (gradient,) = torch.autograd.grad(energy, pos)
    assert torch.isfinite(energy)
    assert torch.isfinite(gradient).all()


def test_straightening_keeps_the_force_bounded() -> None:
    k, phase = torch.tensor([[2.0, 1.0, 0.5]]).double(), torch.zeros(1, 3).double()
    largest = 0.0
    for bend in np.geomspace(1e-7, 1.0, 60):
        pos = torch.tensor([[0, 0, 0], [3.8, 0, 0], [7.6, bend, 0], [11.0, bend, 1.7]], dtype=torch.float64)
        pos.requires_grad_(True)
        phi, fade = bonded.dihedral_angle(pos, DIHEDRAL)
        (g,) = torch.autograd.grad(bonded.dihedral_energy(phi, k, phase, fade).sum(), pos)
        largest = max(largest, float(g.abs().max()))
    assert largest < 50.0


def test_repulsion_core_is_continuous() -> None:
    one, sigma = torch.ones(1).double(), torch.full((1,), 4.0).double()
    r = torch.tensor([0.4 - 1e-9, 0.4 + 1e-9]).double().requires_grad_(True)
    e = nonbonded.repulsion_energy(r, one, sigma, 6)
    (g,) = torch.autograd.grad(e.sum(), r)
    assert e[0].item() == pytest.approx(e[1].item(), rel=1e-6)
    assert g[0].item() == pytest.approx(g[1].item(), rel=1e-6)
    zero = nonbonded.repulsion_energy(torch.zeros(1).double(), one, sigma, 6)
    assert torch.isfinite(zero).all()
    assert zero > e[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), exclude=st.integers(0, 4))
def test_pairs_of_a_batch_are_those_of_its_molecules(seed: int, exclude: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, size=4)
    offset, bonds, expected = 0, [], []
    for n in sizes:
        parents = [(int(rng.integers(0, i)), i) for i in range(1, n)]  # a random tree
        own = np.array(parents, dtype=np.int64).reshape(-1, 2)
        expected.append(nonbonded.molecule_pairs(int(n), own, exclude) + offset)
        bonds.append(own + offset)
        offset += n
    batch = torch.repeat_interleave(torch.arange(4), torch.from_numpy(sizes))
    table = torch.from_numpy(np.concatenate(bonds).T.copy())
    found = nonbonded.batch_pairs(batch, table, exclude, 4)
    assert set(map(tuple, found.T.tolist())) == set(map(tuple, np.concatenate(expected, 1).T.tolist()))
    assert found.shape[1] == sum(e.shape[1] for e in expected)
