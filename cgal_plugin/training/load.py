"""Load trained models."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgal_plugin.data.temperature import same_temperature
from cgal_plugin.errors import TrainingError
from cgal_plugin.mapping.embedding import check_same_embedding

if TYPE_CHECKING:
    from torch import nn


def load_model(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    device: str = "cpu",
    derivative: bool = True,
    return_std: bool = False,
    trust: bool = False,
) -> nn.Module:
    """Load a trained model for inference; calls :func:`cgal_plugin.register`.

    Parameters
    ----------
    path
        A checkpoint, or several for TorchMD-Net's ``Ensemble``.
    device
        Device of the model.
    derivative
        Whether the model returns forces.
    return_std
        Whether an ensemble also returns standard deviations.
    trust
        Unpickle without restriction, which can run any code in the file. Checkpoints of TorchMD-Net and of
        this package do not need it.

    Returns
    -------
    TorchMD_Net or Ensemble
        ``model(z, pos, batch) -> (energy (n_molecules, 1) kcal/mol, forces (n_beads, 3) kcal/mol/Å)``,
        in evaluation mode. Its attribute ``cgal_temperature`` is the temperature of its training data (K;
        None if the file does not record it), ``cgal_embedding`` the name of the embedding of its bead types,
        ``cgal_types`` the names of those that it was trained on (None: not recorded).

    Raises
    ------
    TrainingError
        A checkpoint is missing, is not a checkpoint, or needs ``trust``; or checkpoints of an ensemble are
        for different temperatures or embeddings.
    """
    import torch
    from torchmdnet.models.model import load_model as upstream

    from cgal_plugin import register
    from cgal_plugin.models.torch_files import check_torch
    from cgal_plugin.training.prepare import (
        checkpoint_embedding,
        checkpoint_temperature,
        read_checkpoint,
        trained_types,
    )

    register()
    single = isinstance(path, str | os.PathLike)
    files = [os.fspath(p) for p in ([path] if isinstance(path, str | os.PathLike) else path)]
    if not files:
        raise TrainingError("no checkpoint to load")
    temperature: float | None = None
    embedding: str | None = None
    types: set[str] | None = None
    for file in files:
        if not Path(file).is_file():
            raise TrainingError(f"checkpoint {file!r} does not exist")
        if file.endswith(".zip"):
            check_torch(file, trust=trust, error=TrainingError)
        else:
            content = read_checkpoint(file, trust=trust)
            found, own = checkpoint_temperature(content, file), checkpoint_embedding(content, file)
            temperature = same_temperature(temperature, found, "the ensemble", file, TrainingError)
            check_same_embedding(embedding, own, "the ensemble", file, TrainingError)
            embedding = own
            trained = trained_types(content)
            if trained is not None:
                types = set(trained) if types is None else types & set(trained)
    try:
        # parameters that are created in inference mode could not be differentiated later
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.filterwarnings("ignore", message="Unknown hyperparameter")
            model: nn.Module = upstream(
                files[0] if single else files, device=device, return_std=return_std, derivative=derivative
            )
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise TrainingError(f"TorchMD-Net cannot build a model from {', '.join(files)}: {error!r}") from error
    model.cgal_temperature = temperature  # type: ignore[assignment]  # not a module
    model.cgal_embedding = embedding  # type: ignore[assignment]
    model.cgal_types = None if types is None else sorted(types)  # type: ignore[assignment]
    return model.eval()
