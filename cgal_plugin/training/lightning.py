"""Additions to the DataModule of TorchMD-Net and to the Trainer of Lightning, used by train()."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Sampler
from torchmdnet.data import DataModule

from cgal_plugin import interrupts
from cgal_plugin.data.loader import batch_loader
from cgal_plugin.errors import ConfigError, TrainingError
from cgal_plugin.provenance import derive_seed


class EpochSampler(Sampler[int]):
    """A permutation that depends only on seed and epoch, so that a resumed training uses the same order.

    Parameters
    ----------
    size
        Number of items.
    seed
        Seed of the training.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffle", self.epoch))
        # in parts, because a list of all numbers would need 40 bytes per item
        for part in torch.split(torch.randperm(self.size, generator=generator), 65536):
            yield from part.tolist()


class SeededDataModule(DataModule):  # type: ignore[misc]  # torchmdnet has no types
    """TorchMD-Net's data module with :class:`EpochSampler` for the training set.

    Parameters
    ----------
    hparams
        Hyper-parameters of TorchMD-Net.
    dataset
        Data set. None: the one named in ``hparams``.
    seed
        Seed of the training.
    """

    def __init__(self, hparams: dict[str, Any], dataset: Any, seed: int) -> None:
        super().__init__(hparams, dataset)
        self.shuffle_seed = seed
        self.epoch = 0

    def setup(self, stage: str) -> None:
        """Load and split the data on the first call; Lightning calls it before every epoch."""
        if not hasattr(self, "idx_train"):
            super().setup(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the current ``epoch``."""
        sampler = EpochSampler(len(self.train_dataset), self.shuffle_seed)
        sampler.epoch = self.epoch
        return batch_loader(
            self.train_dataset,
            batch_size=self.hparams["batch_size"],
            sampler=sampler,
            num_workers=self.hparams["num_workers"],
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return the validation set, in order; the test set is not used in training."""
        return [
            batch_loader(
                self.val_dataset,
                batch_size=self.hparams["inference_batch_size"],
                num_workers=self.hparams["num_workers"],
            )
        ]


class FiniteLoss(Callback):
    """Stop at the first loss that is not finite, before weights are saved."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of the batch, and whether a signal is pending."""
        interrupts.check()
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {float(loss)} in epoch {trainer.current_epoch}, batch {batch_idx}: "
                "training diverged. Lower lr, set gradient_clipping (1 to 10), or remove frames with "
                "extreme forces"
            )


class FusedOptimizer(Callback):
    """Use the fused AdamW on CPUs: one call per update instead of ten per parameter."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the option of the optimizer, which LNNP or a checkpoint has created."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if "fused" in group and all(p.device.type == "cpu" for p in group["params"]):
                    group["fused"] = True


class Stamp(Callback):
    """Write provenance into each checkpoint, under the key ``cgal_plugin``."""

    def __init__(self, provenance: dict[str, Any]) -> None:
        self.provenance = provenance

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the provenance."""
        checkpoint["cgal_plugin"] = self.provenance


def make_trainer(
    hparams: dict[str, Any],
    folder: Path,
    max_epochs: int,
    provenance: dict[str, Any],
    device: str = "auto",
) -> Trainer:
    """Return a Lightning Trainer on one device that prints nothing and writes no files."""
    callbacks: list[Callback] = [FiniteLoss(), FusedOptimizer(), Stamp(provenance)]
    if hparams["early_stopping_monitor"] is not None:
        callbacks.append(
            EarlyStopping(hparams["early_stopping_monitor"], patience=hparams["early_stopping_patience"])
        )
    return Trainer(
        max_epochs=max_epochs,
        accelerator=device,
        devices=1,
        default_root_dir=folder,
        callbacks=callbacks,
        logger=_logger(hparams, folder) or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        precision=hparams["precision"],
        gradient_clip_val=hparams["gradient_clipping"],
        inference_mode=False,
        # in a Slurm job Lightning's default would interpret SIGUSR1 as a request to requeue the job
        plugins=[LightningEnvironment()],
        use_distributed_sampler=False,
    )


def _logger(hparams: dict[str, Any], folder: Path) -> TensorBoardLogger | None:
    """Return a TensorBoard logger if ``tensorboard_use`` is set, with the file names of torchmd-train."""
    if not hparams["tensorboard_use"]:
        return None
    try:
        return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "tensorboard_use needs TensorBoard: pip install 'cgal_plugin[tensorboard]', or set it to false"
        ) from error


def fit(trainer: Trainer, module: LightningModule, data: DataModule, checkpoint: Path | None) -> None:
    """Call ``trainer.fit``; Ctrl-C raises KeyboardInterrupt and the signal handler is restored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(
            module, data, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True
        )
    except SystemExit as error:
        if error.code == 1 and trainer.interrupted:
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning, PyG and TorchMD-Net; errors are raised as usual."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", module=r"(lightning|torch_geometric|torchmdnet|torch)(\.|$)")
        warnings.filterwarnings(
            "ignore", message=r".*(num_workers|does not have many workers|logging interval).*"
        )
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
