"""Models to export: both CGSchNet forms and TorchMD-Net's graph-network, with all priors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cgal_plugin
from cgal_plugin.export.forms import Potential
from cgal_plugin.export.potential import potential_module, tabulate
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from tests.priors.chains import chains
from tests.priors.pairs import with_pairs


def unscripted(model: Any, topology: CGTopology, n_replicas: int, filters: str, pairs: str) -> Potential:
    """Return the module that ``export_torchscript`` would script, which takes a second per file."""
    potential = potential_module(model, topology, n_replicas=n_replicas, pairs=pairs)
    tabulate(potential, model, topology, 1e-6, filters)
    return potential


@pytest.fixture(scope="session")
def topology() -> CGTopology:
    return CGTopology.from_sequence("YYDPCTGCWY", bridges=[(4, 7)])


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """(120, 10, 3) Å."""
    return chains(120, 10)


@pytest.fixture(scope="session")
def priors(topology: CGTopology, frames: np.ndarray) -> PriorSet:
    return with_pairs(fit_priors(topology, frames, 400.0))


@pytest.fixture(scope="session")
def make(priors: PriorSet) -> Any:
    """``make(model="cgschnet", **keys)``: a TorchMD_Net with random weights and these hyperparameters."""
    cgal_plugin.register()

    def build(model: str = "cgschnet", with_hparams: bool = False, **keys: Any) -> Any:
        from torchmdnet.models.model import create_model

        args = {
            "model": model,
            "embedding_dimension": 32,
            "num_layers": 2,
            "num_rbf": 12,
            "rbf_type": "expnorm",
            "trainable_rbf": False,
            "activation": "silu",
            "cutoff_lower": 3.0,
            "cutoff_upper": 12.0,
            "max_z": 50,
            "max_num_neighbors": 64,
            "neighbor_embedding": False,
            "aggr": "add",
            "reduce_op": "add",
            "output_model": "Scalar",
            "atom_filter": -1,
            "derivative": True,
            "precision": 64,
            "prior_model": priors.to_prior_model(),
            "prior_args": None,
            **keys,
        }
        torch.manual_seed(3)
        built = create_model(dict(args), mean=torch.tensor(2.5), std=torch.tensor(4.0)).eval()
        with torch.no_grad():  # biases are initialised to zero, which would hide a missing one
            for name, parameter in built.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.3)
        return (built, args) if with_hparams else built

    return build
