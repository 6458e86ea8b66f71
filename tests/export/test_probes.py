"""The frames that tables and kernels are checked on have the bonds of the molecule and no overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.dynamics import simulate
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.export.potential import potential_module
from cgal_plugin.export.probes import bond_lengths, probe_frames
from cgal_plugin.export.tables import exact_filters, reference_forces
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models import import_model
from cgal_plugin.models.build import build_model

ARTEFACTS = Path("/work/shared/artefacts/mlcg")


def network(**keys: Any) -> Any:
    torch.manual_seed(0)
    return build_model({"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8, **keys})


@pytest.mark.parametrize("mapping", ["CA", "CACB", "5bead"])
@pytest.mark.parametrize("lower", [0.0, 3.0])
def test_no_bead_overlaps(mapping: str, lower: float) -> None:
    topology = CGTopology.from_sequence("YYDPETGTWYAGAFKL", mapping)
    potential = potential_module(network(cutoff_lower=lower), topology, verify=False)
    frames = probe_frames(potential, topology)
    n = frames.shape[1]
    assert n == 16
    bonds = {pair: r for pair, r in bond_lengths(potential, topology).items() if max(pair) < n}
    i, j = np.triu_indices(n, 1)
    r = np.linalg.norm(frames[:, i] - frames[:, j], axis=2)
    bonded = np.array([(a, b) in bonds for a, b in zip(i.tolist(), j.tolist(), strict=True)])
    assert r[:, ~bonded].min() > (1.8 if mapping == "5bead" else 2.9)  # of N–CA–C the ends are 2.4 Å apart
    for a, b in bonds:
        length = np.linalg.norm(frames[:4, a] - frames[:4, b], axis=1)
        assert np.abs(length / bonds[a, b] - 1.0).max() < 0.1
    # compact and extended chains differ, and both sides of the upper cutoff occur
    sizes = np.linalg.norm(frames[:4] - frames[:4].mean(axis=1, keepdims=True), axis=2).mean(axis=1)
    assert sizes[3] > 1.5 * sizes[0]
    assert r.min(initial=20.0, where=r < 12.0) < 12.0 < r.max()


@pytest.mark.parametrize("upper", [12.0, 15.0])
@pytest.mark.parametrize("form", ["majewski", "mlcg"])
def test_no_frame_has_only_tiny_forces(form: str, upper: float) -> None:
    """An error relative to forces of 1e-9 kcal/mol/Å refused every table of mlcg's settings."""
    topology = CGTopology.from_sequence("YYDPETGTWYAGAFKL")
    model = network(num_rbf=64, cutoff_upper=upper, cgschnet={"form": form})
    potential = potential_module(model, topology, dtype="float64", verify=False)
    exact = exact_filters(potential.network)
    largest = [
        np.abs(reference_forces(potential.network, exact, frame)).max()
        for frame in probe_frames(potential, topology)
    ]
    assert min(largest) > 1e-6 * max(largest)


def test_bonds_of_the_prior_are_used(topology: CGTopology, make: Any) -> None:
    model = make()
    bonds = bond_lengths(potential_module(model, topology, verify=False), topology)
    table = next(p for p in model.prior_model if type(p).__name__ == "CGBonds").get_init_args()["table"]
    assert set(bonds.values()) <= {row["r0"] for row in table}


def test_molecules_without_bonds_have_frames() -> None:
    topology = CGTopology.from_sequence("GA")
    frames = probe_frames(potential_module(network(), topology, verify=False), topology)
    assert frames.shape[1:] == (2, 3)
    assert np.isfinite(frames).all()


@pytest.mark.integration
@pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="the public files are not here")
def test_public_chignolin_model_runs_in_the_fast_engine(tmp_path: Path) -> None:
    """Refused before: its frames had beads 0.02 to 1 Å apart."""
    pytest.importorskip("numba")
    path = ARTEFACTS / "schnet_cln_ca_specialized_model_and_config.pt"
    found = import_model(path, embedding="mlcg-tk", temperature=350.0)
    assert found.topology is not None
    found.save(tmp_path / "model.ckpt")
    export_torchscript(tmp_path / "model.ckpt", found.topology, tmp_path / "p.pt", n_replicas=2)
    fast = FastPotential.from_file(tmp_path / "p.pt")
    with np.load(ARTEFACTS / "expected.npz") as e:
        start = e["positions"] - e["positions"].mean(axis=1, keepdims=True)
        forces = sum(e[k] for k in e.files if k.startswith("forces_"))
    own = fast(start.reshape(-1, 3) / 10)[1] / 41.84
    assert np.abs(own - forces.reshape(-1, 3)).max() < 2e-6 * np.abs(forces).max()
    result = simulate(
        tmp_path / "p.pt", found.topology, start, steps=2000, timestep_fs=4.0, temperature=350.0,
        friction=1.0, n_replicas=2, seed=0, out_dir=tmp_path / "run", backend="fast",
    )  # fmt: skip
    assert not result.events
    assert result.backend == "fast"
