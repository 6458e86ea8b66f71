"""Analytical gradients against autograd of the prior functions, also for degenerate geometries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import ExportError
from cgal_plugin.export.assemble import prior_terms
from cgal_plugin.export.filters import ACTIVATIONS, activation, cosine_cutoff
from cgal_plugin.export.terms import AngleTerm, DihedralTerm, PairTerm, SeriesTerm
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import bonded, nonbonded
from cgal_plugin.priors.modules import CGAngles, CGBonds

K = torch.tensor([[1.3, 0.4, 0.9]], dtype=torch.float64)
PHASE = torch.tensor([[0.3, -2.0, 1.0]], dtype=torch.float64)


def angle_prior(form: str) -> CGAngles:
    return CGAngles(table=[{"types": ["*"] * 3, "k": 7.0, "x0": 0.4}], angle_form=form)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), straight=st.sampled_from([1.0, 0.1, 1e-2, 1e-4, 0.0]))
def test_bonded_gradients(seed: int, straight: float) -> None:
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(4, 3)) * 2.0
    p[2] = 2 * p[1] - p[0] + straight * rng.normal(size=3)
    pos = torch.from_numpy(p).requires_grad_(True)
    v = (pos[1:] - pos[:-1]).detach().unsqueeze(0)

    phi, fade = bonded.dihedral_angle(pos, torch.tensor([[0], [1], [2], [3]]))
    expected = bonded.dihedral_energy(phi, K, PHASE, fade).sum()
    (gradient,) = torch.autograd.grad(expected, pos)
    energy, da, db, dc = DihedralTerm(K, PHASE)(v[:, :1], v[:, 1:2], v[:, 2:])
    found = torch.cat([-da[0], da[0] - db[0], db[0] - dc[0], dc[0]])
    assert energy.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-7)

    for form, function in (("theta", bonded.bond_angle), ("cos", bonded.bond_angle_cosine)):
        prior = angle_prior(form)
        expected = prior.energy(pos, torch.tensor([[0], [1], [2]]), torch.zeros(1, dtype=torch.long)).sum()
        (gradient,) = torch.autograd.grad(expected, pos)
        energy, da, db = AngleTerm(prior.use_cosine, prior.k, prior.x0)(-v[:, :1], v[:, 1:2])
        assert energy.item() == pytest.approx(expected.item(), rel=1e-12)
        assert function(pos, torch.tensor([[0], [1], [2]])).isfinite().all()
        torch.testing.assert_close(da[0, 0], gradient[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(db[0, 0], gradient[2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("power", [0, 6, 12])
def test_pair_gradients(power: int) -> None:
    r = torch.tensor([[0.01, 0.39, 0.41, 3.0, 9.0]], dtype=torch.float64, requires_grad=True)
    first, second = torch.full((5,), 1.7).double(), torch.full((5,), 4.0).double()
    energy, slope = PairTerm(first, second, power)(r)
    if power == 0:
        expected = bonded.harmonic_energy(r, first, second).sum()
    else:
        expected = nonbonded.repulsion_energy(r, first, second, power).sum()
    (gradient,) = torch.autograd.grad(expected, r)
    assert energy.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("at_a_time", [1, 20, 1_000_000])
def test_series_gradients(at_a_time: int) -> None:
    """Results do not depend on the centres per step; pairs of row 0 have no energy."""
    coefficients = torch.tensor([[0.0] * 5, [1.0, -2.0, 0.5, 0.3, 0.9], [0.2, 0.1, -1.5, 2.0, 0.4]]).double()
    row = torch.tensor([1, 2, 0, 2, 1, 1])
    r = torch.tensor([[1e-6, 2.9, 3.1, 7.3, 16.0, 900.0], [4.0, 4.4, 5.0, 6.0, 8.0, 10.0]]).double()
    r.requires_grad_(True)
    term = SeriesTerm(coefficients, row, 3.0, 2.25)
    term.most = at_a_time
    energy, slope = term(r)
    expected = torch.stack([nonbonded.pair_energy(x, coefficients[row], 3.0, 2.25).sum() for x in r])
    (gradient,) = torch.autograd.grad(expected.sum(), r)
    torch.testing.assert_close(energy, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_torchmdnets(name: str) -> None:
    from torchmdnet.models.utils import act_class_mapping

    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    expected = act_class_mapping[name]()(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    value, slope = activation(x, ACTIVATIONS[name])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 5.0), (3.0, 12.0)])
def test_cutoff_is_torchmdnets(lower: float, upper: float) -> None:
    from torchmdnet.models.utils import CosineCutoff

    r = torch.linspace(0.0, 15.0, 1001, dtype=torch.float64, requires_grad=True)
    expected = CosineCutoff(lower, upper)(r)
    (gradient,) = torch.autograd.grad(expected.sum(), r)
    value, slope = cosine_cutoff(r, lower, upper)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-13)


def test_prior_of_another_molecule_is_refused() -> None:
    top = CGTopology.from_sequence("AAG")
    stored = {
        "types": top.types.tolist(),
        "type_names": list(top.type_names),
        "index": top.bond_index.tolist(),
    }
    prior = CGBonds(table=[{"types": ["*", "*"], "k": 1.0, "r0": 3.8}], molecule=stored)
    assert prior_terms(prior, top)[0].tolist() == [[0, 1], [1, 2]]
    with pytest.raises(ExportError, match="first at beads"):
        prior_terms(prior, CGTopology.from_sequence("AGA"))
    free = CGBonds(table=[{"types": ["CA_ALA", "CA_ALA"], "k": 1.0, "r0": 3.8}])
    with pytest.raises(ExportError, match="does not fit"):
        prior_terms(free, top)
