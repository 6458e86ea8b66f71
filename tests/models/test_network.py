"""The training step of CGNet against TorchMD_Net's own, which positions with a gradient select."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmdnet.models.model import TorchMD_Net

from cgal_plugin import register
from cgal_plugin.errors import ConfigError, TrainingError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models import build_model
from cgal_plugin.models.filter_grid import Stencils, grid
from cgal_plugin.models.pair_functions import derivatives
from cgal_plugin.priors import fit_priors
from tests.models.test_cgschnet import SMALL, chain


def frames(n: int, beads: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(np.stack([chain(beads, seed + k) for k in range(n)]) + rng.normal(size=(n, beads, 3)))


def network(seed: int = 0, **options: object):
    torch.manual_seed(seed)
    model = build_model({**SMALL, **options}).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def results(model, z, pos, batch, slow=False, **more):
    """Return energies, forces and the gradients of a loss on both."""
    model.zero_grad()
    y, f = model(z, pos.clone().requires_grad_(slow), batch, **more)
    target = torch.linspace(-2, 2, f.numel(), dtype=f.dtype).view_as(f)
    ((f - target).square().mean() + 0.1 * y.square().mean()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"energy": y.detach(), "forces": f.detach(), **gradients}


def assert_same(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for name, value in a.items():
        room = tolerance * max(1.0, float(b[name].abs().max()))
        torch.testing.assert_close(value, b[name], rtol=0, atol=room, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("form", ["majewski", "mlcg"])
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "silu", "cutoff_lower": 3.0},
        {"activation": "tanh", "rbf_type": "gauss", "trainable_rbf": True},
        {"activation": "ssp", "trainable_rbf": True, "cutoff_upper": 7.0},
        {"activation": "sigmoid", "num_layers": 1, "reduce_op": "mean"},
        {"activation": "swish", "num_layers": 3, "output_mlp_num_layers": 2},
    ],
)
def test_fast_method_agrees_with_torchmdnets(form, options):
    model = network(cgschnet={"form": form, "num_filters": 11}, **options)
    sizes = [7, 1, 12, 2]
    batch = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    pos = torch.cat([frames(1, n, n)[0] for n in sizes])
    z = torch.arange(len(pos)) % 9
    fast = results(model, z, pos, batch)
    assert_same(fast, results(model, z, pos, batch, slow=True))
    y, f = model.eval()(z, pos.clone(), batch)
    assert_same({"energy": fast["energy"], "forces": fast["forces"]}, {"energy": y.detach(), "forces": f})
    # the beads of the molecules may come in any order
    order = torch.randperm(len(pos), generator=torch.Generator().manual_seed(0))
    moved = results(model.train(), z[order], pos[order], batch[order])
    moved["forces"] = moved["forces"][torch.argsort(order)]
    for name in ("energy", "forces"):
        torch.testing.assert_close(moved[name], fast[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [{"activation": "mish"}, {"neighbor_embedding": True}, {"aggr": "mean"}, {"aggr": "max"}],
)
def test_options_without_fast_method(options):
    model = network(**options)
    pos, z, batch = frames(2, 8).view(-1, 3), torch.arange(16) % 7, torch.arange(2).repeat_interleave(8)
    assert_same(results(model, z, pos, batch), results(model, z, pos, batch, slow=True))


def test_priors_and_mean_and_std():
    register()
    topology = CGTopology.from_sequence("YYDPETGTWY")
    pos = frames(40, 10)
    priors = fit_priors(topology, pos.numpy(), 400.0)
    model = network(prior_model=priors.to_prior_model()).double()
    model.mean.fill_(3.0)
    model.std.fill_(2.0)
    z, batch = torch.tensor(topology.types).repeat(5), torch.arange(5).repeat_interleave(10)
    few = pos[:5].reshape(-1, 3)
    fast = results(model, z, few, batch)
    assert_same(fast, results(model, z, few, batch, slow=True))
    one = results(model, z[:10], few[:10], None)
    torch.testing.assert_close(one["energy"][0], fast["energy"][0], rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(one["forces"], fast["forces"][:10], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "silu", "swish", "sigmoid", "ssp"])
def test_derivatives_of_activations(activation):
    from torchmdnet.models.utils import act_class_mapping

    x = torch.linspace(-19, 19, 801, dtype=torch.float64, requires_grad=True)
    f, first, second = derivatives(activation)(x.detach())
    expected = act_class_mapping[activation]()(x)
    (slope,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(f, expected.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first, slope.detach(), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(second, curvature, rtol=1e-7, atol=1e-8)
    assert derivatives("mish") is None


@pytest.mark.parametrize("n", [None, 80])
def test_gradients_of_energies_and_forces(n):
    """All gradients of a small network agree with finite differences, with and without filter grid."""
    options = {"embedding_dimension": 3, "num_layers": 2, "num_rbf": 3, "max_z": 4, "trainable_rbf": True}
    model = network(activation="silu", cgschnet={"filter_grid": n}, **options)
    z, pos = torch.arange(4), frames(1, 4)[0]
    names = [name for name, _ in model.named_parameters()]

    def forces(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (z, pos))

    values = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
    assert torch.autograd.gradcheck(forces, values, atol=1e-6, rtol=1e-4)


def test_higher_derivatives_need_positions_with_a_gradient():
    model = network(embedding_dimension=4, num_layers=1, num_rbf=5)
    z, pos = torch.arange(4), frames(1, 4)[0]
    assert torch.autograd.gradcheck(lambda x: model(z, x)[1], pos.clone().requires_grad_(True))
    y, f = model(z, pos)
    assert not pos.requires_grad
    with pytest.raises(TrainingError, match="positions that require a gradient"):
        torch.autograd.grad(y.sum(), list(model.parameters()), create_graph=True, allow_unused=True)
    with pytest.raises(TrainingError, match="positions that require a gradient"):
        torch.autograd.grad(f.square().sum(), list(model.parameters()), create_graph=True, allow_unused=True)


def test_is_a_torchmd_net_and_far_or_coincident_beads_stay_finite():
    model = network()
    assert isinstance(model, TorchMD_Net)
    for pos in (torch.tensor([[0.0, 0, 0], [90.0, 0, 0]]).double(), torch.zeros(2, 3).double()):
        for n in (None, 100):
            model.representation_model.filter_grid = n
            found = results(model, torch.tensor([1, 2]), pos, None)
            assert all(bool(torch.isfinite(v).all()) for v in found.values())
            assert float(found["forces"].abs().max()) == 0


def test_interpolation_from_a_grid():
    r = torch.cat([torch.linspace(3.0, 12.0, 977, dtype=torch.float64), torch.tensor([3.0, 12.0])])
    places = grid(3.0, 12.0, 200, r)
    stencils = Stencils(r, 3.0, 12.0, 200)
    table = torch.stack([places**k for k in range(6)], dim=1) / 12.0 ** torch.arange(6)
    found = stencils(table)
    expected = torch.stack([r**k for k in range(6)], dim=1) / 12.0 ** torch.arange(6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    few = Stencils(r[::50], 3.0, 12.0, 200)
    assert torch.autograd.gradcheck(few, table[:, 1:3].clone().requires_grad_(True))


@pytest.mark.parametrize("form", ["majewski", "mlcg"])
def test_filter_grid_is_close_and_used_in_training_only(form):
    options = {"num_rbf": 18, "cutoff_lower": 3.0 if form == "majewski" else 0.0, "activation": "tanh"}
    exact = network(cgschnet={"form": form}, **options)
    close = network(cgschnet={"form": form, "filter_grid": 400}, **options)
    close.load_state_dict(exact.state_dict())
    pos, z, batch = frames(6, 10).view(-1, 3), torch.arange(60) % 9, torch.arange(6).repeat_interleave(10)
    a, b = results(close, z, pos, batch), results(exact, z, pos, batch)
    assert_same(a, b, tolerance=1e-6)
    assert not torch.equal(a["forces"], b["forces"])
    for x, y in zip(close.eval()(z, pos.clone(), batch), exact.eval()(z, pos.clone(), batch), strict=True):
        assert torch.equal(x, y)
    with pytest.raises(ConfigError, match="of at least 50"):
        network(cgschnet={"filter_grid": 10})
