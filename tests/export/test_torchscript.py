"""An exported file gives energies and forces of the model, for each replica independently."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ExportError
from cgal_plugin.export import export_torchscript, load_metadata
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
EAGER = {
    "majewski": {"cgschnet": {"form": "majewski"}},
    "majewski_tanh_no_lower": {"cgschnet": {"form": "majewski"}, "activation": "tanh", "cutoff_lower": 0.0},
    "majewski_embedding": {"cgschnet": {"form": "majewski"}, "neighbor_embedding": True, "activation": "ssp"},
    "mlcg": {"cgschnet": {"form": "mlcg"}, "cutoff_lower": 0.0, "cutoff_upper": 15.0, "activation": "tanh"},
    "mlcg_lower": {"cgschnet": {"form": "mlcg"}, "cutoff_lower": 2.0, "activation": "mish"},
    "graph_network": {"model": "graph-network"},
    "graph_network_gauss": {"model": "graph-network", "rbf_type": "gauss", "activation": "sigmoid"},
    "graph_network_embedding": {"model": "graph-network", "neighbor_embedding": True, "trainable_rbf": True},
    "graph_network_mean": {"model": "graph-network", "reduce_op": "mean", "num_layers": 1},
}


def eager(
    model: torch.nn.Module, topology: CGTopology, frames: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (n,) kcal/mol and forces (n·beads, 3) kcal/mol/Å of the TorchMD_Net."""
    n = len(frames)
    z = torch.from_numpy(np.tile(topology.types, n))
    batch = torch.arange(n).repeat_interleave(topology.n_beads)
    energy, forces = model(z, torch.from_numpy(frames.reshape(-1, 3)).to(model.mean.dtype), batch)
    return energy.detach().flatten(), forces.detach()


def load(path: Path) -> torch.jit.ScriptModule:
    return torch.jit.load(str(path))


def nm(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.reshape(-1, 3) / ANGSTROM_PER_NM)


@pytest.mark.parametrize("name", list(EAGER))
def test_float64_equals_the_model(
    name: str, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    model = make(**EAGER[name])
    export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=3)
    script = load(tmp_path / "p.pt")
    energy, forces = eager(model, topology, frames[:3])
    for _ in range(3):  # the executor optimises after the first calls
        e, f = script(nm(frames[:3]))
    assert e.shape == ()
    assert f.shape == (30, 3)
    assert abs(e / KJ_PER_KCAL - energy.sum()) < 1e-10 * energy.abs().sum()
    assert (f / FORCE - forces).abs().max() < 1e-10 * forces.abs().max()
    assert (
        script.replica_energies(nm(frames[:3])) / KJ_PER_KCAL - energy
    ).abs().max() < 1e-10 * energy.abs().max()


@pytest.mark.parametrize("name", ["majewski", "mlcg", "graph_network"])
@pytest.mark.parametrize("positions_dtype", [torch.float32, torch.float64])
def test_float32_equals_the_model(
    name: str,
    positions_dtype: torch.dtype,
    make: Any,
    topology: CGTopology,
    frames: np.ndarray,
    tmp_path: Path,
) -> None:
    model = make(**EAGER[name], precision=32, embedding_dimension=128, num_layers=4)
    metadata = export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=4)
    assert metadata["dtype"] == "float32"
    energy, forces = eager(model, topology, frames[:4])
    for _ in range(3):
        e, f = load(tmp_path / "p.pt")(nm(frames[:4]).to(positions_dtype))
    assert f.dtype == positions_dtype
    assert abs(float(e / KJ_PER_KCAL - energy.double().sum())) < 1e-5 * float(energy.abs().sum())
    assert float((f / FORCE - forces).abs().max()) < 1e-5 * float(forces.abs().max())


def test_stiff_bonds_keep_their_digits_in_float32(
    make: Any, priors: PriorSet, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    bonds = priors.arguments("bonds")
    # lengths that float32 can hold: what is tested is the rounding of coordinates
    table = [{**row, "k": 1000.0, "r0": float(np.float32(row["r0"]))} for row in bonds["table"]]
    model = make(precision=32, prior_model=[{"CGBonds": {**bonds, "table": table}}])
    # near the minimum and far from the origin, forces are small compared with k times a coordinate
    chain = np.arange(10)[:, None] * priors.arguments("bonds")["table"][0]["r0"] * np.array([0.6, 0.0, 0.8])
    x = (chain + 0.01 * np.random.default_rng(0).normal(size=(20, 10, 3))).astype(np.float32)
    export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=20)
    _, f = load(tmp_path / "p.pt")(nm(x.astype(np.float64)))
    _, forces = eager(model, topology, x)
    double = copy.deepcopy(model).to(torch.float64)
    _, exact = eager(double, topology, x.astype(np.float64))
    for found in (f / FORCE, forces):
        gap = (found - exact).abs().view(20, -1).amax(1) / exact.abs().view(20, -1).amax(1)
        assert float(gap.max()) < 2e-6


