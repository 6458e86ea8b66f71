"""Choice of the backend of a simulation."""

from __future__ import annotations

import logging
from pathlib import Path

from cgal_plugin.dynamics.fast_force import FastForce
from cgal_plugin.dynamics.folder import CHECKPOINT, MANIFEST
from cgal_plugin.dynamics.force import resolve_backend, resolve_for_file
from cgal_plugin.dynamics.potential_metadata import only_fast, read_metadata
from cgal_plugin.errors import DynamicsError
from cgal_plugin.provenance import read_sealed

_LOG = logging.getLogger(__name__)
_ON_CPU = ("Reference", "CPU")


def choose_backend(backend: str, potential: Path, n_replicas: int, platform: str, out_dir: Path) -> str:
    """Return the backend of a simulation; ``"auto"`` depends on potential, platform and ``out_dir``.

    A resumed simulation keeps its backend. A new one on a CPU uses ``"cpu"`` if numba is installed and the
    engine supports the potential; otherwise the choice of :func:`resolve_backend`, and the reason is logged.

    Raises
    ------
    DynamicsError
        See :func:`resolve_backend`.
    """
    if backend != "auto":
        resolve_backend(backend)  # that it is missing is said before anything about the file
        return resolve_for_file(backend, read_metadata(potential), potential)
    started = _started_with(out_dir)
    if started is not None:
        return resolve_backend(started)
    metadata = read_metadata(potential)
    otherwise = "cpu" if only_fast(metadata) else resolve_for_file("auto", metadata, potential)
    if platform not in _ON_CPU:
        return otherwise
    if not only_fast(metadata) and metadata.get("n_replicas", n_replicas) != n_replicas:
        # that backend will reject the file: whether a file is accepted must not depend on numba
        return otherwise
    try:
        resolve_backend("cpu")
    except DynamicsError as error:
        _LOG.info("%s; using backend %r", error, otherwise)
        return otherwise
    try:
        FastForce(potential, n_replicas).build()
    except DynamicsError as error:
        _LOG.warning("%s; using backend %r", error, otherwise)
        return otherwise
    return "cpu"


def _started_with(out_dir: Path) -> str | None:
    manifest = out_dir / MANIFEST
    # without a checkpoint nothing was simulated: the call was refused or killed
    if not (manifest.is_file() and (out_dir / CHECKPOINT).is_file()):
        return None
    try:
        inputs = read_sealed(manifest).get("inputs")
    except (OSError, ValueError, RecursionError):
        return None  # it is reported when the folder is opened
    found = inputs.get("backend") if isinstance(inputs, dict) else None
    return found if isinstance(found, str) else None
