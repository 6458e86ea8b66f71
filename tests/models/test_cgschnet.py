"""CGSchNet: symmetries, pair lists, options, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.models import CGSchNet, EnergyHead, build_model
from cgal_plugin.models.build import parse_options
from cgal_plugin.models.pairs import molecule_pairs
from cgal_plugin.testing import check_model

SMALL = {"embedding_dimension": 16, "num_layers": 2, "num_rbf": 9, "max_z": 50, "precision": 64}


def chain(n: int, seed: int = 0) -> np.ndarray:
    """Return a chain of ``n`` beads without close contacts, Å."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(loc=(1.2, 0.0, 0.0), size=(n, 3))
    return np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


@pytest.mark.parametrize("form", ["majewski", "mlcg"])
@pytest.mark.parametrize(
    "options", [{}, {"cutoff_lower": 3.0, "neighbor_embedding": True}, {"rbf_type": "gauss"}]
)
def test_contract(form, options):
    torch.manual_seed(0)
    model = build_model({**SMALL, **options, "cgschnet": {"form": form}})
    check_model(model, np.arange(12) % 7, chain(12))


def test_check_model_finds_a_model_that_depends_on_the_origin():
    torch.manual_seed(0)
    model = build_model(SMALL)

    class Bad(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z, pos, batch=None):
            y, f = self.inner(z, pos, batch)
            return y + pos.sum() * 1e-3, f - 1e-3

    with pytest.raises(AssertionError, match="under translation and rotation"):
        check_model(Bad(model), np.arange(8), chain(8))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=25))
def test_pairs_are_every_pair_of_a_molecule_once(molecules):
    i, j = molecule_pairs(torch.tensor(molecules))
    found = sorted((min(p), max(p)) for p in zip(i.tolist(), j.tolist(), strict=True))
    n = len(molecules)
    assert found == [(a, b) for a in range(n) for b in range(a + 1, n) if molecules[a] == molecules[b]]


def test_same_energy_with_torchmdnets_neighbour_list():
    """The neighbour list for boxes and very large systems agrees with the direct one."""
    torch.manual_seed(1)
    model = build_model({**SMALL, "cutoff_lower": 2.0}).eval()
    z, pos = torch.arange(14) % 5, torch.tensor(chain(14))
    e, f = model(z, pos.clone())
    box = torch.eye(3, dtype=torch.float64) * 500.0
    e2, f2 = model(z, pos.clone(), box=box)
    torch.testing.assert_close(e2, e, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(f2, f, rtol=1e-10, atol=1e-12)


def test_a_full_neighbour_list_is_an_error():
    model = build_model({**SMALL, "max_num_neighbors": 1})
    box = torch.eye(3, dtype=torch.float64) * 500.0
    with pytest.raises(DataError, match="max_num_neighbors"):
        model(torch.arange(14) % 5, torch.tensor(chain(14)), box=box)


def test_periodic_images_interact():
    torch.manual_seed(1)
    model = build_model(SMALL).eval()
    z, pos = torch.tensor([1, 2]), torch.tensor([[0.5, 0, 0], [29.0, 0, 0]], dtype=torch.float64)
    box = torch.eye(3, dtype=torch.float64) * 30.0
    near = torch.tensor([[0.5, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(model(z, pos.clone(), box=box)[0], model(z, near)[0])


def test_isolated_and_coincident_beads_stay_finite():
    model = build_model(SMALL)
    far = torch.tensor([[0.0, 0, 0], [100.0, 0, 0]], dtype=torch.float64)
    e, f = model(torch.tensor([1, 2]), far)
    assert torch.isfinite(e).all()
    assert f.abs().max() == 0
    e, f = model(torch.tensor([1, 2, 3]), torch.zeros(3, 3, dtype=torch.float64))
    assert torch.isfinite(e).all()
    assert torch.isfinite(f).all()
    f.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_second_derivatives_are_right():
    """The gradient of a force loss with respect to the weights agrees with finite differences."""
    torch.manual_seed(3)
    net = CGSchNet(
        hidden_channels=5,
        num_layers=1,
        num_rbf=4,
        max_z=6,
        activation="silu",
        dtype=torch.float64,
        trainable_rbf=True,
    )
    z, pos = torch.arange(5), torch.tensor(chain(5), requires_grad=True)
    names = ["interactions.0.mlp.0.weight", "interactions.0.lin1.weight", "distance_expansion.betas"]

    def forces(*values):
        x = torch.func.functional_call(
            net, dict(zip(names, values, strict=True)), (z, pos, torch.zeros(5).long())
        )[0]
        return torch.autograd.grad(x.square().sum(), pos, create_graph=True)[0]

    values = [net.get_parameter(n).detach().clone().requires_grad_(True) for n in names]
    assert torch.autograd.gradcheck(forces, values, atol=1e-6, rtol=1e-4)


def test_forms_and_output_heads():
    majewski = build_model(SMALL)
    assert type(majewski.output_model).__name__ == "Scalar"
    mlcg = build_model({**SMALL, "cgschnet": {"form": "mlcg", "num_filters": 11}})
    layers = [m for m in mlcg.output_model.output_network.layers if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in layers] == [128, 64, 1]
    assert layers[-1].bias is None
    assert mlcg.representation_model.interactions[0].mlp[2].bias is None
    assert mlcg.representation_model.interactions[0].lin1.weight.shape == (11, 16)
    deep = build_model({**SMALL, "output_mlp_num_layers": 2})
    assert len([m for m in deep.output_model.output_network.layers if isinstance(m, torch.nn.Linear)]) == 4
    head = EnergyHead(16, (8,), activation="silu", last_bias=True, dtype=torch.float64)
    assert head.pre_reduce(torch.zeros(3, 16).double(), None, None, None, None).shape == (3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cgschnet": {"from": "mlcg"}}, "did you mean 'form'"),
        ({"cgschnet": {"form": "schnet"}}, "majewski, mlcg"),
        ({"cgschnet": "mlcg"}, "must be a mapping"),
        ({"cgschnet": {"output_layers": [0]}}, "positive integers"),
        ({"cgschnet": {"output_layers": 64}}, "list of widths"),
        ({"cgschnet": {"output_bias": "no"}}, "true or false"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"rbf_type": "bessel"}, "rbf_type"),
        ({"cutoff_lower": 12.0}, "cutoff_lower < cutoff_upper"),
        ({"output_model": "DipoleMoment"}, "use Scalar"),
        ({"atom_filter": 1}, "atom_filter"),
        ({"num_layers": 0}, "num_layers"),
        ({"precision": 16}, "precision is 16; allowed are 32, 64"),
        ({"aggr": "sum"}, "aggr"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model({**SMALL, **options})


def test_autocast_runs():
    model = build_model({**SMALL, "precision": 32})
    z = torch.arange(1, 8)
    pos = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 3
    forces = model(z, pos.clone())[1].detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(z, pos.clone())[1].detach()
    assert not torch.equal(rough, forces)
    assert torch.allclose(rough, forces, atol=0.05 * float(forces.abs().max()))


def test_arguments_are_not_changed():
    args = {**SMALL, "cgschnet": {"form": "mlcg"}}
    before = {**args, "cgschnet": dict(args["cgschnet"])}
    build_model(args)
    assert args == before
    assert parse_options(None, 64).output_layers == (32,)
