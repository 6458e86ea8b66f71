"""Arrays and summaries that the stages of a round write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgal_plugin.damage import check_archive
from cgal_plugin.errors import StateError
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write

_QUANTILES = (5, 25, 50, 75, 95)


def save_arrays(path: Path, **arrays: NDArray[np.generic]) -> Path:
    """Write named arrays to one ``.npz``, atomically; return the path."""
    with atomic_write(path) as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for allow_pickle
    return path


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a file of :func:`save_arrays`.

    Raises
    ------
    StateError
        The file is missing or damaged.
    """
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BAD_ARCHIVE as error:
        raise StateError(f"{path} cannot be read: {error}") from error


def summary(distances: NDArray[np.floating]) -> dict[str, float]:
    """Return number, mean, maximum and quantiles of nearest RMSDs (Å), JSON-ready."""
    quantiles = {f"q{q:02d}": float(np.percentile(distances, q)) for q in _QUANTILES}
    return {"mean": float(distances.mean()), "max": float(distances.max()), "n": len(distances), **quantiles}
