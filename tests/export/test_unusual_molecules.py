"""All engines are within 1e-5 of the exact float64 network, for many models and unusual molecules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.export.conftest import unscripted
from tests.export.test_torchscript import eager
from tests.priors.chains import chains

FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
BOUND = 1e-5
MODELS = {
    "majewski_silu_3": {"cgschnet": {"form": "majewski"}, "cutoff_lower": 3.0},
    "majewski_tanh_0": {"cgschnet": {"form": "majewski"}, "activation": "tanh", "cutoff_lower": 0.0},
    "majewski_ssp_3": {"cgschnet": {"form": "majewski"}, "activation": "ssp", "cutoff_lower": 3.0},
    "mlcg_tanh_0": {"cgschnet": {"form": "mlcg"}, "activation": "tanh", "cutoff_lower": 0.0},
    "mlcg_silu_3": {"cgschnet": {"form": "mlcg"}, "activation": "silu", "cutoff_lower": 3.0},
    "mlcg_mish_0": {
        "cgschnet": {"form": "mlcg"}, "activation": "mish", "cutoff_lower": 0.0, "cutoff_upper": 15.0
    },
}  # fmt: skip


def several_chains(n_chains: int, length: int) -> CGTopology:
    """Return a topology of identical chains that are not bonded to each other."""
    one = CGTopology.from_sequence(("YYDPETGTWY" * length)[:length]).to_dict()
    whole: dict[str, Any] = {}
    for key, value in one.items():
        whole[key] = value
        if key in ("residue_index", "bond_index"):
            array = np.array(value)
            whole[key] = np.concatenate([array + k * length for k in range(n_chains)]).tolist()
        elif key == "chain_index":
            whole[key] = np.repeat(np.arange(n_chains), length).tolist()
        elif isinstance(value, list) and len(value) == length:
            whole[key] = value * n_chains
    return CGTopology.from_dict(whole)


def packed(n_chains: int, length: int, seed: int) -> np.ndarray:
    """Return chains on a grid with a spacing of 15 Å."""
    x = chains(n_chains, length, seed=seed)
    x = x - x.mean(1, keepdims=True)
    side = int(np.ceil(n_chains ** (1 / 3)))
    places = np.stack(np.meshgrid(*[15.0 * np.arange(side)] * 3), -1).reshape(-1, 3)[:n_chains]
    return (x + places[:, None]).reshape(-1, 3)


def frames_of(kind: str) -> tuple[CGTopology, np.ndarray]:
    if kind == "one bead type":
        return CGTopology.from_sequence("GGGGGGGGGG"), chains(4, 10)
    if kind == "two beads":
        apart = np.array([0.1, 2.9, 3.1, 11.99])
        return CGTopology.from_sequence("GA"), np.stack([np.zeros((4, 3)), apart[:, None] * [0.6, 0, 0.8]], 1)
    if kind == "overlapping":
        x = chains(4, 10)
        x[0, 3] = x[0, 6]
        x[1, 2:5] = x[1, 7] + 1e-4 * np.arange(3)[:, None]
        x[2] *= 1e-3
        return CGTopology.from_sequence("YYDPETGTWY"), x
    if kind == "far apart":
        x = chains(4, 10)
        x[0, 5:] += 50.0
        x[1] *= 13.0
        x[2, 0] += 50.0
        x[3, ::2] += [0.0, 50.0, 0.0]
        return CGTopology.from_sequence("YYDPETGTWY"), x
    if kind == "30 beads":
        return CGTopology.from_sequence("YYDPETGTWYKLANEWGQCIVMFHRSTPDG"), chains(3, 30)
    return several_chains(10, 25), np.stack([packed(10, 25, 1), packed(10, 25, 2)])


# each model with at least two kinds of molecule, each kind with two or three models
PAIRS = [
    (model, kind)
    for kind, models in {
        "one bead type": ["majewski_silu_3", "mlcg_tanh_0"],
        "two beads": ["majewski_tanh_0", "mlcg_silu_3"],
        "overlapping": ["majewski_tanh_0", "mlcg_mish_0", "majewski_silu_3"],
        "far apart": ["majewski_ssp_3", "mlcg_tanh_0"],
        "30 beads": ["majewski_ssp_3", "mlcg_mish_0"],
        "250 beads": ["majewski_silu_3", "mlcg_silu_3"],
    }.items()
    for model in models
]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_engines(name: str, kind: str, make: Any, tmp_path: Path) -> None:
    topology, frames = frames_of(kind)
    model = make(**MODELS[name], prior_model=None, precision=32, max_num_neighbors=260)
    n = len(frames)
    # a non-finite replica must not affect the others
    lost = np.concatenate([frames[:1], frames])
    lost[0, 1] = np.nan
    energy, forces = eager(copy.deepcopy(model).double(), topology, frames)
    expected = forces.numpy().reshape(frames.shape)
    x = lost.reshape(-1, 3) / ANGSTROM_PER_NM
    engines = {}
    for filters in ("exact", "table"):
        for pairs in ("dense", "list"):
            if (kind, pairs) == ("250 beads", "dense"):
                continue
            potential: Any = unscripted(model, topology, n + 1, filters, pairs)
            if (name, kind) == ("majewski_silu_3", "overlapping"):
                path = tmp_path / f"{filters}_{pairs}.pt"
                export_torchscript(model, topology, path, n_replicas=n + 1, filters=filters, pairs=pairs)
                potential = torch.jit.load(str(path))
            tensor = torch.from_numpy(x)
            engines[f"{filters} {pairs}"] = (
                potential(tensor)[1].numpy(),
                potential.replica_energies(tensor).numpy(),
            )
    if fast_available():
        fast = FastPotential.from_model(model, topology, n_replicas=n + 1)
        engines["fast"] = (fast(x)[1], fast.replica_energies(x))
    for engine, (found, energies) in engines.items():
        assert np.isnan(energies[0]), engine
        assert np.isfinite(energies[1:]).all(), engine
        gap = np.abs(found.reshape(lost.shape)[1:] / FORCE - expected).max(axis=(1, 2))
        # small forces are compared relative to the largest one of all frames; contributions of channels to
        # the force of a single pair cancel to a few percent, which float32 does not resolve to 1e-5
        floor = 1.0 if kind == "two beads" else 1e-3
        largest = np.maximum(np.abs(expected).max(axis=(1, 2)), floor * np.abs(expected).max())
        assert (gap < BOUND * largest).all(), f"{engine}: {(gap / largest).max():.1e}"
        difference = np.abs(energies[1:] / KJ_PER_KCAL - energy.numpy())
        assert (difference < BOUND * np.maximum(np.abs(energy.numpy()), 1.0)).all(), engine
