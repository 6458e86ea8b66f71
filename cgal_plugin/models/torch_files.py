"""Read files of ``torch.save`` safely: without running code by default, and only if they are intact."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from cgal_plugin.damage import archive_damage
from cgal_plugin.errors import CGALError
from cgal_plugin.provenance import BAD_ARCHIVE

#: what reading a damaged or foreign file raises
UNREADABLE: tuple[type[Exception], ...] = (*BAD_ARCHIVE, pickle.UnpicklingError, AttributeError, ImportError)
#: what a user can do with a file that is not read unless it is trusted
TRUST = (
    "If you trust its origin: `cgal train` and `cgal export` have --trust, load_model has trust=True, and "
    "plain_copy of cgal_plugin.training.plain_copy writes a checkpoint that every command reads"
)


def read_torch(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    trust: bool = False,
    error: type[CGALError] = CGALError,
    name: str | None = None,
) -> Any:
    """Return the content of a file written by ``torch.save``, on the CPU, after a check of its checksums.

    Parameters
    ----------
    source
        File name, or open file.
    trust
        Unpickle without restriction, which can run any code. By default torch's restricted unpickler
        creates only tensors, containers, numbers, numpy arrays and argparse's Namespace.
    error
        Exception class to raise.
    name
        Name in messages (default: the file name).

    Raises
    ------
    CGALError
        The file is damaged, cannot be read, or needs ``trust``.
    """
    import torch

    name = name or str(source)
    check_file(source, name, error)
    try:
        with warnings.catch_warnings(), _plain_types():
            warnings.simplefilter("ignore")  # warnings about old pickle protocols
            return torch.load(source, map_location="cpu", weights_only=not trust)
    except UNREADABLE as problem:
        found = re.search(r"GLOBAL (\S+)", str(problem))
        if not trust and found and found[1].startswith("mlcg"):
            raise error(
                f"{name} is a model file of mlcg: make a checkpoint of it with `cgal import-model`"
            ) from problem
        if not trust and found:
            raise error(
                f"{name} is not read, because it would import {found[1]}; such a file can run any code. "
                f"{TRUST}"
            ) from problem
        text = str(problem).splitlines()[-1] if str(problem) else type(problem).__name__
        if "weights_only" in text:  # torch's advice is not for users of this package
            text = "it is not a file of torch.save, or it is damaged"
        raise error(f"{name} cannot be read as a checkpoint: {text}") from problem


def check_file(source: str | os.PathLike[str] | IO[bytes], name: str, error: type[CGALError]) -> None:
    """Check that a file exists, is intact and is not TorchScript; ``name`` is its name in messages.

    Raises
    ------
    CGALError
        The file is missing, damaged or TorchScript.
    """
    if isinstance(source, str | os.PathLike) and not os.path.isfile(source):
        raise error(f"{name} does not exist, or is not a file")
    _check_intact(source, name, error)
    if is_script(source):
        raise error(
            f"{name} is a TorchScript file, such as an exported potential, and not a checkpoint: give the "
            "checkpoint (epoch_*.ckpt, or model.ckpt of a run); to run the potential use `cgal simulate` or "
            "add_potential"
        )
    if _is_npz(source):
        raise error(
            f"{name} is an npz file, such as an exported potential or frames, and not a checkpoint: give the "
            "checkpoint (epoch_*.ckpt, or model.ckpt of a run)"
        )


def _is_npz(source: str | os.PathLike[str] | IO[bytes]) -> bool:
    if not isinstance(source, str | os.PathLike) or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _check_intact(source: str | os.PathLike[str] | IO[bytes], name: str, error: type[CGALError]) -> None:
    """Refuse a damaged archive; a file of another kind (torch before 1.6) has no checksums."""
    damage = archive_damage(source) if zipfile.is_zipfile(source) else None
    if not isinstance(source, str | os.PathLike):
        source.seek(0)
    if damage is not None:
        raise error(f"{name} is damaged ({damage}): copy it again, or write it again")


def is_script(source: str | os.PathLike[str] | IO[bytes]) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not isinstance(source, str | os.PathLike) or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextmanager
def _plain_types() -> Iterator[None]:
    import argparse

    import numpy as np
    import torch
    from numpy._core import multiarray

    types: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
    types += [getattr(np.dtypes, n) for n in np.dtypes.__all__]
    for made in (multiarray._reconstruct, multiarray.scalar):
        types += [made, (made, f"numpy.core.multiarray.{made.__name__}")]
    with torch.serialization.safe_globals(types):
        yield


def check_torch(
    path: str | os.PathLike[str], *, trust: bool = False, error: type[CGALError] = CGALError
) -> None:
    """Check that a checkpoint, or each checkpoint of a ``.zip``, is intact; see :func:`read_torch`.

    Call it before code that reads the file without restriction, such as TorchMD-Net's ``load_model``.

    Raises
    ------
    CGALError
        The file is damaged, cannot be read, or a name in the archive points outside the archive.
    """
    if not str(path).endswith(".zip"):
        read_torch(path, trust=trust, error=error)
        return
    try:
        _check_intact(path, str(path), error)
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                parts = PurePosixPath(member.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts:
                    raise error(f"{path}: the name {member!r} points outside the archive")
                if member.endswith(".ckpt"):
                    with archive.open(member) as handle:
                        read_torch(handle, trust=trust, error=error, name=f"{path}:{member}")
    except BAD_ARCHIVE as problem:
        raise error(f"{path} cannot be read: {problem}") from problem
