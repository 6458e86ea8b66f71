"""Copy a checkpoint without what could run code."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cgal_plugin.errors import CGALWarning
from cgal_plugin.provenance import atomic_path
from cgal_plugin.training.prepare import read_checkpoint


def plain_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the weights and settings of a checkpoint whose other content could run code; return ``target``.

    The file is unpickled without restriction: use this only with a file whose origin you trust. An existing
    ``target`` is kept.

    Warns
    -----
    CGALWarning
        Settings are left out because they are neither numbers, text nor tensors.

    Raises
    ------
    TrainingError
        The file is not a checkpoint of TorchMD-Net.
    """
    import torch

    path = Path(target)
    if path.exists():
        return path
    content = read_checkpoint(source, trust=True)
    kept = {key: value for key, value in content["hyper_parameters"].items() if _is_plain(value)}
    left_out = sorted(set(content["hyper_parameters"]) - set(kept))
    if left_out:
        warnings.warn(
            f"{os.fspath(source)}: settings {', '.join(left_out)} are left out of the copy {path}: they are "
            "neither numbers, text nor tensors",
            CGALWarning,
            stacklevel=2,
        )
    facts = content.get("cgal_plugin")
    facts = {"cgal_plugin": facts} if isinstance(facts, dict) and _is_plain(facts) else {}
    weights = {name: value for name, value in content["state_dict"].items() if torch.is_tensor(value)}
    atomic_path(
        path, lambda name: torch.save({"state_dict": weights, "hyper_parameters": kept, **facts}, name)
    )
    return path


def _is_plain(value: object) -> bool:
    import torch

    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str) or torch.is_tensor(value)
