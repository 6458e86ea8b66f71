"""The trainer and the sampler of this package keep the contract that others are held to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgal_plugin.components.protocols import ExtendableSampler, RefinableTrainer, ReplicaSampler
from cgal_plugin.components.sampler import OpenMMSampler
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config.models import Simulation
from cgal_plugin.data import DataStore
from cgal_plugin.testing import check_sampler, check_trainer
from tests.driver.stand_ins import config, made_store


@pytest.mark.integration
def test_torchmdnet_trainer_and_openmm_sampler(tmp_path: Path) -> None:
    network = {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4}
    training = {"epochs": 1, "finetune_epochs": 1, "model": network, "priors": {"terms": ["bonds"]}}
    simulation = Simulation(n_replicas=2, steps=20, report_interval=10, timestep_fs=1.0)
    settings = config(tmp_path, training=training)
    store = DataStore(made_store(tmp_path / "store"))
    trainer = TorchMDNetTrainer(settings)
    assert isinstance(trainer, RefinableTrainer)
    check_trainer(trainer, store, tmp_path / "train")

    sampler = OpenMMSampler(simulation, settings.executor)
    assert isinstance(sampler, ReplicaSampler)
    assert isinstance(sampler, ExtendableSampler)
    start = store.load_all().positions[: sampler.n_replicas]
    potential = tmp_path / "train" / "potential_x2.pt"
    check_sampler(sampler, potential, store.topology, start, tmp_path / "sample", temperature=400.0)
