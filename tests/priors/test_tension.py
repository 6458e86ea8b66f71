"""Free bond tensions: equal to least squares with a column for each; shifts of rest lengths vanish."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.tension import FreeTensions, shared_frames
from tests.priors.chains import chains
from tests.priors.test_force_matching import forces_of, molecule

RIDGE = 0.3


@pytest.fixture(scope="module")
def topology() -> CGTopology:
    return CGTopology.from_sequence("GAGAGAGA")


@pytest.mark.parametrize("shared", [1, 4])
def test_elimination_equals_a_column_for_each_tension(topology: CGTopology, shared: int) -> None:
    rng = np.random.default_rng(shared)
    n, bonds = 10, topology.bond_index  # the last group has two frames
    frames, rest = chains(n, 8), rng.normal(size=(n, 8, 3))
    weights = rng.uniform(0.5, 3.0, n)
    beads = [np.array([0, 2, 5]), np.arange(8)]
    terms = [(rng.normal(size=(k, n, len(own), 3)), own) for k, own in zip((2, 3), beads, strict=True)]
    tensions = FreeTensions(bonds, RIDGE, shared)
    matrix, vector, freedom = tensions.products(frames, weights, rest, terms)

    design = np.zeros((5, n, 8, 3))
    design[:2, :, beads[0]], design[2:] = terms[0][0], terms[1][0]
    groups = np.arange(n) // shared
    columns = np.zeros((groups[-1] + 1, len(bonds), n, 8, 3))
    for f, g in enumerate(groups):
        for k, (i, j) in enumerate(bonds):
            unit = frames[f, j] - frames[f, i]
            columns[g, k, f, j] = unit / np.linalg.norm(unit)
            columns[g, k, f, i] = -columns[g, k, f, j]
    root = np.sqrt(weights)[:, None, None]
    both = np.concatenate([design, columns.reshape(-1, n, 8, 3)]) * root
    both, right = both.reshape(len(both), -1), (rest * root).reshape(-1)
    ridge = np.concatenate([np.zeros(5), RIDGE * np.repeat(np.bincount(groups, weights), len(bonds))])
    full = both @ both.T + np.diag(ridge)
    expected = np.linalg.solve(full, both @ right)[:5]
    found = np.linalg.solve(both[:5] @ both[:5].T - matrix.T @ matrix, both[:5] @ right - vector @ matrix)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if shared == 1:
        own = both[5:] @ both[5:].T
        hat = np.linalg.solve(own + np.diag(ridge[5:]), own)
        assert freedom == pytest.approx((np.diag(hat) * np.repeat(weights, len(bonds))).sum())


def _worst(fit: PriorSet, known: NDArray[np.float64]) -> float:
    (pairs,) = (r for r in fit.rows if r["term"] == "pairs")
    return float(np.abs(np.array(pairs["parameters"]["c"]) - known).max())


def test_shifts_of_rest_lengths_are_not_imitated(topology: CGTopology) -> None:
    """Tensions that grow with the size of the chain: a pair energy imitates them unless they are free."""
    frames, rng = chains(600, 8), np.random.default_rng(1)
    known = rng.normal(size=8)
    table = [{"types": ["*", "*"], "c": known.tolist()}]
    grid = {"first": 4.0, "last": 15.0, "exclude_bonds": 2}
    pairs = {"pairs": {"table": table, "molecule": molecule(topology, topology.bond_index), **grid}}
    forces = forces_of(pairs, topology, frames)
    gradients = FreeTensions(topology.bond_index, RIDGE, 1).gradients(frames)
    size = np.sqrt(((frames - frames.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))
    forces += np.einsum("fbxk,f->fbx", gradients, 10.0 * (size - size.mean()))
    options: dict[str, Any] = {
        "terms": ("pairs",), "method": "force_matching", "forces": forces, "n_pairs": 8, "ridge_pairs": 0.0,
        **{k: grid[k] for k in ("first", "last")},
    }  # fmt: skip
    with_shifts = _worst(fit_priors(topology, frames, 300.0, ridge_tension=np.inf, **options), known)
    default = _worst(fit_priors(topology, frames, 300.0, **options), known)
    free = _worst(fit_priors(topology, frames, 300.0, ridge_tension=1e-9, **options), known)
    assert with_shifts > 0.3
    assert default < 0.3 * with_shifts
    assert free < 1e-5


def test_large_problems_share_tensions() -> None:
    assert shared_frames(500.0**2 * 9 * 30_000) == 1
    assert 1 < shared_frames(4000.0**2 * 90 * 30_000) <= 50
    assert shared_frames(0.0) == 1
