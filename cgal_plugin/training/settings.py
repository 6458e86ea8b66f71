"""Check TorchMD-Net's hyper-parameters and complete them with defaults for CG force matching."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError, TrainingError
from cgal_plugin.models.build import MODEL_DEFAULTS, MODEL_NAME
from cgal_plugin.models.supported import check_supported, loss_options, mapping_of, monitors

if TYPE_CHECKING:
    from cgal_plugin.data.several import Root
    from cgal_plugin.priors import PriorSet

#: defaults of :func:`~cgal_plugin.training.train` that differ from TorchMD-Net's (which ``cgal-train`` uses)
CG_DEFAULTS: dict[str, Any] = {
    **{k: v for k, v in MODEL_DEFAULTS.items() if k not in ("prior_args",)},
    "model": MODEL_NAME,
    "dataset": "CGDataset",
    # force matching: CG energies are free energies, for which there are no labels
    "y_weight": 0.0,
    "neg_dy_weight": 1.0,
    "num_epochs": 30,
    "batch_size": 128,
    "lr": 1e-3,
    "lr_factor": 0.5,
    "lr_patience": 4,
    "lr_min": 1e-6,
    "early_stopping_patience": 30,
    "train_size": None,
    "val_size": 0.1,
    "test_size": 0.0,
    "num_workers": 0,
}
#: keys of torchmd-train that train() replaces
_NOT_HERE = {
    "load_model": "use init_checkpoint with mode='finetune', or cgal-train --load-model",
    "load_weights": "use init_checkpoint with mode='finetune'",
    "reset_trainer": "use init_checkpoint with mode='finetune'",
    "conf": "pass the file's content as hparams",
    "redirect": "train() prints nothing",
    "log_dir": "pass out_dir",
    "seed": "pass seed",
}


def resolve(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return all keys of TorchMD-Net: given values, else defaults of this package, else of TorchMD-Net.

    Text is converted as on TorchMD-Net's command line (YAML reads ``1e-4`` as text).

    Parameters
    ----------
    hparams
        TorchMD-Net YAML keys, and ``cgschnet``. Not modified.

    Raises
    ------
    ConfigError
        A key is unknown, or a value cannot be converted or is not among the choices.
    """
    from cgal_plugin import register

    register()
    from torchmdnet.scripts.train import get_argparse

    actions = {a.dest: a for a in get_argparse()._actions if a.dest != "help"}
    for key in hparams:
        if key in _NOT_HERE:
            raise ConfigError(f"{key} is not a key of train(): {_NOT_HERE[key]}")
        if key not in actions and key != "prior_args":
            near = difflib.get_close_matches(str(key), list(actions), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{key} is not a TorchMD-Net key{hint} (see torchmd-train --help)")
    values = {key: action.default for key, action in actions.items()}
    values |= CG_DEFAULTS
    values |= {key: _convert(key, value, actions.get(key)) for key, value in hparams.items()}
    for key in ("conf", "redirect"):
        values.pop(key)
    if values["inference_batch_size"] is None:
        values["inference_batch_size"] = values["batch_size"]
    _check(values)
    check_supported(values, {key: action.default for key, action in actions.items()})
    values["train_loss_arg"] = loss_options(values["train_loss_arg"]) or None
    return values | monitors(values)


def store_keys(given: Mapping[str, Any], store: Root, priors: PriorSet | None) -> dict[str, Any]:
    """Return the keys of a training on data stores: mean forces are weighted by their error.

    Parameters
    ----------
    given
        Keys of the user. Not modified.
    store
        Data store, or a list of data stores.
    priors
        Fitted or imported priors, or None for the key ``prior_model``.

    Raises
    ------
    ConfigError
        A key names other data than the store, or the priors are given twice or are for other data.
    """
    from cgal_plugin.data.dataset_facts import dataset_facts
    from cgal_plugin.data.several import store_paths

    paths = store_paths(store)
    names = [os.fspath(path) for path in paths]
    options = dataset_options(given.get("dataset_arg"))
    root = given.get("dataset_root")
    other_root = root is not None and [p.resolve() for p in store_paths(root)] != [p.resolve() for p in paths]
    wrong = {
        "dataset": given.get("dataset") not in (None, "CGDataset"),
        "dataset_root": other_root,
        "dataset_arg.stores": options.get("stores") is not None,
        "dataset_arg.coords": options.get("coords") is not None,
        "dataset_arg.forces": options.get("forces") is not None,
    }
    for key, other in wrong.items():
        if other:
            raise ConfigError(
                f"{key} names other data than the data store {', '.join(map(repr, names))}, which is trained "
                "on: remove the key, or use cgal-train"
            )
    keys = {**given, "dataset": "CGDataset", "dataset_root": names[0] if len(names) == 1 else names}
    keys["dataset_arg"] = {"repeat": "error", **options}
    if priors is not None:
        if given.get("prior_model"):
            raise ConfigError("priors are given twice: as a prior file and as prior_model; remove one")
        topologies, temperature = dataset_facts(keys["dataset_root"], None)
        made = [priors.for_topology(t, temperature, say=k == 0) for k, t in enumerate(topologies)]
        # of several molecules, each batch has the index tables
        keys["prior_model"] = (made[0] if len(made) == 1 else priors).to_prior_model()
    return keys


def dataset_options(value: Any) -> dict[str, Any]:
    """Return the key ``dataset_arg`` of CGDataset as a mapping; JSON text is allowed, as in TorchMD-Net.

    Raises
    ------
    ConfigError
        The value is neither a mapping nor JSON text of one.
    """
    return mapping_of("dataset_arg", value, "{sources: [seed]}")


def _convert(key: str, value: Any, action: argparse.Action | None) -> Any:
    if action is None or value is None:
        return value
    kind = action.type
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif isinstance(value, str) and kind in (int, float):
        try:
            value = kind(value)
        except ValueError as error:
            raise ConfigError(f"{key} is {value!r}; it must be a number") from error
    if kind in (int, float) and not isinstance(value, kind):
        raise ConfigError(f"{key} is {value!r}; it must be {'an integer' if kind is int else 'a number'}")
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}; it must be true or false")
    if action.choices is not None and value not in action.choices:
        raise ConfigError(f"{key} is {value!r}; allowed are {', '.join(map(str, action.choices))}")
    return value


def _check(values: Mapping[str, Any]) -> None:
    for key in ("num_epochs", "batch_size", "inference_batch_size"):
        if values[key] < 1:
            raise ConfigError(f"{key} is {values[key]}; it must be at least 1")
    for key in ("lr", "lr_min"):
        if not values[key] > 0:
            raise ConfigError(f"{key} is {values[key]}; it must be above 0")
    if values["neg_dy_weight"] > 0 and not values["derivative"]:
        raise ConfigError("derivative is false, so there are no forces to match; set derivative: true")
    for key in ("early_stopping_patience", "lr_patience", "lr_warmup_steps"):
        if values[key] < 0:
            raise ConfigError(f"{key} is {values[key]}; it must be 0 or more")
    for key in ("ngpus", "num_nodes"):
        if values[key] > 1:
            raise ConfigError(
                f"{key} is {values[key]}; train() uses one device: use cgal-train, or remove it"
            )
    if values["test_interval"] > 0:
        raise ConfigError(
            f"test_interval is {values['test_interval']}; train() does not use the test set: use cgal-train, "
            "or remove it"
        )
    if values["wandb_use"]:
        raise ConfigError(
            "wandb_use works with cgal-train only; use tensorboard_use, or the file metrics.csv"
        )
    if values["remove_ref_energy"]:
        raise TrainingError("remove_ref_energy needs data with energies; use cgal-train for such data")