def test_dtype_can_be_chosen(make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    model = make(precision=32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_torchscript(model, topology, tmp_path / "p.pt", dtype="float64")
    assert load_metadata(tmp_path / "p.pt")["dtype"] == "float64"
    energy, forces = eager(model.double(), topology, frames[:1])
    e, f = load(tmp_path / "p.pt")(nm(frames[:1]))
    assert abs(e / KJ_PER_KCAL - energy.sum()) < 1e-10 * energy.abs().sum()
    assert (f / FORCE - forces).abs().max() < 1e-10 * forces.abs().max()
    assert model.derivative
    for key, value in model.float().state_dict().items():
        assert torch.equal(value, before[key])


def test_forces_are_the_gradient_of_the_energy(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    export_torchscript(make(**EAGER["majewski"]), topology, tmp_path / "p.pt", n_replicas=2)
    script, x = load(tmp_path / "p.pt"), nm(frames[:2])
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3)))
    rise = (script(x + 1e-6 * direction)[0] - script(x - 1e-6 * direction)[0]) / 2e-6
    assert float(rise) == pytest.approx(-float((script(x)[1] * direction).sum()), rel=1e-6)


def test_lower_and_upper_cutoff_are_exact(make: Any, tmp_path: Path) -> None:
    dimer = CGTopology.from_sequence("GA")
    model = make(prior_model=None, **EAGER["majewski"])
    export_torchscript(model, dimer, tmp_path / "p.pt")
    script = load(tmp_path / "p.pt")
    outside = [2.0, 2.999999, 3.0, 12.0, 12.000001, 20.0]
    alone = float(eager(model, dimer, np.array([[[0.0, 0, 0], [50.0, 0, 0]]]))[0])
    for r in [*outside, 3.000001, 3.2, 7.0, 11.9999]:
        frame = np.array([[[0.0, 0, 0], [r, 0, 0]]])
        e, f = script(nm(frame))
        energy, forces = eager(model, dimer, frame)
        assert float(e) / KJ_PER_KCAL == pytest.approx(float(energy), rel=1e-12)
        assert float((f / FORCE - forces).abs().max()) < 1e-10
        if r in outside:
            assert float(energy) == pytest.approx(alone, rel=1e-12)
            assert float(f.abs().max()) == 0.0


