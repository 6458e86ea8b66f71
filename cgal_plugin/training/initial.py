"""The start of a training: from a trained model, with its network and priors, or from zero energy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

#: TorchMD-Net keys that the weights of a network belong to
_NETWORK = (
    "model",
    "embedding_dimension",
    "num_layers",
    "num_rbf",
    "rbf_type",
    "activation",
    "cutoff_lower",
    "cutoff_upper",
    "max_z",
    "neighbor_embedding",
    "aggr",
    "reduce_op",
    "output_model",
    "output_mlp_num_layers",
    "distance_influence",
    "attn_activation",
    "num_heads",
    "vector_cutoff",
    "equivariance_invariance_group",
)
#: keys that are taken from the file unless they are given
_TAKEN = ("precision", "trainable_rbf")
#: options of ``cgschnet`` that the weights belong to
_OPTIONS = ("form", "num_filters", "output_layers", "output_bias")


def network_keys(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return the TorchMD-Net keys of the network in the hyper-parameters of a checkpoint."""
    found = {key: hparams[key] for key in _NETWORK if key in hparams}
    options = hparams.get("cgschnet")
    if options:
        found["cgschnet"] = {key: options[key] for key in _OPTIONS if key in options}
    return found


def keys_from(
    given: Mapping[str, Any],
    hparams: Mapping[str, Any],
    path: str | os.PathLike[str],
    section: str = "",
) -> dict[str, Any]:
    """Return training keys completed by the network and the priors of a checkpoint.

    Parameters
    ----------
    given
        TorchMD-Net keys of the training. Not modified.
    hparams
        Hyper-parameters of the checkpoint.
    path
        Checkpoint, for messages.
    section
        Prefix of the keys in messages.

    Raises
    ------
    ConfigError
        A key contradicts the checkpoint.
    """
    theirs = network_keys(hparams)
    options, their_options = dict(given.get("cgschnet") or {}), theirs.pop("cgschnet", {})
    pairs = [(key, given[key], theirs[key]) for key in theirs if given.get(key) is not None]
    pairs += [
        (f"cgschnet.{key}", options[key], value)
        for key, value in their_options.items()
        if options.get(key) is not None
    ]
    for key, ours, value in pairs:
        if not _same(ours, value):
            raise ConfigError(
                f"{section}{key} is {ours!r}, but the network of {os.fspath(path)} has {value!r}: remove the "
                "key, or start from another model"
            )
    found = {**{k: hparams[k] for k in _TAKEN if k in hparams}, **given, **theirs}
    if options or their_options:
        found["cgschnet"] = {**options, **their_options}
    if "prior_model" not in given and hparams.get("prior_model"):
        found["prior_model"] = hparams["prior_model"]
    return found


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list | tuple):
        return isinstance(ours, list | tuple) and list(ours) == list(theirs)
    if isinstance(theirs, float) or isinstance(ours, float):
        try:
            return float(ours) == float(theirs)
        except (TypeError, ValueError):
            return False
    return bool(ours == theirs)


def start_at_zero(module: LightningModule) -> None:
    """Set the last layer of TorchMD-Net's ``Scalar`` head to zero: the model has the energy of its priors.

    A short training keeps much of the random energy that a network starts with: on the same data, the seed
    would move free energies of basins by more than kT. Other heads keep their weights: a training of mlcg's
    form did not get away from zero.
    """
    import torch
    from torchmdnet.models.output_modules import Scalar

    head: Any = cast("Any", module).model.output_model
    if type(head) is Scalar:
        torch.nn.init.zeros_(head.output_network.layers[-1].weight)
