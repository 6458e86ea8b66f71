"""Several models trained alike, and loading models."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError, TrainingError
from cgal_plugin.provenance import derive_seed
from cgal_plugin.training.run import Progress, TrainingResult, train

if TYPE_CHECKING:
    from torch import nn


def train_ensemble(
    hparams: Mapping[str, Any],
    out_dir: str | os.PathLike[str],
    *,
    n_models: int,
    seed: int,
    init_checkpoints: Sequence[str | os.PathLike[str]] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[TrainingResult]:
    """Train ``n_models`` models that differ in seed (weights, shuffle and split), for a committee.

    Parameters
    ----------
    hparams, options
        As for :func:`~cgal_plugin.training.train`.
    out_dir
        Model n goes to ``model_00n``.
    n_models
        At least 1.
    seed
        Model n's seed is derived from it and n, so adding models leaves the others as they are.
    init_checkpoints
        One a model, or None.
    progress
        Called with the epochs of all models counted together.

    Raises
    ------
    ConfigError
        ``n_models`` is not positive, or there is not one checkpoint a model.
    """
    results = []
    for n, member in enumerate(member_arguments(hparams, out_dir, n_models, seed, init_checkpoints, options)):

        def tick(done: int, total: int, metrics: Mapping[str, Any], n: int = n) -> None:
            if progress is not None:
                progress(n * total + done, n_models * total, metrics)

        results.append(train(**member, progress=tick))
    return results


def member_arguments(
    hparams: Mapping[str, Any],
    out_dir: str | os.PathLike[str],
    n_models: int,
    seed: int,
    init_checkpoints: Sequence[str | os.PathLike[str]] | None,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What :func:`~cgal_plugin.training.train` is called with for each member; see :func:`train_ensemble`."""
    if n_models < 1:
        raise ConfigError(f"n_models is {n_models}; it must be at least 1")
    if init_checkpoints is not None and len(init_checkpoints) != n_models:
        raise ConfigError(f"{len(init_checkpoints)} init_checkpoints for {n_models} models; give one each")
    return [
        {
            "hparams": dict(hparams),
            "out_dir": Path(out_dir) / f"model_{n:03d}",
            "seed": derive_seed(seed, "model", n),
            "init_checkpoint": None if init_checkpoints is None else init_checkpoints[n],
            **options,
        }
        for n in range(n_models)
    ]


def load_model(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    device: str = "cpu",
    derivative: bool = True,
    return_std: bool = False,
    trust: bool = False,
) -> nn.Module:
    """A trained model, ready for inference, after :func:`cgal_plugin.register`.

    Parameters
    ----------
    path
        A checkpoint, or several for TorchMD-Net's ``Ensemble``.
    device
        Where to put it.
    derivative
        Whether it returns forces.
    return_std
        Whether an ensemble returns standard deviations too.
    trust
        Unpickle without restriction, which can run any code that is in the file. TorchMD-Net's and our
        checkpoints do not need it.

    Returns
    -------
    TorchMD_Net or Ensemble
        ``model(z, pos, batch) -> (energy (n_molecules, 1) kcal/mol, forces (n_beads, 3) kcal/mol/Å)``,
        in evaluation mode.

    Raises
    ------
    TrainingError
        A checkpoint is missing, is not one, or needs ``trust``.
    """
    from torchmdnet.models.model import load_model as upstream

    from cgal_plugin import register
    from cgal_plugin.models.torch_files import check_torch
    from cgal_plugin.training.prepare import read_checkpoint

    register()
    single = isinstance(path, str | os.PathLike)
    files = [path] if single else list(path)
    if not files:
        raise TrainingError("no checkpoint to load")
    for file in files:
        if not Path(file).is_file():
            raise TrainingError(f"checkpoint {os.fspath(file)!r} does not exist")
        if str(file).endswith(".zip"):
            check_torch(file, trust=trust, error=TrainingError)
        else:
            read_checkpoint(file, trust=trust)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unknown hyperparameter")
            model = upstream(
                os.fspath(path) if single else [os.fspath(f) for f in files],
                device=device,
                return_std=return_std,
                derivative=derivative,
            )
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        names = ", ".join(os.fspath(f) for f in files)
        raise TrainingError(f"TorchMD-Net cannot make a model of {names}: {error!r}") from error
    return model.eval()
