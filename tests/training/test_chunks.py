"""The gradient of a batch in chunks: the same as without, and bit-equal for any number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cgal_plugin
from cgal_plugin.data.dataset import CGDataset
from cgal_plugin.errors import CGALWarning
from cgal_plugin.mapping import CGTopology
from cgal_plugin.training import helpers as module_of_helpers
from cgal_plugin.training import train
from cgal_plugin.training.chunks import chunk_gradient, n_chunks, split, total_gradient
from cgal_plugin.training.helpers import Helpers, end_idle, start_early
from cgal_plugin.training.settings import resolve

cgal_plugin.register()
from torchmdnet.module import LNNP  # noqa: E402

from cgal_plugin.training.chunked import ChunkedLNNP, divided, prior_forces  # noqa: E402

PRIORS = ["CGBonds", "CGAngles", "CGDihedrals", "CGRepulsion"]
SEQUENCE = "YYDPETGTWY"


@pytest.fixture(scope="module", autouse=True)
def no_helpers_left() -> Iterator[None]:
    yield
    end_idle()


def write_data(folder: Path, n: int, sequence: str = SEQUENCE) -> dict[str, Any]:
    """Random chains and forces as files; the dataset arguments that read them."""
    rng = np.random.default_rng(len(sequence))
    steps = rng.normal(size=(n, len(sequence), 3))
    steps *= 3.8 / np.linalg.norm(steps, axis=2, keepdims=True)
    np.save(folder / "x.npy", np.cumsum(steps, axis=1).astype(np.float32))
    np.save(folder / "f.npy", rng.normal(scale=10.0, size=steps.shape).astype(np.float32))
    CGTopology.from_sequence(sequence).save(folder / "t.json")
    topology = str(folder / "t.json")
    return {"coords": "x.npy", "forces": "f.npy", "topology": topology, "temperature": 400.0}


def hparams(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": "cgschnet",
        "embedding_dimension": 32,
        "num_layers": 1,
        "num_rbf": 8,
        "batch_size": 48,
        "prior_model": PRIORS,
        "dataset": "CGDataset",
        "dataset_root": str(folder),
        "dataset_arg": write_data(folder, 160),
        "num_epochs": 2,
        "val_size": 0.1,
        **changes,
    }


def both(folder: Path, **changes: Any) -> tuple[Any, ChunkedLNNP, CGDataset, dict[str, Any]]:
    """TorchMD-Net's module and ours with the same weights, and the data."""
    from torchmdnet.models.model import create_prior_models

    keys = hparams(folder, **changes)
    dataset = CGDataset(folder, **keys["dataset_arg"])
    values = resolve(keys) | {"load_model": None, "seed": 0}
    modules = []
    for kind in (LNNP, ChunkedLNNP):
        priors = create_prior_models(dict(values), dataset)
        torch.manual_seed(0)
        modules.append(kind(dict(values), prior_model=priors or None).train())
    return modules[0], modules[1], dataset, values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_loss": "l1_loss"},
        {"train_loss": "huber_loss", "train_loss_arg": {"delta": 3.0}},
        {"ema_alpha_neg_dy": 0.3},
        {"cgschnet": {"filter_grid": 100}},
        {"precision": 64},
        {"prior_model": None},
        {"neighbor_embedding": True},  # not the fast method: the priors are computed with the network
        {"trainable_rbf": True},
        {"neg_dy_weight": 2.5},
    ],
)
def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs, ours, dataset, values = both(tmp_path, **changes)
    with divided(ours, values, dataset, 1):
        assert ours.chunks == 2
        for step in range(2):  # the second one sees the moving average of the loss
            batch = dataset.__getitems__(range(40 * step, 40 * step + 37))[0]
            expected = theirs.training_step(batch.clone(), step)
            expected.backward()
            loss = ours.training_step(batch, step)
            ours.backward(loss)
            assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
            for (name, one), two in zip(
                theirs.model.named_parameters(), ours.model.parameters(), strict=True
            ):
                assert (one.grad is None) == (two.grad is None), name
                if one.grad is not None:
                    largest = float(one.grad.abs().max())
                    torch.testing.assert_close(two.grad, one.grad, rtol=0, atol=2e-5 * largest + 1e-9)
                one.grad = two.grad = None
    for kind in ("neg_dy", "total"):
        name = ours.hparams.train_loss
        pairs = zip(theirs.losses["train"][kind][name], ours.losses["train"][kind][name], strict=True)
        assert all(float(a) == pytest.approx(float(b), rel=1e-5) for a, b in pairs)


