"""Sizes and index files that say which frames are for training, validation and test."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDES = ("idx_train", "idx_val", "idx_test")
_SIZES = ("train_size", "val_size", "test_size")


def split_counts(n: int, sizes: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of frames for ``train_size``, ``val_size`` and ``test_size``.

    Parameters
    ----------
    n
        Number of frames.
    sizes
        The three keys, as :func:`size_number` returns them. An integer is a number of frames; a float is a
        fraction, 0 to 1; None (for one of them) is what the others leave.

    Raises
    ------
    ConfigError
        A size is not allowed, two are None, or they need more frames than there are.
    """
    counts: dict[str, int] = {}
    for key in _SIZES:
        size = size_number(key, sizes[key])
        if size is not None:
            counts[key] = round(size * n) if isinstance(size, float) else size
    rest = [key for key in _SIZES if key not in counts]
    if len(rest) > 1:
        raise ConfigError(
            f"{' and '.join(rest)} are missing; give a fraction such as 0.1 or a number of frames (only one "
            "of the sizes can be null: it gets the other frames)"
        )
    # fractions that add up to 1 may be rounded up to one frame too many, which one of the sets gives up
    excess = sum(counts.values()) - n
    shares = [float(sizes[key]) for key in counts if isinstance(sizes[key], float) or not counts[key]]
    if 0 < excess <= 2 and len(shares) == len(counts) and sum(shares) <= 1.0 + 1e-9:
        counts[max(key for key in counts if counts[key] > excess)] -= excess
    wanted = ", ".join(f"{key} {sizes[key]}" for key in counts)
    if sum(counts.values()) > n:
        raise ConfigError(f"{wanted} need {sum(counts.values())} frames; the data set has {n}")
    if rest:
        counts[rest[0]] = n - sum(counts.values())
    return counts


def size_number(key: str, size: Any) -> int | float | None:
    """Return a size as a number; text is converted as on TorchMD-Net's command line.

    Raises
    ------
    ConfigError
        It is not a number, or is out of range.
    """
    if isinstance(size, str):
        try:
            size = None if size in ("None", "null") else float(size) if not size.isdigit() else int(size)
        except ValueError as error:
            raise ConfigError(f"{key} is {size!r}; it must be a fraction or a number of frames") from error
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float | np.integer | np.floating):
        raise ConfigError(f"{key} is {size!r}; it must be a fraction such as 0.1 or a number of frames")
    if not (math.isfinite(size) and size >= 0):
        raise ConfigError(f"{key} is {size}; it must not be negative")
    if isinstance(size, int | np.integer):
        return int(size)
    if size > 1:
        whole = f"{key}: {int(size)}" if float(size).is_integer() else "an integer"
        raise ConfigError(f"{key} is the fraction {size}, above 1; for a number of frames write {whole}")
    return float(size)


def read_splits(
    splits: str | os.PathLike[str] | Mapping[str, Any], n_items: int, n_frames: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """Read which items are for training, validation and test.

    Parameters
    ----------
    splits
        ``.npz`` file, or mapping, with ``idx_train``, ``idx_val`` and (optionally) ``idx_test``: integer
        indices ``(k,)``, or boolean masks ``(n_items,)``.
    n_items
        Number of items of the data set.
    n_frames
        Number of different frames, if the data set repeats frames: masks may have this length as well.

    Returns
    -------
    dict
        Indices of the three sets, int64. Items that are in no set are not used.

    Raises
    ------
    ConfigError
        The file cannot be read, a set is missing or empty, an array is neither indices nor a mask, an index
        is out of range, or an item is both in the training set and in another.
    """
    name = "splits" if isinstance(splits, Mapping) else f"splits {os.fspath(splits)!r}"
    arrays = dict(splits) if isinstance(splits, Mapping) else _read(Path(splits).expanduser(), name)
    missing = [key for key in SIDES[:2] if key not in arrays]
    if missing:
        raise ConfigError(
            f"{name} has no {' and no '.join(missing)}; it must have idx_train, idx_val and idx_test "
            f"(it has {', '.join(sorted(map(str, arrays))) or 'nothing'})"
        )
    lengths = {n_items} if n_frames is None else {n_items, n_frames}
    sides = {key: _indices(arrays.get(key, ()), f"{name}: {key}", lengths, n_items) for key in SIDES}
    for key in SIDES[:2]:
        if len(sides[key]) == 0:
            raise ConfigError(f"{name}: {key} is empty; training needs at least one frame in it")
    for other in SIDES[1:]:
        both = np.intersect1d(sides["idx_train"], sides[other])
        if both.size:
            raise ConfigError(
                f"{name}: {both.size} items are in idx_train and in {other} (first: {both[0]}); each must be "
                "in one set, or the validation is on training data"
            )
    return sides


def checked_splits(
    n_items: int, sizes: Mapping[str, Any], splits: Any, path: str | os.PathLike[str] | None
) -> tuple[NDArray[np.int64], ...] | None:
    """Check the sizes, or read the splits and write them to ``path``; for TorchMD-Net's ``make_splits``.

    Returns
    -------
    Indices for training, validation and test; None without splits.

    Raises
    ------
    ConfigError
        See :func:`split_counts` and :func:`read_splits`.
    """
    if splits is None:
        split_counts(n_items, {key: size_number(key, size) for key, size in sizes.items()})
        return None
    sides = read_splits(splits, n_items)
    if path is not None:
        write_splits(path, sides)
    return tuple(sides[key] for key in SIDES)


def write_splits(path: str | os.PathLike[str], sides: Mapping[str, NDArray[np.int64]]) -> None:
    """Write the ``.npz`` file for TorchMD-Net's key ``splits``."""
    with atomic_write(path) as handle:
        np.savez(handle, idx_train=sides["idx_train"], idx_val=sides["idx_val"], idx_test=sides["idx_test"])


def _read(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{name} does not exist")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ConfigError(f"{name} is one array; it must be an .npz with idx_train, idx_val and idx_test")
        with content as archive:
            return {key: archive[key] for key in archive.files}
    except BAD_ARCHIVE as error:
        raise ConfigError(f"{name} cannot be read as .npz: {error}") from error


def _indices(values: Any, name: str, lengths: set[int], n_items: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0 and array.dtype != np.bool_:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ConfigError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; it must have integer indices or a "
            "boolean mask, in one dimension"
        )
    if array.dtype == np.bool_:
        if len(array) not in lengths:
            sizes = " or ".join(str(n) for n in sorted(lengths))
            raise ConfigError(f"{name} is a mask of length {len(array)}; the data set has {sizes} items")
        return np.flatnonzero(array).astype(np.int64)
    if array.min() < 0 or array.max() >= n_items:
        raise ConfigError(
            f"{name} has indices from {array.min()} to {array.max()}; the data set has items 0 to "
            f"{n_items - 1}"
        )
    return array.astype(np.int64)
