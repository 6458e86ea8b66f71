"""Weights of TorchMD-Net's graph-network and of mlcg give the same energies and forces."""

from __future__ import annotations

import pytest
import torch
from torchmdnet.models.model import create_model, load_model

from cgal_plugin import register
from cgal_plugin.errors import ConfigError
from cgal_plugin.models import from_mlcg, from_torchmdnet_gn, model_parameters, save_checkpoint

from .mlcg_reference import energy_and_forces, random_state

GN = {
    "model": "graph-network",
    "precision": 64,
    "embedding_dimension": 24,
    "num_layers": 3,
    "num_rbf": 11,
    "rbf_type": "expnorm",
    "trainable_rbf": True,
    "activation": "silu",
    "cutoff_lower": 3.0,
    "cutoff_upper": 12.0,
    "max_z": 44,
    "max_num_neighbors": 64,
    "neighbor_embedding": False,
    "aggr": "add",
    "derivative": True,
    "atom_filter": -1,
    "prior_model": None,
    "prior_args": None,
    "output_model": "Scalar",
    "output_mlp_num_layers": 0,
    "reduce_op": "add",
}


@pytest.fixture
def molecules():
    """Two molecules of 13 and 9 beads, interleaved in no order."""
    gen = torch.Generator().manual_seed(5)
    pos = torch.randn(22, 3, generator=gen, dtype=torch.float64) * 4.5
    z = torch.randint(1, 40, (22,), generator=gen)
    return z, pos, torch.tensor([0] * 13 + [1] * 9)


def graph_network(**changes):
    """A graph network with all parameters changed from their initial values, as after training."""
    torch.manual_seed(11)
    model = create_model({**GN, **changes}, mean=torch.tensor(-3.25), std=torch.tensor(1.7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * parameter.abs().mean().clamp_min(0.2))
    return model


def assert_same(model, other, z, pos, batch):
    e, f = model(z, pos.clone(), batch)
    e2, f2 = other(z, pos.clone(), batch)
    assert f.abs().max() > 1e-3
    assert (e - e2).abs().max() <= 1e-9 * e.abs().max()
    assert (f - f2).abs().max() <= 1e-9 * f.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "tanh", "cutoff_lower": 0.0, "trainable_rbf": False},
        {"neighbor_embedding": True, "num_rbf": 50, "embedding_dimension": 16},
        {"rbf_type": "gauss", "activation": "ssp", "num_layers": 1},
        {"aggr": "mean", "reduce_op": "mean"},
        {"aggr": "max", "embedding_dimension": 9},
    ],
    ids=["majewski", "tanh", "neighbour-embedding", "gauss", "mean", "max"],
)
def test_graph_network_gives_the_same(changes, molecules):
    model = graph_network(**changes)
    ours = from_torchmdnet_gn(model.state_dict(), {**GN, **changes})
    assert type(ours.representation_model).__name__ == "CGSchNet"
    assert_same(model, ours, *molecules)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_graph_network_checkpoint_files(prefix, molecules, tmp_path):
    model = graph_network()
    state = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": GN}, tmp_path / "gn.ckpt")
    assert_same(model, from_torchmdnet_gn(tmp_path / "gn.ckpt"), *molecules)
    assert_same(model, from_torchmdnet_gn(state, GN), *molecules)


def test_graph_network_with_its_priors(molecules):
    register()
    prior = [{"ZBL": {"cutoff_distance": 6.0, "max_num_neighbors": 64, "atomic_number": list(range(44)),
                      "distance_scale": 1e-10, "energy_scale": 6.9e-21}}]  # fmt: skip
    model = graph_network(prior_model=prior)
    ours = from_torchmdnet_gn(model.state_dict(), {**GN, "prior_model": prior})
    assert_same(model, ours, *molecules)