def weights(result: Any) -> bytes:
    state = torch.load(result.last_checkpoint, weights_only=True)["state_dict"]
    return b"".join(value.numpy().tobytes() for value in state.values())


def test_weights_are_bit_equal_for_any_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = hparams(tmp_path, embedding_dimension=128, batch_size=96, num_epochs=3)
    monkeypatch.setattr(module_of_helpers, "_PATIENCE", 1e4)  # otherwise a busy machine does without helpers
    used = []
    receive = module_of_helpers.Helper.receive

    def counted(self: Any, seconds: float) -> Any:
        used.append(self)
        return receive(self, seconds)

    monkeypatch.setattr(module_of_helpers.Helper, "receive", counted)
    started = Helpers.set_up

    def and_wait(self: Helpers, *args: Any) -> None:
        started(self, *args)
        for helper in self.helpers:
            assert helper.connection.poll(60)

    monkeypatch.setattr(Helpers, "set_up", and_wait)
    found, helpers = [], []
    for cores in (1, 2, 3):
        found.append(weights(train(keys, tmp_path / f"on_{cores}", seed=1, cores=cores)))
        helpers.append(len(set(used)))
        used.clear()
    assert found[0] == found[1] == found[2]
    assert helpers == [0, 1, 2]


def test_a_lost_helper_changes_nothing(tmp_path: Path) -> None:
    _, ours, dataset, values = both(tmp_path)
    batch = dataset.__getitems__(range(48))[0]
    with divided(ours, values, dataset, 2):
        (helper,) = ours.helpers.helpers
        assert helper.connection.poll(60)
        parts = split(batch, 2)
        alone = [chunk_gradient(ours.model, ours.trained, p, 480, ours.chunk_loss) for p in parts]
        os.kill(helper.process.pid, signal.SIGKILL)
        helper.process.wait()
        with pytest.warns(CGALWarning, match=r"helper process of the training was lost.*same result"):
            found = ours.helpers.gradients(ours.model, ours.trained, parts, ours.chunk_loss)
        assert not ours.helpers.helpers
    pairs = zip(total_gradient(alone).parts, total_gradient(found).parts, strict=True)
    assert all(a is b or torch.equal(a, b) for a, b in pairs if a is not None and b is not None)


def test_a_late_helper_is_not_waited_for(tmp_path: Path) -> None:
    _, ours, dataset, values = both(tmp_path)
    parts = split(dataset.__getitems__(range(48))[0], 2)
    with divided(ours, values, dataset, 2):
        (helper,) = ours.helpers.helpers
        assert helper.connection.poll(60)
        first = ours.helpers.gradients(ours.model, ours.trained, parts, ours.chunk_loss)
        os.kill(helper.process.pid, signal.SIGSTOP)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(3):
                    again = ours.helpers.gradients(ours.model, ours.trained, parts, ours.chunk_loss)
        finally:
            os.kill(helper.process.pid, signal.SIGCONT)
        assert all(torch.equal(a.loss, b.loss) for a, b in zip(first, again, strict=True))


def test_nothing_waits_for_a_helper_that_does_not_read(tmp_path: Path) -> None:
    """A model is larger than the buffer of a connection; a helper that starts or is busy reads nothing."""
    end_idle()
    _, ours, dataset, values = both(tmp_path, embedding_dimension=128, num_layers=4)
    parts = split(dataset.__getitems__(range(48))[0], 2)
    with divided(ours, values, dataset, 2):
        (helper,) = ours.helpers.helpers
        assert helper.connection.poll(60)
        assert helper.is_free()
        # a late answer, as large as the model: the helper reads nothing until it is received
        weights = torch.cat([p.detach().reshape(-1) for p in ours.trained]).numpy()
        helper.send(weights, [(parts[1], 480)])
        assert helper.connection.poll(60)
    guard = threading.Timer(20.0, helper.process.kill)  # otherwise a fault would hang here
    guard.start()
    with divided(ours, values, dataset, 2):
        assert ours.helpers.helpers == [helper]
        end = time.monotonic() + 15.0
        while not helper.is_free() and time.monotonic() < end:
            time.sleep(0.01)
        guard.cancel()
        assert helper.due == 0
        assert helper.process.poll() is None


