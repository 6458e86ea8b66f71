"""Files of the version before the package was rearranged still load and give the same energies.

That version wrote ``old/``: ``priors.yaml`` by a fit, and ``expected.npz`` with frames (3, 10, 3) Å and the
energies (kcal/mol) and forces (kcal/mol/Å) of these priors and of the checkpoints in ``examples/``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmdnet.models.model import create_prior_models

from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.training import load_model
from cgal_plugin.training.prepare import read_hparams
from cgal_plugin.training.replace_priors import replace_priors

OLD = Path(__file__).parent / "old"
MODELS = Path(__file__).parents[2] / "examples" / "chignolin" / "benchmark_1" / "models"
TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")

#: these files were written before embeddings had names
pytestmark = pytest.mark.filterwarnings("ignore:.*does not record the embedding")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(OLD / "expected.npz") as data:
        return dict(data)


def batch(frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z = torch.from_numpy(np.tile(TOPOLOGY.types, len(frames)))
    number = torch.arange(len(frames)).repeat_interleave(frames.shape[1])
    return z, torch.from_numpy(frames).reshape(-1, 3), number


@pytest.mark.parametrize("arm", ["rmsd", "rmsd_release_refined", "static"])
def test_checkpoints(arm: str, expected: dict[str, np.ndarray]) -> None:
    checkpoint = MODELS / arm / "seed_1" / "model.ckpt"
    frames = expected["frames"]
    energy, forces = load_model(checkpoint)(*batch(frames))
    # single precision: other CPUs sum in another order
    np.testing.assert_allclose(energy.detach().numpy().ravel(), expected[f"{arm}_energy"], atol=1e-3)
    np.testing.assert_allclose(
        forces.detach().numpy().reshape(frames.shape), expected[f"{arm}_forces"], atol=1e-3
    )
    hparams = read_hparams(checkpoint)
    assert [p.get_init_args() for p in create_prior_models(dict(hparams))] == hparams["prior_args"]


def test_priors(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    priors = PriorSet.load(OLD / "priors.yaml")  # raises if the hash has changed
    assert priors.terms == ("bonds", "angles", "dihedrals", "repulsion", "angle_series", "pairs")
    z, pos, number = batch(expected["frames"].astype(np.float64))
    energy = torch.zeros(3, 1, dtype=torch.float64)
    for term in priors.terms:
        energy = PRIORS[term](**priors.arguments(term)).post_reduce(energy, z, pos, number, None, None)
    np.testing.assert_allclose(energy.numpy().ravel(), expected["priors_energy"], rtol=1e-9)
    priors.save(tmp_path / "again.yaml")
    assert PriorSet.load(tmp_path / "again.yaml").hash == priors.hash


def test_old_priors_in_an_old_checkpoint(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Replacing the priors changes the energy by that of the priors."""
    checkpoint = MODELS / "rmsd" / "seed_1" / "model.ckpt"
    old = load_model(checkpoint).prior_model
    names = {type(p).__name__ for p in old}
    priors = PriorSet.load(OLD / "priors.yaml")
    kept = [t for t in priors.terms if PRIORS[t].__name__ in names]
    same = dataclasses.replace(
        priors, terms=tuple(kept), rows=tuple(r for r in priors.rows if r["term"] in kept)
    )
    replace_priors(checkpoint, same, tmp_path / "model.ckpt")
    model = load_model(tmp_path / "model.ckpt")
    z, pos, number = batch(expected["frames"])

    def prior_energy(priors: Iterable[Any]) -> torch.Tensor:
        energy = torch.zeros(3, 1)
        for prior in priors:
            energy = prior.post_reduce(energy, z, pos, number, None, None)
        return energy

    change = model(z, pos, number)[0] - torch.from_numpy(expected["rmsd_energy"]).view(-1, 1)
    difference = prior_energy(model.prior_model) - prior_energy(old)
    torch.testing.assert_close(change.detach(), difference.detach(), rtol=1e-4, atol=2e-3)