def test_graph_network_with_more_beads_than_its_neighbour_buffer(molecules):
    """TorchMD-Net fails on the CPU when its buffer is too small; CGSchNet has no such buffer."""
    z, pos, batch = molecules
    model = graph_network(max_num_neighbors=2)
    with pytest.raises(RuntimeError, match="max_num_pairs"):
        model(z, pos.clone(), batch)
    ours = from_torchmdnet_gn(model.state_dict(), {**GN, "max_num_neighbors": 2})
    assert_same(graph_network(), ours, z, pos, batch)


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ({}, {"upper": 12.0}),
        (
            {"features": 16, "filters": 16, "rbf": 20, "blocks": 1, "output": (12,)},
            {"upper": 15.0, "act": "silu"},
        ),
        ({"kind": "gauss", "output": ()}, {"upper": 9.0, "act": "ssp"}),
        ({"lower": 2.0, "upper": 10.0}, {"upper": 10.0, "lower": 2.0}),
    ],
    ids=["plain", "sizes", "gauss-linear", "lower"],
)
@pytest.mark.parametrize("prefix", ["", "models.SchNet.model."])
def test_mlcg_gives_the_same(sizes, settings, prefix):
    state = random_state(**{"upper": settings["upper"], **sizes})
    gen = torch.Generator().manual_seed(1)
    z = torch.randint(0, 8, (7,), generator=gen)
    pos = torch.randn(7, 3, generator=gen, dtype=torch.float64) * 4
    hparams = {
        "cutoff_upper": settings["upper"],
        "cutoff_lower": settings.get("lower", 0.0),
        "activation": settings.get("act", "tanh"),
    }
    ours = from_mlcg({prefix + k: v for k, v in state.items()}, hparams)
    assert ours.representation_model.form == "mlcg"
    e, f = energy_and_forces(state, z, pos, **settings)
    e2, f2 = ours(z, pos.clone())
    assert f.abs().max() > 1e-3
    assert (e - e2).abs().max() <= 1e-9 * e.abs()
    assert (f - f2).abs().max() <= 1e-9 * f.abs().max()


def test_mlcg_nested_configuration_and_modules():
    state = random_state(upper=14.0)
    config = {
        "class_path": "mlcg.nn.StandardSchNet",
        "init_args": {
            "cutoff": {
                "class_path": "mlcg.nn.CosineCutoff",
                "init_args": {"cutoff_lower": 0, "cutoff_upper": 14},
            },
            "activation": "torch.nn.Tanh",
        },
    }
    model = from_mlcg(state, config)
    assert model.representation_model.cutoff_upper == 14.0
    assert model.representation_model.activation == "tanh"
    assert (
        from_mlcg(state, {"cutoff": 14.0, "activation": torch.nn.SiLU()}).representation_model.activation
        == "silu"
    )


def test_saved_conversion_loads_with_torchmdnet(molecules, tmp_path):
    register()
    model = graph_network()
    save_checkpoint(from_torchmdnet_gn(model.state_dict(), GN), tmp_path / "ours.ckpt", embedding="cgal")
    assert_same(model, load_model(str(tmp_path / "ours.ckpt")), *molecules)
    state = random_state()
    mlcg = from_mlcg(state, {"cutoff_upper": 12.0, "activation": "tanh"})
    save_checkpoint(mlcg, tmp_path / "mlcg.ckpt", embedding="mlcg-tk")
    z, pos, batch = molecules
    assert_same(mlcg, load_model(str(tmp_path / "mlcg.ckpt")), z % 8, pos, batch)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"activation": "tanh"}, "cutoff_upper"),
        ({"activation": "gelu", "cutoff_upper": 12.0}, "activation 'gelu'"),
        ({"activation": "tanh", "cutoff_upper": 12.0, "alpha": 0.9}, "alpha"),
    ],
)
def test_bad_mlcg_values_are_named(hparams, message):
    with pytest.raises(ConfigError, match=message):
        from_mlcg(random_state(), hparams)


def test_bad_weights_are_named():
    state = random_state()
    with pytest.raises(ConfigError, match="nonsense"):
        from_mlcg({**state, "nonsense.weight": torch.zeros(2)}, {"activation": "tanh", "cutoff_upper": 12.0})
    with pytest.raises(ConfigError, match="0 entries"):
        from_mlcg(graph_network().state_dict(), {"activation": "tanh", "cutoff_upper": 12.0})
    with pytest.raises(ConfigError, match="graph-network"):
        from_torchmdnet_gn(state, GN)


def test_other_parts_of_a_full_model_are_omitted_with_a_warning():
    state = random_state()
    full = {f"models.SchNet.model.{k}": v for k, v in state.items()} | {"models.bonds.k": torch.zeros(3)}
    with pytest.warns(UserWarning, match=r"models\.bonds"):
        from_mlcg(full, {"activation": "tanh", "cutoff_upper": 12.0})


def test_parameters_are_the_same_from_both_classes():
    model = graph_network()
    a, b = model_parameters(model), model_parameters(from_torchmdnet_gn(model.state_dict(), GN))
    assert (a.form, a.activation, a.std, a.mean) == (b.form, b.activation, b.std, b.mean)
    assert a.std == pytest.approx(1.7)
    assert torch.equal(a.rbf_widths, b.rbf_widths)
    for x, y in zip(a.blocks, b.blocks, strict=True):
        for name in ("filter_in", "filter_out", "lin1", "lin2", "lin"):
            assert torch.equal(getattr(x, name).weight, getattr(y, name).weight)
    with pytest.raises(ConfigError, match="Linear"):
        model_parameters(torch.nn.Linear(2, 2))
