"""Train, resume and fine-tune models: TorchMD-Net's LNNP and data module with Lightning's Trainer."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cgal_plugin.data.split_files import write_splits
from cgal_plugin.errors import ConfigError, DamageError, TrainingError
from cgal_plugin.execution.resources import Auto
from cgal_plugin.file_lock import locked_folder
from cgal_plugin.provenance import (
    derive_seed,
    hash_file,
    hash_object,
    read_sealed,
    versions,
    write_sealed,
)
from cgal_plugin.training.checkpoints import CheckpointFolder, Epoch, write_metrics
from cgal_plugin.training.initial import keys_from, start_at_zero
from cgal_plugin.training.prepare import Prepared, prepare, read_checkpoint, read_hparams, write_hparams
from cgal_plugin.training.settings import resolve
from cgal_plugin.units import MODEL_UNITS

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from cgal_plugin.data.sources import FrameTable

MODES = ("scratch", "finetune", "replay")
#: called as ``progress(finished epochs, all epochs, metrics of the last epoch)``
Progress = Callable[[int, int, Mapping[str, Any]], None]
#: settings that may differ when a training is resumed
_FREE = (
    "num_epochs",
    "num_workers",
    "log_dir",
    "dataset_root",
    "splits",
    "ngpus",
    "num_nodes",
    "prior_args",
    "tensorboard_use",
    "temperature",
    "embedding",
)
_CLAIM = "training.json"


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes
    ----------
    checkpoint
        Checkpoint of the epoch with the lowest ``checkpoint_monitor`` (default: validation loss, whatever
        the loss).
    last_checkpoint
        Checkpoint of the last epoch.
    metrics
        One dict per epoch, including those of earlier calls: ``epoch``, ``lr``, ``seconds``, the losses of
        TorchMD-Net, and with an mse loss ``train_force_rmse`` and ``val_force_rmse`` (kcal/mol/Å).
    epochs_run
        Number of epochs of this call.
    """

    checkpoint: Path
    last_checkpoint: Path
    metrics: list[dict[str, Any]]
    epochs_run: int


