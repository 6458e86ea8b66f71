"""Convert an exported potential to the flat arrays that the kernels read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.export.engine.dense import pack
from cgal_plugin.export.engine.simd import LANES
from cgal_plugin.export.prior_arrays import as_array as _array
from cgal_plugin.export.prior_arrays import no_priors, prior_arrays
from cgal_plugin.export.tables import (
    EVEN_SHARE,
    FilterTable,
    exact_filters,
    reference_forces,
    relative_error,
)
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

if TYPE_CHECKING:
    from numpy.typing import NDArray


def padded(n: int) -> int:
    """Return the next multiple of LANES."""
    return -(-n // LANES) * LANES


def _pad(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pad every axis with zeros to a multiple of LANES; padded features have no effect."""
    return np.pad(array, [(0, padded(n) - n) for n in array.shape])


class _Flat:
    """A flat float32 array that grows; :meth:`put` returns offsets."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float32]] = []
        self.size = 0

    def put(self, values: NDArray[Any]) -> int:
        """Append values and return their offset."""
        at = self.size
        self.parts.append(values.astype(np.float32).ravel())
        self.size += values.size
        return at

    def matrix(self, weight: NDArray[np.float64]) -> tuple[int, int]:
        """Append a weight ``(out, in)``; return the offsets for x Wᵀ and for x W."""
        return self.put(pack(_pad(weight.T))), self.put(pack(_pad(weight)))


def assemble(potential: Any, table: FilterTable, n_beads: int | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of a float64 exported potential (scripted or not).

    Parameters
    ----------
    potential
        A ``Potential`` module; only its ``network`` is used if ``n_beads`` is given.
    table
        Table of its filters.
    n_beads
        Use only the first beads of the network and no priors; default: all beads and priors.
    """
    network = potential.network
    n = network.n_beads if n_beads is None else n_beads
    flat = _Flat()
    blocks, filters = [], 0
    for block in network.blocks.children():
        lin1, lin2, lin = (_array(w) for w in (block.lin1, block.lin2, block.lin))
        filters = padded(lin1.shape[0])
        blocks += [*flat.matrix(lin1)]
        forward, back = flat.matrix(lin2)
        blocks += [forward, flat.put(_pad(_array(block.lin2_bias))), back]
        forward, back = flat.matrix(lin)
        blocks += [forward, flat.put(_pad(_array(block.lin_bias))), back]
    layers = [(_array(layer.weight), _array(layer.bias)) for layer in network.output.children()]
    for weight, bias in layers[:-1]:
        forward, back = flat.matrix(weight)
        blocks += [padded(weight.shape[0]), forward, flat.put(_pad(bias)), back]
    blocks += [1, flat.put(_pad(layers[-1][0][0]))]
    start = _pad(_array(network.h))[:n]
    first_v = start @ _pad(_array(next(network.blocks.children()).lin1)).T
    n_blocks = len(list(network.blocks.children()))
    head = [n, n_blocks, start.shape[1], filters, table.intervals, int(network.kind)]
    coefficients = np.pad(
        table.coefficients, [(0, 0), (0, 0), (0, 0), (0, filters - table.coefficients.shape[3])]
    )
    span = table.upper - table.lower
    scalars = [table.lower, span, EVEN_SHARE, table.decay, ANGSTROM_PER_NM]
    scalars += [float(network.scale), float(network.shift), float(layers[-1][1][0]), KJ_PER_KCAL]
    arrays: dict[str, NDArray[Any]] = {
        "sizes": np.array([*head, len(layers) - 1, 1, *blocks], dtype=np.int64),
        "scalars": np.array(scalars, dtype=np.float64),
        "weights": np.concatenate(flat.parts),
        "table": coefficients.astype(np.float32).ravel(),
        "start": start.astype(np.float32),
        "first_v": first_v.astype(np.float32),
    }
    return arrays | (prior_arrays(potential) if n_beads is None else no_priors())


class _NetworkOnly:
    def __init__(self, network: Any) -> None:
        self.network = network


def check_engine(
    make: Any,
    network: Any,
    table: FilterTable,
    metadata: dict[str, Any],
    frames: NDArray[np.float64],
) -> float:
    """Return the relative force error of the engine on probe frames against the exact float64 network."""
    arrays = assemble(_NetworkOnly(network), table, n_beads=frames.shape[1])
    engine = make(arrays, {**metadata, "n_beads": frames.shape[1]}, 1)
    unit = KJ_PER_KCAL * ANGSTROM_PER_NM
    errors = []
    for frame in frames:
        found = engine(frame / ANGSTROM_PER_NM)[1] / unit
        errors.append(relative_error(found, reference_forces(network, exact_filters(network), frame)))
    return max(errors)
