"""Which backend a simulation takes where that is left open."""

from __future__ import annotations

import logging
from pathlib import Path

from cgal_plugin.dynamics.folder import MANIFEST
from cgal_plugin.dynamics.force import FastForce, read_metadata, resolve_backend
from cgal_plugin.errors import DynamicsError
from cgal_plugin.provenance import read_json

_LOG = logging.getLogger(__name__)
_ON_CPU = ("Reference", "CPU")


def choose_backend(backend: str, potential: Path, n_replicas: int, platform: str, out_dir: Path) -> str:
    """The backend of a simulation; ``"auto"`` also looks at the potential, the platform and ``out_dir``.

    A simulation that is continued keeps the backend that it was started with. Otherwise, on a CPU,
    ``"fast"`` is taken where numba is installed and the engine can use the potential; else what
    :func:`resolve_backend` takes, and why is logged.

    Raises
    ------
    DynamicsError
        As :func:`resolve_backend`.
    """
    if backend != "auto":
        return resolve_backend(backend)
    started = _started_with(out_dir)
    if started is not None:
        return resolve_backend(started)
    otherwise = resolve_backend("auto")
    if platform not in _ON_CPU:
        return otherwise
    metadata = read_metadata(potential)
    if "engine_error" not in metadata and metadata.get("n_replicas", n_replicas) != n_replicas:
        return otherwise  # which refuses the file: what is accepted must not depend on numba being there
    try:
        resolve_backend("fast")
    except DynamicsError as error:
        _LOG.info("%s; using backend %r", error, otherwise)
        return otherwise
    try:
        FastForce(potential, n_replicas).build()
    except DynamicsError as error:
        _LOG.warning("%s; using backend %r", error, otherwise)
        return otherwise
    return "fast"


def _started_with(out_dir: Path) -> str | None:
    manifest = out_dir / MANIFEST
    if not manifest.is_file():
        return None
    content = read_json(manifest)
    # what is no manifest of ours is refused later, with its name
    inputs = content.get("inputs") if isinstance(content, dict) else None
    found = inputs.get("backend") if isinstance(inputs, dict) else None
    return found if isinstance(found, str) else None
