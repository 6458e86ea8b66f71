"""The kernels of the GPU engine on Warp's CPU device, against the exact float64 network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cgal_plugin.export.gpu.potential import GPUPotential
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.export.test_torchscript import EAGER, eager

FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
MODELS = {
    **{name: keys for name, keys in EAGER.items() if not name.endswith("embedding")},
    # not a multiple of 32; filters narrower than features
    "odd_sizes": {"cgschnet": {"form": "mlcg", "num_filters": 24}, "embedding_dimension": 40},
    "usual": {"model": "graph-network", "embedding_dimension": 128, "num_layers": 4, "num_rbf": 18},
    "ssp": {"cgschnet": {"form": "majewski"}, "activation": "ssp"},
}


def check(gpu: GPUPotential, model: Any, topology: CGTopology, frames: np.ndarray) -> None:
    """Forces within 5e-5 of the largest one, energies of replicas within 1e-5."""
    energy, forces = eager(model, topology, frames)
    x = frames.reshape(-1, 3) / ANGSTROM_PER_NM
    found = gpu.with_replicas(len(frames))
    e, f = found(x)
    assert f.shape == x.shape
    assert np.abs(f / FORCE - forces.numpy()).max() < 5e-5 * float(forces.abs().max())
    each = found.replica_energies(x) / KJ_PER_KCAL
    assert np.abs(each - energy.numpy()).max() < 1e-5 * float(energy.abs().max())
    assert e == pytest.approx(each.sum() * KJ_PER_KCAL)


@pytest.mark.parametrize("name", list(MODELS))
def test_equals_the_exact_model(name: str, make: Any, topology: CGTopology, frames: np.ndarray) -> None:
    model = make(**MODELS[name])
    gpu = GPUPotential.from_model(model, topology, device="cpu")
    print(name, gpu.metadata["table_error"], gpu.metadata["engine_error"], gpu.metadata["table_intervals"])
    check(gpu, model, topology, frames[:1])
    check(gpu, model, topology, frames[:31])
