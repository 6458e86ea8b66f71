"""Convert an exported potential to the matrices, constants and tables that the kernels read.

The features h are never formed. With h_b = h_0 + Σ_{c<b} (lin_c a_c + bias_c), where a_c is the activation
of block c, the next layers are linear in all activations before them:

    v_b = lin1_b h_b = constant_b(bead) + [a_0 … a_{b−1}] P_b,      P_b = stacked (lin1_b lin_c)ᵀ
    first output layer = constant(bead) + [a_0 … a_{B−1}] P_B
    dE/da_b = [dE/dv_{b+1} … dE/dv_{B−1}, dE/d(first output layer)] Q_b

so that a block is two matrix products in each direction, not three, one after the other. For B blocks of
equal width this takes B(B + 1)/2 products of 128 × 128 in place of 3B − 1 (4 blocks: 10 + 2 of the output
in place of 11 + ½). The products are made in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.export.gpu.sizes import padded
from cgal_plugin.export.prior_arrays import as_array, no_priors, prior_arrays
from cgal_plugin.export.tables import EVEN_SHARE, FilterTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class NetworkArrays:
    """The network of one molecule; matrices ``(in, out)`` and vectors float32, padded to groups of 32.

    Attributes
    ----------
    start
        v of the first block, ``(n_beads, G)``.
    mixing
        P_1 … P_{B−1}, then that of the first output layer; ``mixing_bias`` ``(n_beads, out)`` each.
    inner, inner_bias, inner_back
        lin2 of each block: W, bias, Wᵀ.
    back
        Q_0 … Q_{B−1}.
    layers
        W, bias, Wᵀ of the hidden output layers after the first.
    last
        Weights of the output neuron.
    table
        Flat; see :mod:`cgal_plugin.export.gpu.pairs`.
    scalars
        ``lower, span, decay, share, rest, last_bias, scale, shift``.
    """

    n_beads: int
    kind: int
    intervals: int
    has_hidden: bool
    start: NDArray[np.float32]
    mixing: list[NDArray[np.float32]]
    mixing_bias: list[NDArray[np.float32]]
    inner: list[NDArray[np.float32]]
    inner_bias: list[NDArray[np.float32]]
    inner_back: list[NDArray[np.float32]]
    back: list[NDArray[np.float32]]
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]
    last: NDArray[np.float32]
    table: NDArray[np.float32]
    scalars: dict[str, float]
    priors: dict[str, NDArray[Any]]


def _single(array: Array) -> NDArray[np.float32]:
    """Return float32 padded with zeros along the last axis and, for a matrix of weights, the first."""
    return array.astype(np.float32)


def _pad(array: Array) -> Array:
    """Pad every axis with zeros to a multiple of 32; padded features have no effect."""
    return np.pad(array, [(0, padded(n) - n) for n in array.shape])


def _pad_last(array: Array) -> Array:
    return np.pad(array, [(0, 0), (0, padded(array.shape[1]) - array.shape[1])])


def _matrix(array: Array) -> NDArray[np.float32]:
    return _single(_pad(array))


def network_arrays(potential: Any, table: FilterTable, n_beads: int | None = None) -> NetworkArrays:
    """Return the arrays of a float64 exported potential (scripted or not).

    Parameters
    ----------
    potential
        A ``Potential`` module; only its ``network`` is used if ``n_beads`` is given.
    table
        Cubic table of its filters (:func:`cubic`).
    n_beads
        Use only the first beads of the network and no priors; default: all beads and priors.
    """
    network = potential.network
    n = network.n_beads if n_beads is None else n_beads
    blocks = [
        {name: as_array(getattr(block, name)) for name in ("lin1", "lin2", "lin2_bias", "lin", "lin_bias")}
        for block in network.blocks.children()
    ]
    layers = [(as_array(layer.weight), as_array(layer.bias)) for layer in network.output.children()]
    # everything that reads h: lin1 of the blocks after the first, then the first output layer
    readers = [block["lin1"] for block in blocks[1:]] + [layers[0][0]]
    h = as_array(network.h)[:n]
    start = h @ blocks[0]["lin1"].T
    mixing, mixing_bias = [], []
    for b, reader in enumerate(readers, start=1):
        h = h + blocks[b - 1]["lin_bias"]
        mixing.append(np.concatenate([_pad((reader @ block["lin"]).T) for block in blocks[:b]]))
        mixing_bias.append(h @ reader.T)
    mixing_bias[-1] = mixing_bias[-1] + layers[0][1]
    back = [
        np.concatenate([_pad(reader @ blocks[b]["lin"]) for reader in readers[b:]])
        for b in range(len(blocks))
    ]
    has_hidden = len(layers) > 1
    last = layers[-1][0][0] if has_hidden else np.ones(1)
    span = table.upper - table.lower
    rest = (1.0 - EVEN_SHARE) / (1.0 - math.exp(-table.decay)) if table.decay else 0.0
    return NetworkArrays(
        n_beads=n,
        kind=int(network.kind),
        intervals=table.intervals,
        has_hidden=has_hidden,
        start=_single(_pad_last(start)),
        mixing=[_single(x) for x in mixing],
        mixing_bias=[_single(_pad_last(x)) for x in mixing_bias],
        inner=[_matrix(block["lin2"].T) for block in blocks],
        inner_bias=[_matrix(block["lin2_bias"]) for block in blocks],
        inner_back=[_matrix(block["lin2"]) for block in blocks],
        back=[_single(x) for x in back],
        layers=[(_matrix(w.T), _matrix(bias), _matrix(w)) for w, bias in layers[1:-1]],
        last=_matrix(last),
        table=_table(table),
        scalars={
            "lower": table.lower,
            "span": span,
            "decay": table.decay,
            "share": EVEN_SHARE,
            "rest": rest,
            # a single layer has its bias in `mixing_bias`
            "last_bias": float(layers[-1][1][0]) if has_hidden else 0.0,
            "scale": float(network.scale),
            "shift": float(network.shift),
        },
        priors=prior_arrays(potential) if n_beads is None else no_priors(),
    )


def cubic(filters: Any, intervals: int) -> FilterTable:
    """Return the cubic Hermite table of filters, with the values and slopes of ``FilterTable.build``.

    Two thirds of the coefficients of a quintic: a GPU is limited by the bytes that it reads from the L1
    cache, and its L1 holds the four to six times as many intervals that a cubic needs.
    """
    full = FilterTable.build(filters, intervals)
    c = full.coefficients
    # value and slope at the end of an interval: of its polynomial at t = 1
    value, slope = c[:, :, 0], c[:, :, 1]
    end = c.sum(axis=2)
    end_slope = (c * np.arange(6)[:, None]).sum(axis=2)
    rise = end - value
    two, three = 3.0 * rise - 2.0 * slope - end_slope, slope + end_slope - 2.0 * rise
    nothing = np.zeros_like(value)
    coefficients = np.stack([value, slope, two, three, nothing, nothing], axis=2)
    return FilterTable(coefficients, full.lower, full.upper, full.decay)


def _table(table: FilterTable) -> NDArray[np.float32]:
    """Return ``[block][group][interval][coefficient 4][channel 32]``, flat."""
    c = table.coefficients[:, :, :4]
    blocks, intervals, _, width = c.shape
    full = np.pad(c, [(0, 0), (0, 0), (0, 0), (0, padded(width) - width)])
    grouped = full.reshape(blocks, intervals, 4, -1, 32).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(grouped, dtype=np.float32).ravel()


def bead_terms(index: NDArray[Any], n_beads: int, places: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ``start (n_beads + 1,)`` and ``(term, place)`` rows sorted by bead; see ``Priors``."""
    beads = index[:, :places].ravel()
    terms = np.repeat(np.arange(len(index)), places)
    place = np.tile(np.arange(places), len(index))
    order = np.argsort(beads, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(beads, minlength=n_beads))])
    return start.astype(np.int32), np.stack([terms, place], axis=1)[order].astype(np.int32)
