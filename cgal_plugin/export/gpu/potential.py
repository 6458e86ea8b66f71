"""The GPU engine: an exported potential as Warp kernels with tabulated filters.

Arithmetic of a force call with 128 features, 4 blocks (H100: 3 × 10¹³ FMA/s, L1 128 bytes per cycle and
SM). Matrix products: 24 of 128 × 128 per bead, 0.39 MFMA: 13 ns at the peak. Messages: 4 blocks × 128
channels per neighbour, in both directions 12 FMA and 40 bytes each (4 coefficients and a neighbour's value
twice), 20 KB from L1: 0.7 ns. So 10 beads × 1000 replicas: 130 µs + 65 µs; 269 beads × 128 replicas with
150 neighbours: 0.45 ms + 3.7 ms; these are bounds, not measurements. One molecule is limited by the launches
(28 in one CUDA graph). Distances, priors and sums over beads are in float64, the network in float32; tensor
cores are not used, since Warp offers TF32 only in tile products, which cannot be checked without a GPU.

A full list evaluates each filter twice, once per direction. Half a list would need atomic additions, which
are not deterministic and cost more than the four 16-byte loads that they save; the derivative of a pair is
computed once, half of it in each direction (``gather_back``).
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin._warp import quiet
from cgal_plugin.errors import ExportError
from cgal_plugin.export.gpu.sizes import ALL_PAIRS, Sizes, list_capacity, padded
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import nn

    from cgal_plugin.export.gpu.arrays import NetworkArrays
    from cgal_plugin.mapping.topology import CGTopology

#: largest force error of the table, relative to the largest component
TOLERANCE = 5e-5
#: Å; a smaller skin is rebuilt more often, a larger one has more slots to skip
SKIN = 1.5


class GPUPotential:
    """Kernels on a GPU: ``potential(positions (R·N, 3) nm) -> energy kJ/mol, forces (R·N, 3) kJ/mol/nm``.

    Create one with :meth:`from_model` or :meth:`from_file`. Results are deterministic; on a GPU, those of one
    replica depend on ``n_replicas`` and on the state of the list by rounding (1e-6 of the largest force):
    call :meth:`reset` to repeat a run. Not thread-safe: calls share one workspace. For a replica with
    non-finite positions, energy and forces are NaN; other replicas are not affected.

    Attributes
    ----------
    metadata
        Beads, units, versions, and the intervals, tolerance and measured errors of the table.
    n_beads, n_replicas
        Number of beads N of a replica, and of replicas R.
    device
        ``"cuda:0"``, ...; or ``"cpu"``, Warp's CPU device, which tests the kernels on one thread.
    load_seconds
        Time to compile the kernels or to load them from Warp's cache, s.

    Raises
    ------
    ExportError
        There is no such device, or an argument is invalid.
    """

    def __init__(
        self,
        arrays: NetworkArrays,
        metadata: dict[str, Any],
        n_replicas: int,
        *,
        device: str | None = None,
        skin: float = SKIN,
        capacity: int | None = None,
    ) -> None:
        from cgal_plugin.export.gpu.device import find_device
        from cgal_plugin.export.neighbors import check_skin

        if isinstance(n_replicas, bool) or not isinstance(n_replicas, int | np.integer) or n_replicas < 1:
            raise ExportError(f"n_replicas is {n_replicas!r}; it must be a positive integer")
        if not check_skin(skin):
            raise ExportError(f"skin is {skin!r}; it must be a positive number in Å (default {SKIN})")
        self._device = find_device(device)
        self.device = str(self._device.alias)
        self.metadata, self.n_beads, self.n_replicas = metadata, arrays.n_beads, int(n_replicas)
        self._arrays, self._skin = arrays, float(skin)
        if capacity is None or self.n_beads <= ALL_PAIRS:
            residues = len(set(metadata["topology"]["residue_index"])) if "topology" in metadata else 1
            reach = arrays.scalars["lower"] + arrays.scalars["span"] + self._skin
            capacity = list_capacity(self.n_beads, residues, reach)
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        from cgal_plugin.export.gpu.program import Program, wp

        a = self._arrays
        hidden = [a.mixing[-1].shape[1], *(w.shape[1] for w, _, _ in a.layers)]
        width, filters = a.inner[0].shape[1], a.inner[0].shape[0]
        of = self.n_beads, self.n_replicas, len(a.inner), width, filters, tuple(hidden)
        sizes = Sizes(*of, min(capacity, self.n_beads - 1))
        sizes.check()
        started = time.perf_counter()
        with quiet():
            self._program = Program(a, sizes, self._device, self._skin)
            rows = sizes.rows
            self._positions = wp.zeros(rows, dtype=wp.vec3d, device=self._device)
            self._forces = wp.zeros(rows, dtype=wp.vec3f, device=self._device)
            self._energies = wp.zeros(self.n_replicas, dtype=wp.float64, device=self._device)
            # kernels are compiled here, not inside a capture
            self._program.run(self._positions, self._forces, self._energies)
            self._program.reset_list()
            wp.synchronize_device(self._device)
        self.load_seconds = time.perf_counter() - started
        self._graph: Any = None

    @property
    def memory_bytes(self) -> int:
        """Memory on the device for beads and pairs, without weights and tables (a few MB)."""
        return self._program.sizes.memory

    @property
    def capacity(self) -> int:
        """Slots of the neighbour list per bead; all other beads of a small molecule."""
        return self._program.sizes.capacity

    def compute(self, positions: Any, forces: Any, energies: Any | None = None) -> None:
        """Launch the kernels of one force call; no copy, no allocation and no wait for the host.

        Can be captured in a CUDA graph. After a call, or after many, check :attr:`overflowed`.

        Parameters
        ----------
        positions
            ``warp.array`` of ``vec3d``, ``(R·N,)``, Å, on the device.
        forces
            Result: ``warp.array`` of ``vec3f``, ``(R·N,)``, kcal/mol/Å.
        energies
            Result: ``warp.array`` of ``float64``, ``(R,)``, kcal/mol; None: not computed.
        """
        self._program.run(positions, forces, energies)

    @property
    def overflowed(self) -> bool:
        """Whether a bead had more neighbours than :attr:`capacity` since the last :meth:`grow`.

        Forces since then are wrong. Waits for the device.
        """
        return bool(self._program.buffers["overflow"].numpy()[0] > 0)

    def grow(self) -> None:
        """Enlarge the neighbour list so that what overflowed fits; captured graphs become invalid."""
        needed = max(self.capacity, int(self._program.buffers["overflow"].numpy()[0]))
        # a quarter more: the neighbours of a bead fluctuate
        self._allocate(padded(needed + needed // 4))

    def reset(self) -> None:
        """Forget the neighbour list; it is rebuilt at the next call, which depends on no earlier call."""
        self._program.reset_list()

    def _call(self, positions: ArrayLike) -> None:
        from cgal_plugin.export.gpu.program import wp

        x = np.ascontiguousarray(positions, dtype=np.float64)
        if x.shape != (self.n_replicas * self.n_beads, 3):
            raise ExportError(
                f"positions have shape {x.shape}; {self.n_replicas} replica(s) of {self.n_beads} beads "
                f"need ({self.n_replicas * self.n_beads}, 3)"
            )
        while True:
            self._positions.assign(x * ANGSTROM_PER_NM)
            if self._device.is_cuda and self._graph is None:
                # the kernels are loaded; without this, Warp would load those of other packages
                with wp.ScopedCapture(self._device, force_module_load=False) as capture:
                    self.compute(self._positions, self._forces, self._energies)
                self._graph = capture.graph
            if self._device.is_cuda:
                wp.capture_launch(self._graph)
            else:
                self.compute(self._positions, self._forces, self._energies)
            if not (self._program.has_list and self.overflowed):
                return
            self.grow()

    def __call__(self, positions: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """Return the total energy (kJ/mol) and the forces ``(R·N, 3)`` (kJ/mol/nm).

        Raises
        ------
        ExportError
            ``positions`` is not ``(R·N, 3)``.
        """
        self._call(positions)
        forces = self._forces.numpy().astype(np.float64) * (KJ_PER_KCAL * ANGSTROM_PER_NM)
        return float(self._energies.numpy().sum()) * KJ_PER_KCAL, forces

    def replica_energies(self, positions: ArrayLike) -> NDArray[np.float64]:
        """Return the energy of each replica, ``(R,)`` kJ/mol, at positions ``(R·N, 3)`` nm."""
        self._call(positions)
        energies: NDArray[np.float64] = self._energies.numpy() * KJ_PER_KCAL
        return energies

    def with_replicas(self, n_replicas: int) -> GPUPotential:
        """Return the same potential on the same device for another number of replicas."""
        return GPUPotential(self._arrays, self.metadata, n_replicas, device=self.device, skin=self._skin)

    def memory_of(self, n_replicas: int) -> int:
        """Return the memory (bytes) that ``n_replicas`` replicas would need, as :attr:`memory_bytes`."""
        return dataclasses.replace(self._program.sizes, n_replicas=int(n_replicas)).memory

    @classmethod
    def from_model(
        cls,
        model_or_ckpt: nn.Module | str | os.PathLike[str],
        topology: CGTopology,
        *,
        n_replicas: int = 1,
        tolerance: float = TOLERANCE,
        device: str | None = None,
        skin: float = SKIN,
    ) -> GPUPotential:
        """Build from a trained model or checkpoint, and check the kernels on the device.

        Parameters
        ----------
        model_or_ckpt, topology
            As in :func:`cgal_plugin.export.export_torchscript`.
        tolerance
            Largest force error of the tables, relative to the largest component.
        device
            ``"cuda:0"``, ``"cpu"``, ...; default: the current CUDA device.
        skin
            Of the neighbour list, Å.

        Raises
        ------
        ExportError
            There is no such device, the model cannot be exported or has a neighbour embedding, no table
            reaches the tolerance, or the forces on this device differ from the exact ones.
        """
        from cgal_plugin.export.gpu.build import from_model

        found: GPUPotential = from_model(cls, model_or_ckpt, topology, n_replicas, tolerance, device, skin)
        return found

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        n_replicas: int | None = None,
        tolerance: float = TOLERANCE,
        device: str | None = None,
        skin: float = SKIN,
    ) -> GPUPotential:
        """Build from an exported file; arguments and errors as in :meth:`from_model`.

        Default of ``n_replicas``: that of the file; 1 for a portable file, which is for any number.
        """
        from cgal_plugin.export.gpu.build import from_file

        found: GPUPotential = from_file(cls, path, n_replicas, tolerance, device, skin)
        return found
