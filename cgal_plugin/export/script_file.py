"""TorchScript files with metadata: script, save and load, without the warnings that torch deprecates it."""

from __future__ import annotations

import json
import os
from typing import Any, cast

import torch

from cgal_plugin._native import no_torchscript_warnings
from cgal_plugin.errors import ExportError
from cgal_plugin.export.script_check import METADATA_FILE, check_script, read_script_metadata
from cgal_plugin.provenance import atomic_write


def save_script(module: torch.nn.Module, path: str | os.PathLike[str], metadata: dict[str, Any]) -> None:
    """Script a module and write it with its metadata; atomically."""
    with no_torchscript_warnings():
        script = torch.jit.script(module)
    extra = {METADATA_FILE: json.dumps(metadata, sort_keys=True)}
    # not save(): the archive would contain the temporary file name, which differs between processes
    with atomic_write(path) as handle:
        handle.write(script.save_to_buffer(_extra_files=extra))  # type: ignore[no-untyped-call] # untyped in torch


def load_script(
    path: str | os.PathLike[str], device: str = "cpu"
) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Load a TorchScript file and its metadata (empty if it has none), after :func:`check_script`.

    Raises
    ------
    ExportError
        The file is damaged, is not TorchScript or is not for potentials, or torch has no TorchScript.
    """
    check_script(path)
    with no_torchscript_warnings():
        try:
            module = torch.jit.load(str(path), device)  # type: ignore[no-untyped-call] # untyped in torch
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{os.fspath(path)!r} is not a TorchScript file: {error}") from error
    return cast("torch.jit.ScriptModule", module), read_script_metadata(path)
