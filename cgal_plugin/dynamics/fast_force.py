"""The fast engine as a callable for OpenMM's PythonForce."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cgal_plugin.errors import DynamicsError, ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.export.fast import FastPotential


def load_fast(
    path: str | os.PathLike[str], n_replicas: int | None = None, n_threads: int = 1
) -> FastPotential:
    """Return ``FastPotential.from_file`` for these replicas and threads; default: the replicas of the file.

    The tables of the last file are kept: the choice of a backend and the simulation both need them.
    """
    stamp: tuple[int, ...] = ()
    if os.path.exists(path):
        found = os.stat(path)
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
    potential = _tabulated(os.fspath(path), stamp)
    if n_replicas is not None:
        potential = potential.with_replicas(n_replicas)
    return potential.with_threads(n_threads)


@functools.lru_cache(maxsize=1)
def _tabulated(path: str, stamp: tuple[int, ...]) -> FastPotential:
    from cgal_plugin.export.fast import FastPotential

    return FastPotential.from_file(path)


class FastForce:
    """An exported potential in the fast engine as a callable for PythonForce; picklable."""

    def __init__(
        self, path: str | os.PathLike[str], n_replicas: int | None = None, n_threads: int = 1
    ) -> None:
        self.path = str(Path(path).resolve())
        self.n_replicas = n_replicas
        self.n_threads = n_threads
        self._potential: FastPotential | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_potential": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # pickled by a version with one thread
        self.__dict__.update({"n_threads": 1} | state)

    def build(self) -> None:
        """Build tables and compile, so that errors are raised before the dynamics.

        Raises
        ------
        DynamicsError
            The file cannot be used by the fast engine.
        """
        try:
            self._potential = load_fast(self.path, self.n_replicas, self.n_threads)
        except ExportError as error:
            raise DynamicsError(f"backend 'fast' cannot use {self.path!r}: {error}") from error

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return energy (kJ/mol) and forces (kJ/mol/nm) of a State."""
        if self._potential is None:
            self.build()
        return cast("FastPotential", self._potential)(state.getPositions(asNumpy=True)._value)