def test_helpers_end_after_an_error(tmp_path: Path) -> None:
    """A message may have been read or written in part."""
    _, ours, dataset, values = both(tmp_path)

    def interrupted() -> None:
        with divided(ours, values, dataset, 2):
            used.extend(ours.helpers.helpers)
            raise KeyboardInterrupt

    used: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (helper,) = used
    assert helper not in module_of_helpers._idle
    assert helper.process.poll() is not None


def test_a_helper_that_was_started_early_is_used() -> None:
    """`cgal run` starts one while it prepares the run; the first training needs no other."""
    end_idle()
    start_early(1)
    start_early(1)
    (early,) = module_of_helpers._idle
    used = Helpers(1)
    try:
        assert used.helpers == [early]
        assert early.process.poll() is None
        assert not module_of_helpers._idle
    finally:
        used.end()


def test_a_model_that_cannot_be_sent(tmp_path: Path) -> None:
    _, ours, dataset, values = both(tmp_path)
    ours.model.note = lambda: None

    def step() -> int:
        with divided(ours, values, dataset, 2):
            ours.training_step(dataset.__getitems__(range(48))[0], 0)
            return len(ours.helpers.helpers)

    with pytest.warns(CGALWarning, match=r"cannot be sent to other processes.*one core, with the same"):
        assert step() == 0


def test_a_helper_starts_in_any_folder_and_not_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    helper = module_of_helpers.Helper()
    try:
        # a terminal sends Ctrl-C to the group of the training process
        assert os.getpgid(helper.process.pid) != os.getpgid(0)
        with pytest.raises(subprocess.TimeoutExpired):
            helper.process.wait(3.0)
    finally:
        helper.close()


def test_parts_hold_whole_molecules(tmp_path: Path) -> None:
    _, _, dataset, _ = both(tmp_path)
    batch = dataset.__getitems__(range(7))[0]
    parts = split(batch, 3)
    assert [int(p["batch"][-1]) + 1 for p in parts] == [2, 2, 3]
    assert torch.equal(torch.cat([p["pos"] for p in parts]), batch.pos)
    for part in parts:
        assert int(part["bond_index"].max()) == len(part["pos"]) - 1
        assert part["bond_index"].shape[1] == 9 * (int(part["batch"][-1]) + 1)
    assert len(split(batch, 20)) == 7


def test_the_number_of_chunks_depends_on_the_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(1, 10, 128), (64, 10, 8), (64, 10, 64), (256, 10, 32), (128, 10, 128), (10_000, 60, 128)]
    found = [n_chunks(*size) for size in sizes]
    assert found == [1, 1, 2, 2, 4, 8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert [n_chunks(*size) for size in sizes] == found


def test_forces_of_priors_are_computed_once(tmp_path: Path) -> None:
    _, ours, dataset, values = both(tmp_path)
    forces = torch.cat(list(prior_forces(ours.model, dataset))).reshape(-1, 10, 3)
    batch = dataset.frames_as_batch(torch.tensor([5, 17]))
    tables = {k: v for k, v in batch.to_dict().items() if k.endswith("_index")}
    here = ours.model.prior_forces(batch.z, batch.pos, batch.batch, tables).reshape(2, 10, 3)
    torch.testing.assert_close(forces[[5, 17]], here, rtol=1e-6, atol=1e-5)
    with divided(ours, values, dataset, 1):
        assert torch.equal(dataset.__getitems__([5])[0].prior_forces, forces[5])


def test_without_a_mean_or_on_other_data_the_step_is_that_of_torchmdnet(tmp_path: Path) -> None:
    for changes in ({"train_loss_arg": {"reduction": "sum"}}, {"batch_size": 2}):
        _, ours, dataset, values = both(tmp_path, **changes)
        with divided(ours, values, dataset, 2):
            assert ours.chunks == 1
            assert not ours.helpers.helpers
