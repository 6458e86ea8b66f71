"""Force maps: exact consistency, unbiased mean force on systems with a known PMF, less noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.errors import DataError, MappingError
from cgal_plugin.mapping import (
    CGMapping,
    CGTopology,
    ForceMap,
    basic_force_map,
    optimal_force_map,
    slice_force_map,
)


def slice_mapping(n_beads: int, n_atoms: int) -> CGMapping:
    """Bead I is atom 3 I."""
    matrix = np.zeros((n_beads, n_atoms))
    matrix[np.arange(n_beads), 3 * np.arange(n_beads)] = 1.0
    return CGMapping(matrix, CGTopology.from_sequence("G" * n_beads))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_constraints=st.integers(0, 5))
def test_conditions_hold_exactly(seed: int, n_constraints: int) -> None:
    """M Cᵀ = 1, and equal coefficients in each constrained pair, for every kind of map."""
    rng = np.random.default_rng(seed)
    n_atoms, beads = 12, 3
    mapping = slice_mapping(beads, n_atoms)
    if seed % 2:  # beads of two atoms, with uneven weights
        matrix = np.array(mapping.matrix) * 0.7
        matrix[np.arange(beads), 3 * np.arange(beads) + 1] = 0.3
        mapping = CGMapping(matrix, mapping.topology)
    # within a bead's own three atoms, or among the last three: no constraint links two beads
    pairs = [(3 * g + a, 3 * g + b) for g in range(4) for a, b in ((0, 1), (1, 2), (0, 2))]
    constraints = [pairs[i] for i in rng.choice(len(pairs), n_constraints, replace=False)]
    forces = rng.normal(size=(250, n_atoms, 3)) @ rng.normal(size=(3, 3))
    for force_map in (
        basic_force_map(mapping, constraints),
        optimal_force_map(mapping, forces, constraints),
    ):
        np.testing.assert_allclose(force_map.matrix @ mapping.matrix.T, np.eye(beads), atol=1e-12)
        for i, j in constraints:
            np.testing.assert_array_equal(force_map.matrix[:, i], force_map.matrix[:, j])
        force_map.check(mapping, constraints)
    plain = slice_force_map(mapping)
    np.testing.assert_allclose(plain.matrix @ mapping.matrix.T, np.eye(beads), atol=1e-12)


def test_mean_force_of_a_gaussian_system() -> None:
    """U = ½ rᵀK r: the PMF of R = C r is ½ Rᵀ(C K⁻¹ Cᵀ)⁻¹R, whatever the map of the forces.

    The slope of the regression of each map's forces on R has to be −(C K⁻¹ Cᵀ)⁻¹ within five
    standard errors of each of its nine entries (false alarm 1e-5 for three maps).
    """
    rng = np.random.default_rng(3)
    n_atoms, n_beads, n = 9, 3, 20_000
    a = rng.normal(size=(n_atoms, n_atoms))
    stiffness = a @ a.T + 2.0 * np.eye(n_atoms)
    covariance = np.linalg.inv(stiffness)
    mapping = slice_mapping(n_beads, n_atoms)
    r = np.einsum("ij,njk->nik", np.linalg.cholesky(covariance), rng.normal(size=(n, n_atoms, 3)))
    forces = -np.einsum("ij,njk->nik", stiffness, r)
    beads = mapping.map_positions(r)
    exact = -np.linalg.inv(mapping.matrix @ covariance @ mapping.matrix.T)
    x = beads.transpose(1, 0, 2).reshape(n_beads, -1)
    noise = {}
    for force_map in (
        slice_force_map(mapping),
        basic_force_map(mapping, [(1, 2), (4, 5)]),
        optimal_force_map(mapping, forces[:1000]),
    ):
        y = force_map.map_forces(forces).transpose(1, 0, 2).reshape(n_beads, -1)
        gram = np.linalg.inv(x @ x.T)
        slope = y @ x.T @ gram
        residual = y - slope @ x
        error = np.sqrt(np.outer(residual.var(axis=1), np.diag(gram)))
        assert (np.abs(slope - exact) < 5.0 * error).all(), force_map.kind
        noise[force_map.kind] = residual.std()
    # the mean force is a linear function here, and a linear map can give it without any noise
    assert noise["optimal"] < 0.25 * noise["slice"]


def test_mean_force_with_a_rigid_bond() -> None:
    """A bead atom A with a hydrogen at fixed distance d, in a harmonic well around p.

    Integrating the hydrogen over its sphere gives PMF(A) = ½ k_A A² + ½ k_H |A−p|² − ln(sinh x / x),
    x = k_H d |A−p| (kT = 1). Constraint-aware maps recover its gradient; the slice does not.
    """
    rng = np.random.default_rng(7)
    n, d, k_a, k_h, k_b = 40_000, 1.0, 2.0, 3.0, 5.0
    p, bead = np.array([0.5, -0.3, 0.2]), np.array([0.1, 0.4, -0.6])
    to_p = p - bead
    distance = float(np.linalg.norm(to_p))
    x = k_h * d * distance
    # the hydrogen's direction is von Mises-Fisher about to_p with concentration x
    u = rng.uniform(size=n)
    cos = 1.0 + np.log(u + (1.0 - u) * np.exp(-2.0 * x)) / x
    angle = rng.uniform(0, 2 * np.pi, size=n)
    axis = to_p / distance
    e1 = np.cross(axis, [1.0, 0.0, 0.0])
    e1 /= np.linalg.norm(e1)
    e2 = np.cross(axis, e1)
    sin = np.sqrt(1.0 - cos**2)
    direction = cos[:, None] * axis + sin[:, None] * (
        np.cos(angle)[:, None] * e1 + np.sin(angle)[:, None] * e2
    )
    hydrogen = bead + d * direction
    other = bead + rng.normal(size=(n, 3)) / np.sqrt(k_b)  # a third atom, bonded to A by a spring
    f_h, f_b = -k_h * (hydrogen - p), -k_b * (other - bead)
    f_a = np.broadcast_to(-k_a * bead, (n, 3)) - f_b
    forces = np.stack([f_a, f_h, f_b], axis=1)
    exact = -k_a * bead + k_h * to_p + (1.0 / np.tanh(x) - 1.0 / x) * k_h * d * (-to_p / distance)
    mapping = CGMapping(np.array([[1.0, 0.0, 0.0]]), CGTopology.from_sequence("G"))
    for force_map in (basic_force_map(mapping, [(0, 1)]), optimal_force_map(mapping, forces, [(0, 1)])):
        mapped = force_map.map_forces(forces)[:, 0]
        error = mapped.std(axis=0) / np.sqrt(n)
        assert (np.abs(mapped.mean(axis=0) - exact) < 5.0 * error).all(), force_map.kind
    # adding the bonded atom's force removes its noise, k_b kT per component, altogether
    basic = basic_force_map(mapping, [(0, 1)]).map_forces(forces)[:, 0]
    removed = basic.var(axis=0) - mapped.var(axis=0)
    np.testing.assert_allclose(removed, k_b, rtol=0.1)
    plain = slice_force_map(mapping)
    wrong = plain.map_forces(forces)[:, 0]
    assert (np.abs(wrong.mean(axis=0) - exact) > 20.0 * wrong.std(axis=0) / np.sqrt(n)).any()
    with pytest.raises(MappingError, match=r"slice.*constraints"):
        plain.check(mapping, [(0, 1)])


def test_noise_is_reduced_on_frames_not_fitted() -> None:
    rng = np.random.default_rng(5)
    mapping = slice_mapping(2, 9)
    shared = rng.normal(size=(800, 1, 3))  # a force that bead atoms and others feel with opposite sign
    forces = rng.normal(size=(800, 9, 3)) + 5.0 * shared * np.array([1, -1, 0, 1, -1, 0, 0, 0, 0.0])[:, None]
    fitted = optimal_force_map(mapping, forces[:400])
    rms = [np.sqrt(np.mean(m.map_forces(forces[400:]) ** 2)) for m in (fitted, slice_force_map(mapping))]
    assert rms[0] < 0.3 * rms[1]
    assert fitted.diagnostics["rms_held_out"] < 0.3 * fitted.diagnostics["rms_slice"]


def test_errors() -> None:
    mapping = slice_mapping(2, 6)
    forces = np.random.default_rng(0).normal(size=(300, 6, 3))
    with pytest.raises(MappingError, match=r"at least 200 frames, got 199"):
        optimal_force_map(mapping, forces[:199])
    with pytest.raises(MappingError, match=r"\(300, 5, 3\)"):
        optimal_force_map(mapping, forces[:, :5])
    with pytest.raises(MappingError, match="not finite"):
        optimal_force_map(mapping, np.full_like(forces, np.nan))
    with pytest.raises(MappingError, match=r"0\.\.5"):
        basic_force_map(mapping, [(0, 6)])
    linked = [(0, 3)]
    with pytest.raises(MappingError, match=r"residue 1.*residue 2"):
        basic_force_map(mapping, linked)
    with pytest.raises(MappingError, match="separate"):
        optimal_force_map(mapping, forces, linked)
    with pytest.raises(MappingError, match=r"forces have shape \(6, 4, 3\)"):
        slice_force_map(mapping).map_forces(forces[:6, :4])
    other = CGMapping(mapping.matrix[:, ::-1], mapping.topology)
    with pytest.raises(MappingError, match="not for"):
        slice_force_map(mapping).check(other)


def test_round_trip_and_damage(tmp_path: Path) -> None:
    mapping = slice_mapping(2, 6)
    fitted = optimal_force_map(mapping, np.random.default_rng(0).normal(size=(300, 6, 3)), [(0, 1)])
    path = tmp_path / "map.npz"
    fitted.save(path)
    loaded = ForceMap.load(path)
    assert loaded.hash == fitted.hash
    assert loaded.kind == "optimal"
    assert dict(loaded.diagnostics) == dict(fitted.diagnostics)
    np.testing.assert_array_equal(loaded.matrix, fitted.matrix)
    with np.load(path) as data:
        arrays = dict(data)
    arrays["matrix"] = arrays["matrix"] + 0.1
    np.savez(path, **arrays)
    with pytest.raises(MappingError, match="damaged"):
        ForceMap.load(path)
    path.write_bytes(b"not a map")
    with pytest.raises(MappingError, match="not a saved force map"):
        ForceMap.load(path)
    with pytest.raises(MappingError, match="does not exist"):
        ForceMap.load(tmp_path / "none.npz")


def test_a_store_refuses_a_second_map(tmp_path: Path) -> None:
    mapping = slice_mapping(2, 6)
    forces = np.random.default_rng(0).normal(size=(300, 6, 3))
    one, two = slice_force_map(mapping), optimal_force_map(mapping, forces)
    assert one.hash != two.hash
    store = DataStore.create(tmp_path, mapping.topology, temperature=300.0, force_map_hash=one.hash)

    def frames(force_map: ForceMap) -> LabelledFrames:
        return LabelledFrames(
            np.zeros((2, 2, 3)),
            force_map.map_forces(forces[:2]),
            np.zeros(2, dtype=np.int64),
            np.zeros(2, dtype=np.int64),
            np.full(2, np.nan),
            metadata={"temperature": 300.0, "mode": "free", "force_map_hash": force_map.hash},
        )

    store.append("one", frames(one), source="test")
    with pytest.raises(DataError, match="force maps are not mixed"):
        store.append("two", frames(two), source="test")
    assert store.names() == ["one"]