def train(
    hparams: Mapping[str, Any],
    out_dir: str | os.PathLike[str],
    *,
    seed: int,
    init_checkpoint: str | os.PathLike[str] | None = None,
    mode: str = "scratch",
    replay_weight: float = 4.0,
    newest: Sequence[str] | None = None,
    config_hash: str = "",
    progress: Progress | None = None,
    frames: FrameTable | None = None,
    cores: int | Auto | None = None,
    device: str = "auto",
) -> TrainingResult:
    """Train a model by force matching, or resume an interrupted training.

    Every epoch writes a checkpoint in TorchMD-Net's format (for ``load_model`` and
    ``cgal-train --load-model``); the best, the last and the last but one are kept. Each epoch starts from the
    previous checkpoint, in an order of frames that depends only on seed and epoch. On a CPU, a resumed
    training therefore equals an uninterrupted one bit for bit.

    Parameters
    ----------
    hparams
        TorchMD-Net YAML keys. Missing keys get :data:`~cgal_plugin.training.CG_DEFAULTS`, then the defaults
        of TorchMD-Net. Without ``splits``, a ``CGDataset`` is split by correlated blocks with ``train_size``,
        ``val_size`` and ``test_size`` (:func:`~cgal_plugin.data.splits.sized_sides`). ``splits``: an
        ``.npz`` file or a mapping with ``idx_train``, ``idx_val``, ``idx_test``, indices or boolean masks.
    out_dir
        Folder of ``epoch_*.ckpt``, ``metrics.csv``, ``training.json``, ``hparams.yaml``, ``splits.npz``.
    seed
        Seed of weights, shuffle and split.
    init_checkpoint
        Checkpoint with the initial weights, for modes ``finetune`` and ``replay``; its network (sizes,
        cutoffs, activation) and its priors are kept and need not be in ``hparams``, optimizer and schedule
        are new. None (first round): random weights, with zeros in the last layer of a ``Scalar`` head, so
        that training starts from the energy of the priors.
    mode
        ``"scratch"``; ``"finetune"``; ``"replay"``: like ``finetune``, with frames of the newest sources
        repeated ``replay_weight`` times per epoch.
    replay_weight
        Repetitions per epoch of a frame of the newest sources; at least 1, may be fractional.
    newest
        Newest sources (default: those of the highest round in the records of the store).
    config_hash
        Hash for the provenance of the checkpoints.
    progress
        Called as ``progress(done, total, metrics)`` after each epoch.
    frames
        The frames of the ``CGDataset`` that ``hparams`` name, if they are in memory
        (:func:`~cgal_plugin.data.sources.read_store`); otherwise they are read.
    cores
        Cores to use on a CPU, one process each, or ``"auto"`` for those that this process may use. The
        weights are bit-equal for any number. None: one process, with the threads that torch has.
    device
        ``"cpu"``, or ``"auto"`` for a GPU if there is one.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ConfigError
        A key or value is not allowed.
    DataError
        The data set cannot be read or split.
    TrainingError
        ``out_dir`` contains another training, ``init_checkpoint`` does not fit, or the loss is no longer
        finite (finished epochs are kept).
    StateError
        Another process trains in ``out_dir``.
    """
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")
    if mode == "scratch" and init_checkpoint is not None:
        raise ConfigError("mode 'scratch' does not take an init_checkpoint; use 'finetune' or 'replay'")
    out_dir = Path(out_dir)
    init = None if init_checkpoint is None else _existing(init_checkpoint)
    if init is not None:
        hparams = keys_from(hparams, read_hparams(init), init)
    values = {**resolve(hparams), "seed": seed, "log_dir": str(out_dir)}
    weight = replay_weight if mode == "replay" else None
    prepared = prepare(values, out_dir, init, weight, newest, seed, frames)
    settings = {
        "hparams": {k: v for k, v in prepared.hparams.items() if k not in _FREE},
        "data": prepared.data_hash,
        "mode": mode,
        "init_checkpoint": None if init is None else hash_file(init),
        "seed": seed,
    }
    # before the folder is written to: settings that fail must not reserve it
    known = (out_dir / _CLAIM).exists()
    module = None if known else _new_module(prepared, seed, init, None)
    provenance = {
        "versions": versions(),
        "config_hash": config_hash,
        "hparams_hash": hash_object(settings["hparams"]),
        "data_hash": prepared.data_hash,
        "mode": mode,
        "init_checkpoint": settings["init_checkpoint"],
        "seed": seed,
        "temperature": prepared.hparams["temperature"],
        "embedding": prepared.hparams["embedding"],
        "units": dict(MODEL_UNITS),
        "frames": prepared.frame_counts,
        "bead_types": prepared.bead_types(init),
    }
    with locked_folder(out_dir, "training folder"):
        _claim(out_dir, settings)
        if prepared.sides is not None:
            write_splits(out_dir / "splits.npz", prepared.sides)
        return _run(prepared, out_dir, seed, init, provenance, progress, module, cores, device)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"checkpoint {str(path)!r} does not exist")
    read_checkpoint(path)  # before _claim: a wrong file must not reserve the folder
    return path


def _claim(out_dir: Path, settings: dict[str, Any]) -> None:
    """Reserve the folder for this training, or check that it contains this training."""
    path = out_dir / _CLAIM
    if not path.exists():
        write_sealed(path, settings)
        return
    try:
        there = read_sealed(path)
        before_keys = dict(there.get("hparams", {}))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DamageError(f"{path} is damaged ({error}); delete {out_dir} to train again") from error
    if hash_object(there) == hash_object(settings):
        return
    before = {**before_keys, **{k: v for k, v in there.items() if k != "hparams"}}
    now = {**settings["hparams"], **{k: v for k, v in settings.items() if k != "hparams"}}
    changed = [
        f"{k}: {str(before.get(k))[:60]} -> {str(now.get(k))[:60]}"
        for k in sorted({*before, *now})
        if hash_object(before.get(k)) != hash_object(now.get(k))
    ]
    raise TrainingError(
        f"{out_dir} contains a training with other settings ({'; '.join(changed)}); use another folder"
    )


