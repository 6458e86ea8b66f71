"""The launches of one force call, in order, over arrays that are allocated once.

About 28 launches for four blocks. None of them allocates or waits for the host, so that all of them can be
captured in a CUDA graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import warp

from cgal_plugin.export.gpu import dense, forces, pairs
from cgal_plugin.export.gpu.arrays import NetworkArrays, bead_terms
from cgal_plugin.export.gpu.native import ROWS, Lanes
from cgal_plugin.export.gpu.priors import Priors
from cgal_plugin.export.gpu.sizes import ALL_PAIRS, Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Warp's methods are not typed
wp: Any = warp
#: with fewer rows, one product is split over more threads (arithmetic: a split product reads all weights
#: for each row, 8 ns of L2 traffic; a blocked one takes some 3 µs at least)
_SPLIT_ROWS = 300


class Program:
    """Arrays and launches of a network with ``sizes`` on a device.

    ``overflow`` (1,) int32 is the largest number of neighbours that did not fit, or 0.
    """

    def __init__(self, arrays: NetworkArrays, sizes: Sizes, device: Any, skin: float) -> None:
        self._arrays, self.sizes, self._device = arrays, sizes, device
        self._lanes = Lanes.of(device.is_cuda)
        self._kinds = {np.float32: wp.float32, np.float64: wp.float64, np.int32: wp.int32}
        self.buffers = {
            name: wp.zeros(n, dtype=self._kinds[kind], device=device)
            for name, (n, kind) in sizes.buffers().items()
            if name != "built"
        }
        self.buffers["built"] = wp.zeros(sizes.rows, dtype=wp.vec3d, device=device)
        self.has_list = sizes.n_beads > ALL_PAIRS
        upper = arrays.scalars["lower"] + arrays.scalars["span"]
        self._reach, self._limit = (upper + skin) ** 2, (0.5 * skin) ** 2 if self.has_list else np.inf
        self._priors = self._put_priors()
        self._one = self._put(np.ones(max(sizes.width, *sizes.hidden)))
        self._zero = self._put(np.zeros(max(sizes.width, sizes.filters, *sizes.hidden)))
        self._last = self._put(arrays.last)
        self._table = self._put(arrays.table)
        self._fixed: list[Any] = []
        self._set_constants()
        self._record()

    def _put(self, values: NDArray[Any], kind: type[np.generic] = np.float32) -> Any:
        """Copy an array to the device; rows of matrices stay rows."""
        flat = np.ascontiguousarray(values, dtype=kind)
        return wp.array(
            flat.reshape(-1) if kind is np.float32 else flat, dtype=self._kinds[kind], device=self._device
        )

    def _put_priors(self) -> Priors:
        found, n, p = self._arrays.priors, self.sizes.n_beads, Priors()
        for name, of in (("pair", found["pair_index"]), ("series", found["series_index"])):
            start, terms = bead_terms(of, n, 2)
            term, place = terms.T
            # the other bead, and the power or the row
            index = np.stack([of[term, 1 - place], of[term, 2]], axis=1)
            setattr(p, f"{name}_start", self._put(start, np.int32))
            setattr(p, f"{name}_index", self._put(index, np.int32))
            if name == "pair":
                p.pair_value = self._put(found["pair_value"][term], np.float64)
        p.series_value = self._put(found["series_value"], np.float64)
        for name, places in (("angle", 3), ("dihedral", 4)):
            index, value = found[f"{name}_index"], found[f"{name}_value"]
            start, terms = bead_terms(index, n, places)
            setattr(p, f"{name}_start", self._put(start, np.int32))
            setattr(p, f"{name}_term", self._put(terms, np.int32))
            setattr(p, f"{name}_index", self._put(index, np.int32))
            setattr(
                p,
                f"{name}_value",
                self._put(value.reshape(len(value), int(np.prod(value.shape[1:]))), np.float64),
            )
        return p

    def _set_constants(self) -> None:
        """Write what no launch changes: v of the first block, the list of all pairs, a constant gradient."""
        s, a = self.sizes, self._arrays
        v = np.zeros((s.n_replicas, s.n_beads, s.blocks, s.filters), dtype=np.float32)
        v[:, :, 0] = a.start
        self.buffers["v"].assign(v.ravel())
        if not a.has_hidden:
            gradient = np.zeros((s.rows, s.gradient), dtype=np.float32)
            gradient[:, (s.blocks - 1) * s.filters] = a.scalars["scale"]
            self.buffers["gradient"].assign(gradient.ravel())
        if self.has_list:
            self.reset_list()
            return
        bead, slot = np.divmod(np.arange(s.n_beads * s.capacity), max(1, s.capacity))
        other = slot + (slot >= bead)
        back = other * s.capacity + bead - (bead > other)
        first = np.arange(s.n_replicas)[:, None] * s.n_beads * s.capacity
        self.buffers["count"].fill_(s.capacity)
        self.buffers["neighbor"].assign(np.tile(other, s.n_replicas).astype(np.int32))
        self.buffers["reverse"].assign((first + back).astype(np.int32).ravel())

    def reset_list(self) -> None:
        """Forget the list: the next call builds it."""
        self.buffers["built"].fill_(wp.vec3d(np.nan, np.nan, np.nan))
        self.buffers["overflow"].zero_()

    def _launch(self, kernel: Any, dim: int, inputs: list[Any], block: int = 128) -> None:
        command = wp.launch(kernel, dim, inputs, device=self._device, block_dim=block, record_cmd=True)
        self._fixed.append(command)

    def _product(
        self,
        x: tuple[str, int, int],
        w: NDArray[np.float32],
        y: tuple[str, int, int],
        mode: int = dense.LINEAR,
        bias: Any = None,
        gain: Any = None,
        other: tuple[str, int, int] | None = None,
    ) -> None:
        """Add y = epilogue(x w); x, y and ``other`` are name of a buffer, stride and offset of its rows."""
        rows, (size, width) = self.sizes.rows, w.shape
        split = rows < _SPLIT_ROWS
        kernel = dense.product_split if split else dense.product_blocked
        threads = rows * (width // 32) * self._lanes.count if split else -(-rows // ROWS) * (width // 4)
        bias_rows = 1 if bias is None or bias.ndim == 1 else len(bias)
        name, stride, at = other or y
        inputs = [
            self.buffers[x[0]], x[1], x[2], self._put(w), rows, size, width, mode, self._arrays.kind,
            self._zero if bias is None else self._put(bias), bias_rows, self._one if gain is None else gain,
            self.buffers[name], stride, at, self.buffers[y[0]], y[1], y[2],
            self._lanes.width, self._lanes.parts,
        ]  # fmt: skip
        self._launch(kernel, threads, inputs)

    def _record(self) -> None:
        """Record all launches between pair geometry and forces."""
        s, a = self.sizes, self._arrays
        v, active, derivative = s.blocks * s.filters, s.blocks * s.width, s.blocks * s.width
        for b in range(s.blocks):
            self._gather(b)
            slope = "derivative", derivative, b * s.width
            to = "active", active, b * s.width
            x = "message", s.filters, 0
            self._product(x, a.inner[b], to, dense.ACTIVATE, a.inner_bias[b], other=slope)
            if b < s.blocks - 1:
                to = "v", v, (b + 1) * s.filters
                self._product(("active", active, 0), a.mixing[b], to, bias=a.mixing_bias[b])
        self._readout()
        for b in range(s.blocks - 1, -1, -1):
            slope = "derivative", derivative, b * s.width
            to = "scratch", s.width, 0
            self._product(("gradient", s.gradient, b * s.filters), a.back[b], to, dense.MULTIPLY, other=slope)
            self._product(to, a.inner_back[b], ("message", s.filters, 0))
            self._gather_back(b)

    def _readout(self) -> None:
        """Record the output MLP and its gradient, which goes to the end of each row of ``gradient``."""
        s, a = self.sizes, self._arrays
        end = "gradient", s.gradient, (s.blocks - 1) * s.filters
        x = "active", s.blocks * s.width, 0
        w, bias = a.mixing[-1], a.mixing_bias[-1]
        if not a.has_hidden:
            self._product(x, w, ("out0", s.hidden[0], 0), bias=bias)
            return
        last = len(s.hidden) - 1
        slopes = [end if last == 0 else ("out_slope0", s.hidden[0], 0)]
        slopes += [(f"out_slope{k}", s.hidden[k], 0) for k in range(1, last + 1)]
        gain = self._put(a.last.astype(np.float64) * a.scalars["scale"])
        for k in range(last + 1):
            if k > 0:
                w, bias = a.layers[k - 1][0], a.layers[k - 1][1]
            to = f"out{k}", s.hidden[k], 0
            self._product(x, w, to, dense.ACTIVATE, bias, gain if k == last else None, slopes[k])
            x = to
        for k in range(last, 0, -1):
            # the slope of the layer before is replaced by its gradient
            to = end if k == 1 else slopes[k - 1]
            self._product(slopes[k], a.layers[k - 1][2], to, dense.MULTIPLY, other=slopes[k - 1])

    def _list(self) -> list[Any]:
        b, s = self.buffers, self.sizes
        return [s.n_beads, s.capacity, b["count"], b["pair"], b["place"], self._table]

    def _gather(self, block: int) -> None:
        b, s, k = self.buffers, self.sizes, self._arrays.intervals
        dim = s.groups * s.rows * self._lanes.count
        at = block * s.groups * k * 128
        v = [b["v"], s.blocks * s.filters, block * s.filters]
        tail = [self._lanes.width, self._lanes.parts, b["message"], s.filters]
        self._launch(pairs.gather, dim, [*self._list(), at, k, *v, *tail], 256)

    def _gather_back(self, block: int) -> None:
        b, s, k = self.buffers, self.sizes, self._arrays.intervals
        dim = s.groups * s.rows * self._lanes.count
        at = block * s.groups * k * 128
        v = [b["v"], s.blocks * s.filters, block * s.filters]
        m = [b["message"], s.filters, s.groups, int(block == s.blocks - 1)]
        # the first block needs no gradient of its input
        y = [b["slope"], b["gradient"], s.gradient, (block - 1) * s.filters if block > 0 else -1]
        lanes = [self._lanes.width, self._lanes.parts]
        self._launch(pairs.gather_back, dim, [*self._list(), at, k, *v, *m, *lanes, *y], 256)

    def run(self, positions: Any, result: Any, energies: Any | None) -> None:
        """Launch everything; see ``GPUPotential.compute``."""
        b, s, c, device = self.buffers, self.sizes, self._arrays.scalars, self._device
        lanes, slots = self._lanes.count, s.rows * s.capacity

        def launch(kernel: Any, dim: int, *inputs: Any) -> None:
            wp.launch(kernel, dim, list(inputs), device=device, block_dim=128)

        state = b["lost"], b["stale"]
        launch(
            pairs.check, s.n_replicas * lanes, positions, b["built"], s.n_beads, self._limit, lanes, *state
        )
        if self.has_list:
            found = b["built"], b["count"], b["neighbor"], b["overflow"]
            sizes = b["stale"], s.n_beads, s.capacity
            launch(pairs.find_neighbors, s.rows, positions, *sizes, self._reach, *found)
            launch(pairs.find_reverse, slots, *sizes, b["count"], b["neighbor"], b["reverse"])
        table = c["lower"], c["span"], c["decay"], c["share"], c["rest"]
        of, k = (s.n_beads, s.capacity, b["count"]), self._arrays.intervals
        launch(pairs.place_pairs, slots, positions, *of, b["neighbor"], *table, k, b["pair"], b["place"])
        for command in self._fixed:
            command.launch()
        network = b[f"out{len(s.hidden) - 1}"], self._last, c["last_bias"], c["scale"]
        launch(
            forces.bead_forces, s.rows * lanes, positions, *of, b["pair"], b["reverse"], b["slope"],
            s.groups, k, *table, *network, self._priors, b["lost"], lanes, result, b["energy"],
        )  # fmt: skip
        if energies is not None:
            dim = s.n_replicas * lanes
            launch(forces.replica_energies, dim, b["energy"], s.n_beads, c["shift"], lanes, energies)
