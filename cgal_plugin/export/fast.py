"""The fast CPU engine: an exported potential as compiled kernels with tabulated filters.

Needs numba (``pip install "cgal_plugin[fast]"``) but no compiler. Filters are interpolated from tables and
evaluated once per pair for both directions, the input of the first block is precomputed per bead, the
backward pass is analytical, and a few replicas at a time are evaluated so that they stay in cache. The
network is evaluated in float32; distances, priors, and sums over pairs and beads in float64. Threads divide
the replicas, or the beads of large ones; results are the same to the last bit for any number of threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ExportError
from cgal_plugin.export.fast_file import FORMAT, FORMAT_VERSION, is_fast_file, read_fast_file
from cgal_plugin.provenance import atomic_write

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import nn

    from cgal_plugin.export.engine.layout import Division
    from cgal_plugin.export.engine.threads import Worker
    from cgal_plugin.export.tables import FilterTable
    from cgal_plugin.mapping.topology import CGTopology

__all__ = ["FastPotential", "fast_available"]

#: largest accepted force error of float32 rounding (without that of the table) when an engine is built;
#: that of torch in float32 is 2e-6 to 3e-5 on the same frames
ROUNDING = 2e-5
_INSTALL = 'pip install "cgal_plugin[fast]"'


def fast_available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def _require_numba() -> None:
    if not fast_available():
        raise ExportError(f"the fast engine needs numba: {_INSTALL}")


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ExportError(f"{name} is {value!r}; it must be a positive integer")
    return int(value)


class FastPotential:
    """Compiled potential: ``potential(positions (R·N, 3) nm) -> energy kJ/mol, forces (R·N, 3) kJ/mol/nm``.

    Create one with :meth:`from_model`, :meth:`from_file` or :meth:`load`. For a replica with non-finite
    positions, energy and forces are NaN; other replicas are not affected. Calls from several Python threads
    wait for each other. Processes that are forked or get a pickled copy start their own threads.

    Attributes
    ----------
    metadata
        Beads, units, versions, and the intervals, tolerance and measured errors of the table.
    n_beads, n_replicas
        Number of beads N of a replica, and of replicas R.
    n_threads
        Largest number of threads; fewer are used where there is too little work for them.

    Raises
    ------
    ExportError
        numba is missing, or ``n_replicas`` or ``n_threads`` is not a positive integer.
    """

    def __init__(
        self, arrays: dict[str, NDArray[Any]], metadata: dict[str, Any], n_replicas: int, n_threads: int = 1
    ) -> None:
        _require_numba()
        self.metadata = metadata
        self.n_replicas = _positive("n_replicas", n_replicas)
        self.n_threads = _positive("n_threads", n_threads)
        self.n_beads = int(metadata["n_beads"])
        self._arrays = arrays
        self._worker: Worker | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_worker": None}

    def evaluate(self, positions: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the energy of each replica ``(R,)`` (kJ/mol) and the forces ``(R·N, 3)`` (kJ/mol/nm).

        Raises
        ------
        ExportError
            ``positions`` is not ``(R·N, 3)`` nm.
        """
        x = np.ascontiguousarray(positions, dtype=np.float64)
        if x.shape != (self.n_replicas * self.n_beads, 3):
            raise ExportError(
                f"positions have shape {x.shape}; {self.n_replicas} replica(s) of {self.n_beads} beads "
                f"need ({self.n_replicas * self.n_beads}, 3)"
            )
        worker = self._worker
        if worker is None or worker.process != os.getpid():
            from cgal_plugin.export.engine.layout import make_model
            from cgal_plugin.export.engine.threads import Worker

            division = self._division()
            worker = self._worker = Worker(make_model(self._arrays, division), division, self.n_replicas)
        return worker(x)

    def __call__(self, positions: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """Return the total energy (kJ/mol) and the forces ``(R·N, 3)`` (kJ/mol/nm).

        Raises
        ------
        ExportError
            ``positions`` is not ``(R·N, 3)``.
        """
        energies, forces = self.evaluate(positions)
        return float(energies.sum()), forces

    def replica_energies(self, positions: ArrayLike) -> NDArray[np.float64]:
        """Return the energy of each replica, ``(R,)`` kJ/mol, at positions ``(R·N, 3)`` nm."""
        return self.evaluate(positions)[0]

    def _division(self) -> Division:
        from cgal_plugin.export.engine.layout import divide

        return divide(self.n_beads, self.n_replicas, self.n_threads)

    def parts(self) -> list[FastPotential]:
        """Return potentials of consecutive replicas that different threads can evaluate independently.

        One for each thread; a single one where threads share a replica. Results do not depend on it.
        """
        division = self._division()
        if division.team > 1 or division.threads == 1:
            return [self]
        limits = [self.n_replicas * k // division.threads for k in range(division.threads + 1)]
        return [self.with_replicas(b - a).with_threads(1) for a, b in pairwise(limits)]

    def with_replicas(self, n_replicas: int) -> FastPotential:
        """Return the same potential for another number of replicas."""
        return FastPotential(self._arrays, self.metadata, n_replicas, self.n_threads)

    def with_threads(self, n_threads: int) -> FastPotential:
        """Return the same potential for another number of threads."""
        return FastPotential(self._arrays, self.metadata, self.n_replicas, n_threads)

    @classmethod
    def from_model(
        cls,
        model_or_ckpt: nn.Module | str | os.PathLike[str],
        topology: CGTopology,
        *,
        n_replicas: int = 1,
        tolerance: float = 1e-6,
        n_threads: int = 1,
    ) -> FastPotential:
        """Build from a trained model or checkpoint.

        Parameters
        ----------
        model_or_ckpt, topology
            As in :func:`cgal_plugin.export.export_potential`.
        tolerance
            Largest force error of the tables, relative to the largest component; checked against the exact
            network in float64.
        n_threads
            Largest number of threads.

        Raises
        ------
        ExportError
            numba is missing, the model cannot be exported or has a neighbour embedding, or no table reaches
            the tolerance.
        """
        _require_numba()
        from cgal_plugin.export.engine_source import source_of_model
        from cgal_plugin.export.loading import differentiable
        from cgal_plugin.export.model_check import check_engine_against_model

        with differentiable():
            model, potential, described = source_of_model(model_or_ckpt, topology)
            found = cls._build(potential, described, n_replicas, tolerance)
            check_engine_against_model(found.with_replicas(1), model, topology)
        return found.with_threads(n_threads)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        n_replicas: int | None = None,
        tolerance: float = 1e-6,
        n_threads: int = 1,
    ) -> FastPotential:
        """Build from a file of ``export_potential``, or load a file of :meth:`save`.

        Default of ``n_replicas``: that of the file; 1 for a portable file, which is for any number.
        Raises the errors of :meth:`from_model` and :meth:`load`.
        """
        if is_fast_file(path):
            return cls.load(path, n_replicas=n_replicas, n_threads=n_threads)
        _require_numba()
        from cgal_plugin.export.loading import differentiable, load_for_engine

        potential, described, table = load_for_engine(path)
        count = int(described.get("n_replicas", 1)) if n_replicas is None else n_replicas
        with differentiable():
            return cls._build(potential, described, count, tolerance, table).with_threads(n_threads)

    @classmethod
    def _build(
        cls,
        potential: Any,
        described: dict[str, Any],
        n: int,
        tolerance: float,
        stored: tuple[FilterTable, float] | None = None,
    ) -> FastPotential:
        from cgal_plugin.export.engine.assemble import assemble, check_engine
        from cgal_plugin.export.engine_source import engine_metadata
        from cgal_plugin.export.probes import probe_frames
        from cgal_plugin.export.tables import check_tolerance, choose_table
        from cgal_plugin.mapping.topology import CGTopology

        network = potential.network
        if getattr(network, "embedding", None) is not None:
            raise ExportError(
                "the fast engine does not support a neighbour embedding; "
                "use backend 'python', or 'torchforce'"
            )
        frames = probe_frames(potential, CGTopology.from_dict(described["topology"]))
        check_tolerance(tolerance)
        if stored is not None and stored[1] < tolerance:
            table, table_error = stored
        else:
            table, table_error = choose_table(network, tolerance, frames)
        arrays = assemble(potential, table)
        metadata = {
            **engine_metadata(described, n, table, tolerance, table_error),
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
        }
        error = check_engine(cls, network, table, metadata, frames)
        if not error < ROUNDING + tolerance:
            raise ExportError(
                f"the fast engine differs from the exact network by {error:.1e} of the largest force, "
                f"more than {ROUNDING + tolerance:.1e}; use backend 'python', or 'torchforce'"
            )
        return cls(arrays, {**metadata, "engine_error": error}, n)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write arrays and metadata to one npz file without pickle; atomically."""
        text = np.frombuffer(json.dumps(self.metadata, sort_keys=True).encode(), dtype=np.uint8)
        content: dict[str, Any] = {"metadata": text, **self._arrays}
        with atomic_write(path) as handle:
            np.savez(handle, **content)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, n_replicas: int | None = None, n_threads: int = 1
    ) -> FastPotential:
        """Load a file of :meth:`save`. Default of ``n_replicas``: that of the file.

        Raises
        ------
        ExportError
            The file is missing, damaged or was not written by :meth:`save`, or numba is missing.
        """
        if not Path(path).is_file():
            raise ExportError(f"potential {str(path)!r} does not exist")
        arrays, metadata = read_fast_file(path)
        count = int(metadata["n_replicas"]) if n_replicas is None else n_replicas
        return cls(arrays, metadata, count, n_threads)
