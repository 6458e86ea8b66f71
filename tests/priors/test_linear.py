"""Linear terms: their energies are those of the models, and their coefficients can be moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.linear import energies, linear_terms, shifted
from cgal_plugin.priors.modules import PRIORS
from tests.priors.chains import chains

TOPOLOGY = CGTopology.from_sequence("GAGAGAGA")
TERMS = ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"]


def fitted(terms: list[str], **options: Any) -> PriorSet:
    frames = chains(400, 8)
    forces = np.random.default_rng(2).normal(size=frames.shape)
    return fit_priors(TOPOLOGY, frames, 400.0, terms=terms, method="force_matching", forces=forces, **options)


def energy(priors: PriorSet, frames: np.ndarray) -> np.ndarray:
    """By the classes that models use."""
    n, beads = frames.shape[:2]
    total = torch.zeros(n, 1, dtype=torch.float64)
    types = torch.from_numpy(np.tile(TOPOLOGY.types, n))
    batch = torch.arange(n).repeat_interleave(beads)
    for term in priors.terms:
        module = PRIORS[term](**priors.arguments(term))
        pos = torch.from_numpy(frames.reshape(-1, 3))
        total = module.post_reduce(total, types, pos, batch, None, None)
    return total[:, 0].numpy()


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        (TERMS, {"pairs_per_type": True}),
        (TERMS, {"per_type": False}),
        (["bonds", "repulsion", "pairs"], {"n_pairs": 5, "first": 4.0, "last": 9.0}),
    ],
)
def test_a_shift_adds_the_energies_of_the_coefficients(terms: list[str], options: dict[str, Any]) -> None:
    priors = fitted(terms, **options)
    linear = linear_terms(priors)
    new = chains(50, 8)[:, :, ::-1].copy()  # other frames than those of the fit
    change = np.random.default_rng(1).normal(size=sum(t.n_parameters for t in linear))
    moved = shifted(priors, linear, change)
    assert moved.hash != priors.hash
    added = energy(moved, new) - energy(priors, new)
    expected = energies(linear, new) @ change
    # a cosine series of the table has a constant of its own, which forces do not feel
    np.testing.assert_allclose(added - added[0], expected - expected[0], atol=1e-9)
    back = shifted(moved, linear, -change)
    np.testing.assert_allclose(energy(back, new), energy(priors, new), atol=1e-9)


def test_forces_are_the_negative_gradients_of_the_energies() -> None:
    terms = linear_terms(fitted(TERMS, pairs_per_type=True))
    frames = chains(3, 8)
    rng = np.random.default_rng(4)
    along = rng.normal(size=frames.shape)
    h = 1e-6
    slope = (energies(terms, frames + h * along) - energies(terms, frames - h * along)) / (2 * h)
    forces = np.concatenate([t.forces(frames) for t in terms])
    np.testing.assert_allclose(slope, -np.einsum("pnbx,nbx->np", forces, along), atol=1e-6)


def test_priors_without_pairs_that_were_fitted_to_forces_are_refused() -> None:
    priors = fit_priors(TOPOLOGY, chains(2000, 8), 400.0, terms=["bonds", "angles", "dihedrals", "repulsion"])
    with pytest.raises(PriorFitError, match=r"no pair energies .* force_matching"):
        linear_terms(priors)
