"""Refuse TorchMD-Net settings that CGSchNet or CGDataset cannot meet, before anything is trained."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.build import MODEL_NAME, build_model

if TYPE_CHECKING:
    from cgal_plugin.mapping.topology import CGTopology

DATASET = "CGDataset"
#: keys that only other architectures of TorchMD-Net read
_OTHER_MODELS = {
    "distance_influence": "transformer",
    "attn_activation": "transformer",
    "num_heads": "transformer",
    "vector_cutoff": "equivariant-transformer",
    "equivariance_invariance_group": "tensornet",
    "static_shapes": "tensornet",
}
_CUSTOM_FILES = ("coord_files", "embed_files", "energy_files", "force_files")
_MONITORS = ("checkpoint_monitor", "early_stopping_monitor")


def check_supported(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check the keys of a training with model cgschnet or data set CGDataset.

    Parameters
    ----------
    values
        All keys of TorchMD-Net. A missing key counts as its default.
    defaults
        Defaults of TorchMD-Net's command line.

    Raises
    ------
    ConfigError
        A setting cannot be met; the message names it, the value and the remedy.
    """
    get = {**defaults, **values}.get
    model, dataset = get("model"), get("dataset")
    for key, what in (("charge", "charges"), ("spin", "spins")):
        if get(key) and (model == MODEL_NAME or dataset == DATASET):
            where = f"model {model}" if model == MODEL_NAME else f"dataset {dataset}"
            raise ConfigError(f"{key} is {get(key)}; {where} has no {what}: set {key}: false")
    if model == MODEL_NAME:
        for key, owner in _OTHER_MODELS.items():
            if key in defaults and get(key) != defaults[key]:
                raise ConfigError(
                    f"{key} is {get(key)!r}; it is a key of model {owner}, and {MODEL_NAME} ignores it: "
                    "remove it"
                )
    elif get("cgschnet"):
        raise ConfigError(
            f"cgschnet is {get('cgschnet')!r}, but model is {model}: remove cgschnet, or set model: cgschnet"
        )
    if dataset == DATASET:
        _check_dataset(get)
    _check_loss(get("train_loss"), get("train_loss_arg"))


def _check_dataset(get: Callable[[str], Any]) -> None:
    for key in _CUSTOM_FILES:
        if get(key) is not None:
            raise ConfigError(
                f"{key} is a key of dataset Custom, and {DATASET} ignores it: use dataset_arg with coords, "
                "forces and topology"
            )
    if get("standardize"):
        raise ConfigError(
            f"standardize is true; {DATASET} has forces and no energies to standardize: set it to false"
        )
    if get("output_model") != "Scalar":
        raise ConfigError(f"output_model is {get('output_model')!r}; forces need an energy: use Scalar")
    for key in ("y_weight", "neg_dy_weight"):
        weight = get(key)
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{key} is {weight}; it must be 0 or more")
    if get("y_weight"):
        raise ConfigError(
            f"y_weight is {get('y_weight')}; {DATASET} has forces and no energies: set y_weight: 0"
        )
    if get("neg_dy_weight") == 0:
        raise ConfigError(
            f"neg_dy_weight is 0, so there is nothing to train on: {DATASET} has forces only; set "
            "neg_dy_weight: 1"
        )


def _check_loss(name: Any, argument: Any) -> None:
    from torchmdnet.loss import loss_class_mapping

    if name is None:
        return
    if name not in loss_class_mapping:
        raise ConfigError(f"train_loss is {name!r}; allowed are {', '.join(loss_class_mapping)}")
    options = loss_options(argument)
    allowed = set(inspect.signature(loss_class_mapping[name]).parameters) & {"reduction", "delta"}
    for key, value in options.items():
        if key not in allowed:
            raise ConfigError(
                f"train_loss_arg.{key} is not an option of {name}; allowed are {', '.join(sorted(allowed))}"
            )
        if key == "reduction" and value not in ("mean", "sum"):
            raise ConfigError(f"train_loss_arg.reduction is {value!r}; allowed are mean, sum")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key == "delta" and not (number and math.isfinite(value) and value > 0):
            raise ConfigError(f"train_loss_arg.delta is {value!r}; it must be a number above 0")


def loss_options(argument: Any) -> dict[str, Any]:
    """Return the key ``train_loss_arg`` as a mapping; JSON text is allowed.

    Raises
    ------
    ConfigError
        The value is neither a mapping nor JSON text of one.
    """
    return mapping_of("train_loss_arg", argument, "{delta: 1.0}")


def mapping_of(key: str, value: Any, example: str) -> dict[str, Any]:
    """Return the value of a key as a mapping; JSON text of one and None are allowed.

    Raises
    ------
    ConfigError
        The value is neither; the message shows ``example``.
    """
    wrong = f"{key} is {value!r}; it must be a mapping, such as {example}"
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(wrong) from error
    if not isinstance(found or {}, Mapping):
        raise ConfigError(wrong)
    return dict(found or {})


def monitors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys ``checkpoint_monitor`` and ``early_stopping_monitor`` for the loss of the training.

    TorchMD-Net offers only ``val_total_mse_loss`` and ``train_total_mse_loss``, which it measures with
    ``train_loss: mse_loss`` only. With another loss they mean the total of that loss. None for early stopping
    means that there is none.

    Raises
    ------
    ConfigError
        A monitor is not measured by this training.
    """
    loss = values["train_loss"]
    found: dict[str, Any] = {}
    for key in _MONITORS:
        given = values.get(key)
        if given is None and key == "early_stopping_monitor":
            found[key] = None
            continue
        name = f"val_total_{loss}" if given is None else str(given)
        if name in ("val_total_mse_loss", "train_total_mse_loss"):
            name = name.replace("mse_loss", loss)
        allowed = [f"val_total_{loss}", f"train_total_{loss}", "val_total_l1_loss"]
        if name not in allowed:
            raise ConfigError(
                f"{key} is {given!r}; with train_loss {loss} it can be {', '.join(dict.fromkeys(allowed))}"
            )
        found[key] = name
    return found


def check_bead_types(max_z: int, topology: CGTopology) -> None:
    """Check that the embedding table has a row for each bead type.

    Raises
    ------
    ConfigError
        ``max_z`` is too small.
    """
    largest = int(topology.types.max())
    if largest >= max_z:
        raise ConfigError(
            f"max_z is {max_z}, but bead types of {topology!r} go up to {largest}: set max_z to at least "
            f"{largest + 1} (default 100)"
        )


def try_model(values: Mapping[str, Any], topology: CGTopology) -> Any:
    """Build the network of a training once, without priors, so that bad sizes are found now; return it.

    Raises
    ------
    ConfigError
        A value is not allowed for model cgschnet, or ``max_z`` is too small for the bead types.
    """
    import torch
    from torchmdnet.models.model import create_model

    check_bead_types(int(values["max_z"]), topology)
    if values["model"] == MODEL_NAME:
        build: Any = build_model
    else:
        build = create_model
    with torch.random.fork_rng(devices=[]):
        try:
            return build({**values, "prior_model": None, "prior_args": None})
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise ConfigError(f"model {values['model']} cannot be built: {error}") from error