def _run(
    prepared: Prepared,
    out_dir: Path,
    seed: int,
    init: Path | None,
    provenance: dict[str, Any],
    progress: Progress | None,
    module: LightningModule | None,
    cores: int | Auto | None,
    device: str,
) -> TrainingResult:
    from cgal_plugin.training.chunked import divided
    from cgal_plugin.training.lightning import SeededDataModule, fit, make_trainer, quiet

    folder = CheckpointFolder(out_dir)
    last = folder.last()
    total = prepared.hparams["num_epochs"]
    if last is not None and progress is not None:
        progress(last.number + 1, total, last.record["metrics"][-1])
    run = 0
    if last is None or not _finished(last, total):
        if module is None or last is not None:
            module = _module(prepared, out_dir, seed, init, last)
        else:
            write_hparams(out_dir / "hparams.yaml", dict(module.hparams))
    data = SeededDataModule(prepared.hparams, prepared.dataset, seed)
    with contextlib.ExitStack() as stack:
        if last is None or not _finished(last, total):
            stack.enter_context(divided(cast("Any", module), prepared.hparams, prepared.dataset, cores))
        while last is None or not _finished(last, total):
            number = 0 if last is None else last.number + 1
            data.epoch = number
            started = time.monotonic()
            with quiet():
                trainer = make_trainer(prepared.hparams, out_dir, number + 1, provenance, device)
                fit(trainer, cast("LightningModule", module), data, None if last is None else last.checkpoint)
                metrics = _metrics(trainer, number, time.monotonic() - started)
                history = [] if last is None else list(last.record["metrics"])
                score = metrics[prepared.hparams["checkpoint_monitor"]]
                best, best_score = number, score
                if last is not None and not score < last.record["best_score"]:
                    best, best_score = last.record["best"], last.record["best_score"]
                record = {
                    "score": score,
                    "best": best,
                    "best_score": best_score,
                    "stopped": bool(trainer.should_stop),
                    "metrics": [*history, metrics],
                    "provenance": provenance,
                }
                saved = folder.save(number, trainer.save_checkpoint, record)
            folder.prune({number, best} | ({last.number} if last else set()))
            last = saved
            run += 1
            write_metrics(out_dir / "metrics.csv", last.record["metrics"])
            if progress is not None:
                progress(number + 1, total, metrics)
    best_epoch = folder.get(last.record["best"])
    if best_epoch is None:
        raise DamageError(
            f"{out_dir}: the checkpoint of the best epoch ({last.record['best']}) is missing or "
            f"damaged; delete {out_dir} to train again"
        )
    return TrainingResult(best_epoch.checkpoint, last.checkpoint, list(last.record["metrics"]), run)


def _finished(last: Epoch, total: int) -> bool:
    return last.number + 1 >= total or bool(last.record["stopped"])


def _module(
    prepared: Prepared, out_dir: Path, seed: int, init: Path | None, last: Epoch | None
) -> LightningModule:
    module = _new_module(prepared, seed, init, last)
    write_hparams(out_dir / "hparams.yaml", dict(module.hparams))
    return module


def _new_module(prepared: Prepared, seed: int, init: Path | None, last: Epoch | None) -> LightningModule:
    """Return an LNNP with random weights or those of ``init``; Lightning itself loads ``last``."""
    import torch

    from cgal_plugin.training.chunked import ChunkedLNNP
    from cgal_plugin.training.prepare import load_weights, make_priors

    known = None if last is None else last.checkpoint
    hparams, priors = make_priors(prepared, known or init, frozen=known is None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        module: LightningModule = ChunkedLNNP(hparams, prior_model=priors or None)
    if last is None:
        if init is None:
            start_at_zero(module)
        else:
            load_weights(module, init)
    return module


def _metrics(trainer: Any, number: int, seconds: float) -> dict[str, Any]:
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"{', '.join(sorted(bad))} not finite after epoch {number}: training diverged. Lower lr, set "
            "gradient_clipping (1 to 10), or remove frames with extreme forces"
        )
    values["epoch"] = number
    values["seconds"] = round(seconds, 3)
    for stage in ("train", "val"):
        if f"{stage}_neg_dy_mse_loss" in values:
            values[f"{stage}_force_rmse"] = math.sqrt(values[f"{stage}_neg_dy_mse_loss"])
    return values
