"""The portable form: energies and forces of TorchScript, without TorchScript, pickle or TorchMD-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.export import export_potential, export_torchscript, load_metadata
from cgal_plugin.export.loading import convert_potential, load_exported
from cgal_plugin.export.portable import load_portable, save_portable
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM
from tests.export.conftest import unscripted
from tests.export.test_torchscript import EAGER

MODELS: dict[str, dict[str, Any]] = {
    **EAGER,
    "no_priors": {"prior_model": None},
    "odd_sizes": {"cgschnet": {"form": "mlcg", "num_filters": 24}, "embedding_dimension": 40},
    "trainable_basis": {"cgschnet": {"form": "mlcg"}, "trainable_rbf": True, "rbf_type": "gauss"},
}


def nm(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.reshape(-1, 3) / ANGSTROM_PER_NM)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("pairs", ["dense", "list"])
@pytest.mark.parametrize("name", list(MODELS))
def test_round_trip_is_exact(
    name: str, pairs: str, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    model = make(**MODELS[name])
    module = unscripted(model, topology, 3, "exact", pairs)
    save_portable(module, tmp_path / "p.npz", {})
    loaded, _ = load_portable(tmp_path / "p.npz", 3)
    assert type(loaded) is type(module)
    x = nm(frames[:3])
    assert same(loaded(x), module(x))
    assert torch.equal(loaded.replica_energies(x), module.replica_energies(x))
    state, again = module.state_dict(), loaded.state_dict()
    # a neighbour list holds the pairs of its last call
    assert {k: v for k, v in state.items() if k != "neighbors.built"}.keys() <= again.keys()
    assert all(torch.equal(again[k], v) for k, v in state.items() if k.startswith("network."))


@pytest.mark.parametrize("precision", [32, 64])
def test_equals_torchscript_bit_for_bit(
    precision: int, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    """With tables in float32, exact filters in float64."""
    model = make(cgschnet={"form": "majewski"}, precision=precision)
    scripted = export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=2, config_hash="abc")
    portable = export_potential(model, topology, tmp_path / "p.npz", n_replicas=2, config_hash="abc")
    x = nm(frames[:2])
    script = load_exported(tmp_path / "p.pt")[0]
    found = load_portable(tmp_path / "p.npz", 2)[0](x)
    if precision == 64:
        assert same(found, script(x))
    else:  # the executor of TorchScript fuses operations
        for a, b in zip(found, script(x), strict=True):
            assert float((a - b).abs().max()) < 1e-6 * float(b.abs().max())
    # the metadata are those of TorchScript, but for the number of replicas
    own = {"format", "format_version", "n_replicas", "table_intervals", "table_tolerance", "table_error"}
    assert {k: v for k, v in scripted.items() if k not in own} == {
        k: v for k, v in portable.items() if k not in own
    }
    assert load_metadata(tmp_path / "p.npz") == portable
    assert "n_replicas" not in portable

    # the same file of the TorchScript file, without the model
    converted = convert_potential(tmp_path / "p.pt", tmp_path / "c.npz")
    assert converted["parameters_hash"] == portable["parameters_hash"]
    assert same(load_portable(tmp_path / "c.npz", 2)[0](x), found)


def test_bytes_depend_on_the_content_only(make: Any, topology: CGTopology, tmp_path: Path) -> None:
    for name in ("a.npz", "other_name.npz"):
        export_potential(make(num_layers=1), topology, tmp_path / name, filters="exact")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "other_name.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.npz", "other_name.npz"]
