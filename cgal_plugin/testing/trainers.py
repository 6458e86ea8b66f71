"""The contract of a trainer."""

from __future__ import annotations

from pathlib import Path

from cgal_plugin.components.checks import check_trained
from cgal_plugin.components.protocols import RefinableTrainer, TrainedModel, Trainer, TrainRequest
from cgal_plugin.data import DataStore
from cgal_plugin.testing.contract import checked, has_role, is_json


def check_trainer(trainer: Trainer, store: DataStore, out_dir: Path, *, n_replicas: int = 2) -> None:
    """Check that a trainer keeps the contract that a run relies on: two rounds, and the first one again.

    The ability :class:`RefinableTrainer` is checked if the trainer has it.

    Parameters
    ----------
    trainer
        An object with ``prepare``, ``train`` and ``export``. Use settings with which the training is short.
    store
        Seed data. It is not changed.
    out_dir
        Folder for the files of the trainer, in new subfolders.
    n_replicas
        Number of replicas of the exported potential.

    Raises
    ------
    AssertionError
        The trainer breaks the contract; the message says how.
    """
    has_role("trainer", trainer)
    shards = tuple(store.names())
    for _ in range(2):  # as in a resumed run
        folder = out_dir / "priors"
        folder.mkdir(parents=True, exist_ok=True)
        trainer.prepare(store, folder)

    def train(name: str, previous: TrainedModel | None) -> TrainedModel:
        folder = out_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        request = TrainRequest(store, shards, shards, folder, previous, seed=1)
        model = checked(check_trained, trainer.train(request, None), trainer, folder)
        is_json([dict(row) for row in model.metrics], "metrics")
        return model

    first = train("first", None)
    train("second", first)
    again = train("first", None)
    assert again.checkpoint == first.checkpoint, (
        "called again with the same request, train returned another checkpoint"
    )
    assert len(again.committee) == len(first.committee), "called again, train returned another committee"

    def export(model: TrainedModel, name: str) -> None:
        for n in sorted({1, n_replicas}):
            path = out_dir / f"{name}_x{n}.pt"
            trainer.export(model, store.topology, path, n)
            assert path.is_file(), f"export for {n} replicas did not write {path}"

    export(again, "potential")
    if isinstance(trainer, RefinableTrainer):
        path = out_dir / "refined.ckpt"
        refined = trainer.with_priors(again, trainer.priors(out_dir / "first"), path)
        assert refined.checkpoint == path, f"with_priors returned {refined.checkpoint}; expected {path}"
        assert path.is_file(), f"with_priors did not write {path}"
        export(refined, "refined")
    assert tuple(store.names()) == shards, "the trainer changed the data store"
