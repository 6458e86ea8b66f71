"""All engines against the exact float64 network: a trained model on frames of a real trajectory.

Frames of examples/chignolin/reference.npz, unchanged and deformed: pairs far below the lower cutoff and
on both sides of both cutoffs, and chains that are stretched until almost no pair interacts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cgal_plugin
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import fit_priors
from cgal_plugin.training import load_model, train
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.export.test_torchscript import eager
from tests.priors.pairs import with_pairs

REFERENCE = Path(__file__).parents[2] / "examples" / "chignolin" / "reference.npz"
FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
LOWER, UPPER = 3.0, 12.0
#: of the largest force component of a frame
BOUND = 1e-5

Evaluate = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """(2000, 10, 3) Å at 400 K, folded and extended."""
    return np.concatenate(load_trajectories(REFERENCE))[::10].astype(np.float64)


@pytest.fixture(scope="module", params=[True, False], ids=["priors", "no_priors"])
def trained(
    request: pytest.FixtureRequest,
    topology: CGTopology,
    real: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Return a float32 model, trained on forces that pull pairs to their distances in the folded state."""
    cgal_plugin.register()
    folder = tmp_path_factory.mktemp("trained")
    data = real[::8]
    difference = data[:, :, None] - data[:, None]
    length = np.linalg.norm(difference, axis=-1) + np.eye(10)
    rest = np.linalg.norm(real[0][:, None] - real[0][None], axis=-1)
    pull = -20.0 * (length - rest - np.eye(10)) / length**2
    forces = np.einsum("nij,nijk->nik", pull, difference)
    store = DataStore.create(folder / "data", topology, temperature=400.0, force_map_hash="m")
    index = np.arange(len(data))
    store.append("s", LabelledFrames(data, forces, index, 0 * index, np.zeros(len(data))), source="seed")
    hparams = {
        "dataset_root": str(store.root),
        "num_epochs": 6,
        "batch_size": 32,
        "embedding_dimension": 64,
        "num_layers": 3,
        "cutoff_lower": LOWER,
        "cutoff_upper": UPPER,
        "prior_model": with_pairs(fit_priors(topology, real, 400.0)).to_prior_model()
        if request.param
        else None,
    }
    result = train(hparams, folder / "model", seed=1)
    losses = [m["val_total_mse_loss"] for m in result.metrics if "val_total_mse_loss" in m]
    assert losses[-1] < losses[0]
    model = load_model(result.checkpoint, derivative=True)
    assert next(model.parameters()).dtype == torch.float32
    return model


def sets(real: np.ndarray) -> dict[str, np.ndarray]:
    """Frames by name, ``(n, 10, 3)`` Å."""
    some = real[::80] - real[::80].mean(axis=1, keepdims=True)

    def with_pair(distance: float, i: int, j: int) -> np.ndarray:
        moved = some.copy()
        along = moved[:, j] - moved[:, i]
        moved[:, j] = moved[:, i] + distance * along / np.linalg.norm(along, axis=-1, keepdims=True)
        return moved

    edges = [edge + d for edge in (LOWER, UPPER) for d in (-1e-2, -1e-4, 0.0, 1e-4, 1e-2)]
    return {
        "as they are": some,
        "short pairs": np.concatenate([with_pair(d, 2, 7)[::3] for d in (0.5, 1.0, 1.5, 2.0, 2.5, 2.9)]),
        "crowded": np.concatenate([f * some[::5] for f in (0.15, 0.3, 0.6)]),
        "edges": np.concatenate([with_pair(d, 1, 8)[::5] for d in edges]),
        "stretched": np.concatenate([f * some[::5] for f in (2.0, 3.0, 3.15)]),
        "beyond": np.concatenate([f * some[::5] for f in (5.0, 50.0)]),
    }


def portable(model: Any, topology: CGTopology, n: int, path: Path, filters: str) -> Evaluate:
    export_torchscript(model, topology, path, n_replicas=n, filters=filters)
    script = torch.jit.load(str(path))
    return lambda x: script(torch.from_numpy(x))[1].numpy()


def fast(model: Any, topology: CGTopology, n: int, path: Path, filters: str) -> Evaluate:
    del path, filters
    engine = FastPotential.from_model(model, topology, n_replicas=n)
    return lambda x: engine(x)[1]


@pytest.mark.parametrize("n_replicas", [1, 7])
@pytest.mark.parametrize("engine", ["exact", "table", "fast"])
def test_forces_on_real_and_deformed_frames(
    engine: str, n_replicas: int, trained: Any, topology: CGTopology, real: np.ndarray, tmp_path: Path
) -> None:
    if engine == "fast" and not fast_available():
        pytest.skip("numba is not installed")
    make = fast if engine == "fast" else portable
    evaluate = make(trained, topology, n_replicas, tmp_path / "p.pt", engine)
    double = copy.deepcopy(trained).double()
    usual = float(eager(double, topology, real[::80])[1].abs().max())
    for name, frames in sets(real).items():
        expected = eager(double, topology, frames)[1].numpy().reshape(frames.shape)
        # repeat frames to fill the last call
        rows = np.resize(np.arange(len(frames)), -(-len(frames) // n_replicas) * n_replicas)
        for lo in range(0, len(rows), n_replicas):
            part = rows[lo : lo + n_replicas]
            found = evaluate(frames[part].reshape(-1, 3) / ANGSTROM_PER_NM) / FORCE
            for frame, forces in zip(part, found.reshape(-1, 10, 3), strict=True):
                # very small forces are compared relative to those of usual frames
                largest = max(np.abs(expected[frame]).max(), 1e-3 * usual)
                error = np.abs(forces - expected[frame]).max() / largest
                assert error < BOUND, f"{name}, frame {frame}: {error:.1e}"


def test_the_frames_are_what_they_are_called(real: np.ndarray) -> None:
    found = sets(real)

    def pairs(frames: np.ndarray) -> np.ndarray:
        i, j = np.triu_indices(10, 1)
        return np.linalg.norm(frames[:, i] - frames[:, j], axis=-1)

    assert pairs(found["as they are"]).min() > LOWER
    assert pairs(found["short pairs"]).min() == pytest.approx(0.5)
    assert pairs(found["crowded"]).min() < 0.8
    assert np.abs(pairs(found["edges"]) - LOWER).min() < 1e-9
    assert np.abs(pairs(found["edges"]) - UPPER).min() < 1e-9
    assert pairs(found["stretched"]).max() > 2 * UPPER
    assert pairs(found["beyond"]).min() > UPPER
