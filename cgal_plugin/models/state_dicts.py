"""Read state dicts and configurations of other programs."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import ConfigError
from cgal_plugin.models.build import MODEL_NAME
from cgal_plugin.models.torch_files import read_torch

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, Any]

#: names that mlcg's configurations use for one value
_ALIASES = {
    "cutoff_upper": ("cutoff_upper", "cutoff", "upper_cutoff", "r_cut", "rc"),
    "cutoff_lower": ("cutoff_lower", "lower_cutoff"),
    "activation": ("activation", "activation_func", "activation_function"),
}


def search(config: Any) -> dict[str, Any]:
    """Return the values of a nested configuration by key of this package; outer levels take precedence."""
    flat: dict[str, Any] = {}
    level: list[Any] = [config]
    while level:
        for section in level:
            for key, value in section.items():
                flat.setdefault(str(key), value)
        level = [v for section in level for v in section.values() if isinstance(v, Mapping)]
    for name, others in _ALIASES.items():
        for other in others:
            if other in flat and not (name.startswith("cutoff") and not isinstance(flat[other], int | float)):
                flat[name] = flat[other]
                break
        else:
            flat.pop(name, None)
    return flat


def unpack(
    source: State | str | os.PathLike[str], hparams: Mapping[str, Any] | Namespace | None, trust: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state dict and the hyper-parameters of a file, checkpoint, module or state dict.

    Raises
    ------
    ConfigError
        The source has no state dict.
    """
    state: Any = source
    if isinstance(source, str | os.PathLike):
        state = read_torch(source, trust=trust, error=ConfigError)
    if hasattr(state, "state_dict") and not isinstance(state, Mapping):
        state = state.state_dict()
    known: dict[str, Any] = {}
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        known = dict(state.get("hyper_parameters") or {})
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise ConfigError("no weights: give a state dict, a checkpoint or its file")
    if hparams is not None and not isinstance(hparams, Mapping):
        hparams = vars(hparams)
    return dict(state), {**known, **(hparams or {})}


def require(known: Mapping[str, Any], *keys: str) -> None:
    """Raise a ConfigError that names missing keys."""
    missing = [k for k in keys if known.get(k) is None]
    if missing:
        raise ConfigError(f"hparams lack {', '.join(missing)}, which are not in the weights")


def activation_name(value: Any) -> str:
    """Return TorchMD-Net's name of an activation given by name, class, module or ``class_path``."""
    from torchmdnet.models.utils import act_class_mapping

    if isinstance(value, Mapping):
        value = value.get("class_path", value)
    if isinstance(value, str):
        name = value.rsplit(".", 1)[-1].removesuffix("()").lower()
    else:
        name = (value if isinstance(value, type) else type(value)).__name__.lower()
    name = {"shiftedsoftplus": "ssp", "shifted_softplus": "ssp"}.get(name, name)
    if name not in act_class_mapping:
        raise ConfigError(f"activation {value!r} is not known; known are {', '.join(act_class_mapping)}")
    return name


def _count(state: State, pattern: str) -> int:
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def sizes(state: State, embedding: str, first_filter: str) -> dict[str, Any]:
    """Return the hyper-parameters that follow from shapes and dtype of the weights."""
    import torch

    table: Tensor = state[embedding]
    bits = {torch.float32: 32, torch.float64: 64}
    if table.dtype not in bits:
        raise ConfigError(f"weights are {table.dtype}; convert them to float32 or float64")
    return {
        "precision": bits[table.dtype],
        "max_z": table.shape[0],
        "embedding_dimension": table.shape[1],
        "num_layers": _count(state, first_filter),
        "num_rbf": state[first_filter.format(0)].shape[1],
        "model": MODEL_NAME,
        "output_model": "Scalar",
    }


def output_layers(state: State, prefix: str) -> dict[str, Any]:
    """Return the options of the output head that follow from its weights."""
    numbers = sorted(_layer_numbers(state, prefix))
    if not numbers or numbers != list(range(0, 2 * len(numbers), 2)):
        raise ConfigError(f"output layers are numbered {numbers}; expected 0, 2, 4, ...")
    *hidden, last = [state[f"{prefix}.{n}.weight"] for n in numbers]
    if last.shape[0] != 1:
        raise ConfigError(f"the last output layer has {last.shape[0]} outputs; an energy has one")
    biased = [f"{prefix}.{n}.bias" in state for n in numbers]
    if not all(biased[:-1]):
        raise ConfigError("hidden output layers without bias are not supported")
    return {"output_layers": [w.shape[0] for w in hidden], "output_bias": biased[-1]}


def _layer_numbers(state: State, prefix: str) -> Iterator[int]:
    for key in state:
        match = re.fullmatch(re.escape(prefix) + r"\.(\d+)\.weight", key)
        if match:
            yield int(match[1])