def test_replicas_are_isolated(make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    export_torchscript(make(**EAGER["mlcg"]), topology, tmp_path / "three.pt", n_replicas=3)
    export_torchscript(make(**EAGER["mlcg"]), topology, tmp_path / "one.pt")
    three, one = load(tmp_path / "three.pt"), load(tmp_path / "one.pt")
    bad = frames[:3].copy()
    bad[1, 4] = bad[1, 7]  # two beads in one place
    e, f = three(nm(bad))
    assert torch.isfinite(e)
    assert torch.isfinite(f).all()
    bad[1, 4] = np.nan
    energies, f = three.replica_energies(nm(bad)), three(nm(bad))[1]
    assert torch.isfinite(energies).tolist() == [True, False, True]
    assert not torch.isfinite(three(nm(bad))[0])
    for replica in (0, 2):
        e, alone = one(nm(bad[replica]))
        rows = slice(10 * replica, 10 * replica + 10)
        torch.testing.assert_close(f[rows], alone, rtol=1e-12, atol=1e-9)
        assert float(energies[replica]) == pytest.approx(float(e), rel=1e-12)


def test_drift_does_not_cost_digits(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    export_torchscript(make(precision=32), topology, tmp_path / "p.pt", n_replicas=2)
    script, x = load(tmp_path / "p.pt"), nm(frames[:2])
    far = x.clone()
    far[10:] += 5000.0  # nm
    e, f = script(x)
    moved_e, moved_f = script(far)
    assert float(moved_e) == pytest.approx(float(e), rel=1e-5)
    assert float((moved_f - f).abs().max()) < 2e-4 * float(f.abs().max())


def test_gradient_flag_and_grad_mode_do_not_matter(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    export_torchscript(make(), topology, tmp_path / "p.pt")
    script, x = load(tmp_path / "p.pt"), nm(frames[:1])
    e, f = script(x)
    with_grad = script(x.clone().requires_grad_(True))
    with torch.no_grad():
        without = script(x)
    for other in (with_grad, without):
        assert torch.equal(other[0], e)
        assert torch.equal(other[1], f)
        assert not other[1].requires_grad
    with pytest.raises(Exception, match=r"n_replicas \* n_beads"):
        script(x[:7])


@pytest.mark.parametrize("chosen", [[], [0], [2], [1, 3]])
def test_a_subset_of_priors(
    chosen: list[int],
    make: Any,
    priors: PriorSet,
    topology: CGTopology,
    frames: np.ndarray,
    tmp_path: Path,
) -> None:
    model_priors = priors.to_prior_model()
    model = make(prior_model=[model_priors[k] for k in chosen] or None)
    export_torchscript(model, topology, tmp_path / "p.pt")
    energy, forces = eager(model, topology, frames[:1])
    e, f = load(tmp_path / "p.pt")(nm(frames[:1]))
    assert abs(e / KJ_PER_KCAL - energy.sum()) < 1e-10 * energy.abs().sum()
    assert (f / FORCE - forces).abs().max() < 1e-10 * max(1.0, float(forces.abs().max()))


def test_metadata(make: Any, topology: CGTopology, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.pt"
    export_torchscript(make(), topology, path, n_replicas=5, temperature=400.0, config_hash="abc")
    metadata = load_metadata(path)
    assert CGTopology.from_dict(metadata["topology"]) == topology
    assert metadata["n_beads"] == 10
    assert metadata["n_replicas"] == 5
    assert metadata["units"] == {"positions": "nm", "energy": "kJ/mol", "forces": "kJ/mol/nm"}
    assert metadata["temperature"] == 400.0
    assert metadata["config_hash"] == "abc"
    assert "torch" in metadata["versions"]
    assert [p.name for p in path.parent.iterdir()] == ["p.pt"]
    with pytest.raises(ExportError, match="does not exist"):
        load_metadata(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ExportError, match="not a TorchScript file"):
        load_metadata(tmp_path / "text.pt")


def test_from_a_checkpoint(make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    model, hparams = make(with_hparams=True, **EAGER["majewski"])
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    hparams["embedding"] = "cgal"
    torch.save({"state_dict": state, "hyper_parameters": hparams}, tmp_path / "m.ckpt")
    export_torchscript(tmp_path / "m.ckpt", topology, tmp_path / "p.pt")
    energy, forces = eager(model, topology, frames[:1])
    e, f = load(tmp_path / "p.pt")(nm(frames[:1]))
    assert abs(e / KJ_PER_KCAL - energy.sum()) < 1e-10 * energy.abs().sum()
    assert (f / FORCE - forces).abs().max() < 1e-10 * forces.abs().max()


def test_refusals(make: Any, priors: PriorSet, topology: CGTopology, tmp_path: Path) -> None:
    def refused(message: str, model: Any, top: CGTopology = topology, **keywords: Any) -> None:
        with pytest.raises(ExportError, match=message):
            export_torchscript(model, top, tmp_path / "p.pt", **keywords)
        assert not (tmp_path / "p.pt").exists()

    model = make()
    refused("CGBonds is for 10 beads", model, CGTopology.from_sequence("YYDPE"))
    refused("other bead types", model, CGTopology.from_sequence("YYDPETGTWA"))
    refused("other bonded terms", model, CGTopology.from_dict({**topology.to_dict(), "bond_index": [[0, 1]]}))
    refused("n_replicas", model, n_replicas=0)
    refused("dtype", model, dtype="float16")
    refused("does not exist", tmp_path / "nothing.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    refused("cannot be loaded", tmp_path / "text.ckpt")
    refused("max_z", make(max_z=10, prior_model=None))
    refused("aggregates", make(aggr="mean", model="graph-network"))
    refused("at least two beads", make(prior_model=None), CGTopology.from_sequence("G"))
    refused("cannot be exported", torch.nn.Linear(2, 2))
    refused("tensornet|TensorNet", make(model="tensornet", equivariance_invariance_group="O(3)"))
    refused("Atomref", make(prior_model=[{"Atomref": {"max_z": 50}}]))
    odd = make()
    odd.representation_model.interactions[0].forward = lambda x, *args: 2.0 * x
    refused("differs from the model", odd)
