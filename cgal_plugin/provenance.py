"""Hashes, versions, seeds, and atomic writing of files."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np

#: exceptions of numpy and zipfile for a damaged archive
BAD_ARCHIVE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_PACKAGES = (
    "cgal_plugin",
    "torch",
    "torchmd-net",
    "openmm",
    "acellera-openmmtorch-cpu",
    "acellera-openmmtorch-cu12",
    "acellera-openmmtorch-cu13",
    "mdtraj",
    "numpy",
    "deeptime",
    "cgback",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect results."""
    return dict(_versions())


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def canonical_json(obj: Any) -> str:
    """Return JSON with sorted keys and no white space; equal objects give equal text."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_jsonable, allow_nan=False)


def _jsonable(obj: Any) -> Any:
    if isinstance(obj, np.generic):
        return obj.item()
    if isinstance(obj, np.ndarray):
        return obj.tolist()
    if isinstance(obj, Path):
        return str(obj)
    raise TypeError(f"{type(obj).__name__} is not JSON serialisable")


def hash_object(obj: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of ``obj``."""
    return hashlib.sha256(canonical_json(obj).encode()).hexdigest()


def hash_array(*arrays: np.ndarray) -> str:
    """Return the SHA-256 (hex) of dtypes, shapes and bytes of the arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_path(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file, or of names and content in a folder, without hidden files."""
    root = Path(path)
    if not root.is_dir():
        return hash_file(root)
    names = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    visible = sorted(n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts))
    return hash_object({name: hash_file(root / name) for name in visible})


def hash_content(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file's content; of a checkpoint, only of its tensors.

    The hyper-parameters of a checkpoint hold absolute paths, so that its bytes depend on its folder.
    """
    if not str(path).endswith(".ckpt") or not zipfile.is_zipfile(path):
        return hash_file(path)
    with zipfile.ZipFile(path) as archive:
        members = sorted((m.filename.partition("/")[2], m) for m in archive.infolist())
        tensors = [
            [name, hashlib.sha256(archive.read(m)).hexdigest()]
            for name, m in members
            if name.startswith("data/")
        ]
    return hash_object(tensors)


def derive_seed(root: int, *names: str | int) -> int:
    """Derive a 31-bit seed for a named random stream of a run.

    Equal arguments give equal seeds; different names give practically independent streams (SHA-256).
    """
    digest = hashlib.sha256(canonical_json([root, *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", *, sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` when the block succeeds.

    A crash leaves the old file or none. Missing parent folders are created. Without ``sync`` a power failure
    may lose the content; use this for files with a checksum.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(fd, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            if sync:
                os.fsync(handle.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_path(path: str | os.PathLike[str], write: Callable[[str], Any]) -> None:
    """Write ``path`` as :func:`atomic_write` does, with a writer that takes a file name.

    Called as ``write(temporary_name)``.

    The temporary name keeps the suffix of ``path``, because mdtraj and numpy choose the format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        write(str(temporary))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(
    path: str | os.PathLike[str], obj: Mapping[str, Any] | list[Any], *, sync: bool = True
) -> None:
    """Write ``obj`` as indented JSON, atomically; see :func:`atomic_write`."""
    with atomic_write(path, "w", sync=sync) as handle:
        json.dump(obj, handle, indent=2, sort_keys=True, default=_jsonable)
        handle.write("\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file."""
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def write_sealed(path: str | os.PathLike[str], obj: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write JSON as :func:`write_json` does, with a checksum of the content in the key ``seal``."""
    write_json(path, sealed(obj), sync=sync)


def sealed(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-ready content with its checksum in the key ``seal``."""
    content = json.loads(json.dumps(obj, default=_jsonable))
    return {**content, "seal": _seal(content)}


def unsealed(content: Any, *, required: bool = False) -> dict[str, Any]:
    """Return the content of :func:`sealed` without the seal, after a check.

    Without a seal, return all content, unless it is ``required``.

    Raises
    ------
    ValueError
        The content is not a mapping, its checksum is wrong, or a required one is missing.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__} where an object was expected")
    rest = {key: value for key, value in content.items() if key != "seal"}
    if required and "seal" not in content:
        raise ValueError("it has no checksum: it was edited, or is not a file of this package")
    if "seal" in content and content["seal"] != _seal(rest):
        raise ValueError("its content is not what was written (checksum)")
    return rest


def read_sealed(path: str | os.PathLike[str], *, required: bool = False) -> dict[str, Any]:
    """Read a file of :func:`write_sealed`; return its content without the seal.

    A file without a seal is accepted, unless it is ``required``.

    Raises
    ------
    ValueError
        The file is not a JSON object, its checksum is wrong, or a required one is missing.
    """
    return unsealed(read_json(path), required=required)


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
