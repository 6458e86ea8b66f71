"""Disulfide bridges in exported potentials: the same energy and forces as the model, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.export.potential import potential_module
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL


@pytest.mark.parametrize("pairs", ["dense", "list"])
def test_the_bridge_is_its_own_energy(
    make: Any, topology: CGTopology, frames: np.ndarray, priors: Any, pairs: str
) -> None:
    everything = priors.to_prior_model()
    rest = [p for p in everything if "CGBridges" not in p]
    assert len(rest) == len(everything) - 1
    with_bridge = potential_module(make(prior_model=everything), topology, dtype="float64", pairs=pairs)
    without = potential_module(make(prior_model=rest), topology, dtype="float64", pairs=pairs)
    x = torch.tensor(frames[0] / ANGSTROM_PER_NM)
    (energy, forces), (less, rest_forces) = with_bridge(x), without(x)
    row = next(r for r in priors.table() if r["term"] == "bridges" and r["parameters"])
    ((i, j),) = topology.bridge_index
    d = frames[0, j] - frames[0, i]
    r = np.linalg.norm(d)
    k, r0 = row["parameters"]["k"], row["parameters"]["r0"]
    assert (energy - less).item() / KJ_PER_KCAL == pytest.approx(0.5 * k * (r - r0) ** 2, rel=1e-9)
    difference = (forces - rest_forces).numpy() / (KJ_PER_KCAL * ANGSTROM_PER_NM)
    np.testing.assert_allclose(difference[i], k * (r - r0) * d / r, rtol=1e-8)
    np.testing.assert_allclose(difference[j], -difference[i], rtol=1e-8)
    others = [b for b in range(topology.n_beads) if b not in (i, j)]
    assert np.abs(difference[others]).max() < 1e-9


@pytest.mark.skipif(not fast_available(), reason="numba is not installed")
def test_the_fast_engine_has_the_bridge(
    make: Any, topology: CGTopology, frames: np.ndarray, priors: Any
) -> None:
    rest = [p for p in priors.to_prior_model() if "CGBridges" not in p]
    x = frames[0] / ANGSTROM_PER_NM
    found = FastPotential.from_model(make(), topology)(x)
    less = FastPotential.from_model(make(prior_model=rest), topology)(x)
    exact = potential_module(make(), topology, dtype="float64")(torch.tensor(x))
    assert found[0] == pytest.approx(exact[0].item(), rel=1e-5)
    assert abs(found[0] - less[0]) > 0.1
    np.testing.assert_allclose(found[1], exact[1].numpy(), atol=1e-4 * np.abs(exact[1].numpy()).max())


def test_a_model_and_a_topology_with_other_bridges_are_refused(
    make: Any, topology: CGTopology, tmp_path: Path
) -> None:
    model = make()
    other = CGTopology.from_sequence(topology.sequence)
    with pytest.raises(ExportError, match=r"CGBridges has other bonded terms than"):
        export_torchscript(model, other, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
