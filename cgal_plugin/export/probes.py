"""Frames on which tables and compiled kernels are compared with the exact network: chains that can occur.

A network is meaningless where beads overlap: there it has large activations that cancel, and single
precision and tables look worse than they ever are in a simulation. The frames therefore have the bonds of
the molecule and no contacts that its repulsion forbids. One frame has pairs on both sides of the cutoffs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.export.tables import exact_filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: beads of a probe frame: the first of the molecule
PROBE_BEADS = 16
_CHAINS = 4
_TRIES = 60
#: closest distance of beads that are not bonded, Å, and the same relative to the longest bond
_CLOSEST = 3.0
_CLOSEST_BONDS = 1.25
#: bonds without a bond prior, Å: between residues of one or two beads, else between atoms
_CA_CA = 3.8
_ATOMS = 1.5


def pair_terms(potential: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Any]]:
    """Yield pair terms with the beads i, j of their entries, for both forms of a potential."""
    n = potential.n_beads
    if hasattr(potential, "pair_terms"):
        i, j = np.divmod(potential.pair.numpy(), n)
        for term in potential.pair_terms.children():
            yield i, j, term
        return
    at = 0
    for term in potential.bond_terms.children():
        i, j = np.sort(potential.bond_ends[:, at : at + len(term.first)].numpy(), axis=0)
        yield i, j, term
        at += len(term.first)
    for term in potential.repulsions.children():
        i, j = np.divmod(np.arange(n * n), n)
        yield i, j, term


def bond_lengths(potential: Any, topology: CGTopology) -> dict[tuple[int, int], float]:
    """Return the length (Å) of each bond, from the bond prior of an exported potential if it has one."""
    beads = np.bincount(topology.residue_index)
    found = {}
    for i, j in topology.bond_index.tolist():
        a, b = topology.residue_index[[i, j]]
        found[i, j] = _CA_CA if a != b and max(beads[a], beads[b]) <= 2 else _ATOMS
    for first, second, term in pair_terms(potential):
        if getattr(term, "power", None) != 0:
            continue
        k, r0 = term.first.double().numpy(), term.second.double().numpy()
        for i, j, force, length in zip(first.tolist(), second.tolist(), k, r0, strict=True):
            if force != 0.0 and (i, j) in found:
                found[i, j] = float(length)
    return found


def probe_frames(potential: Any, topology: CGTopology) -> NDArray[np.float64]:
    """Return probe frames ``(n, min(n_beads, 16), 3)`` Å for an exported potential.

    Compact to extended chains, a frame with distances on both sides of both cutoffs, and one with
    neighbours only in the last Å below the cutoff, where filters are small.
    """
    filters = exact_filters(potential.network)
    lower, upper = float(filters.filter_lower), float(filters.upper)
    n = min(PROBE_BEADS, topology.n_beads)
    bonds = {pair: r for pair, r in bond_lengths(potential, topology).items() if max(pair) < n}
    closest = min(_CLOSEST, _CLOSEST_BONDS * max(bonds.values(), default=_CA_CA))
    rng = np.random.default_rng(20)
    frames = [_chain(n, bonds, closest, k / (_CHAINS - 1), rng) for k in range(_CHAINS)]
    edges = [edge + d for edge in (lower, upper) for d in (0.02, -0.02) if edge + d >= closest]
    # without a lower cutoff all forces at the upper one are tiny, and no error is small relative to them
    if not any(edge < 0.5 * (lower + upper) for edge in edges):
        edges.append(max(closest, 0.5 * upper))
    gaps = np.resize(edges, n)
    frames.append(np.cumsum(gaps)[:, None] * np.array([1.0, 0.0, 0.0]))
    gaps = upper - np.minimum(np.linspace(0.2, 1.0, n), 0.5 * (upper - lower))
    frames.append(np.cumsum(gaps)[:, None] * np.array([1.0, 0.0, 0.0]))
    return np.stack(frames)


def _chain(
    n: int, bonds: dict[tuple[int, int], float], closest: float, stretch: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Grow a chain bead by bead; of the allowed places take the most central (``stretch`` 0) or farthest."""
    x = np.zeros((n, 3))
    for bead in range(1, n):
        partner, length = next(((i, r) for (i, j), r in bonds.items() if j == bead), (bead - 1, 5.0))
        ways = rng.normal(size=(_TRIES, 3))
        ways *= length * rng.normal(1.0, 0.02, _TRIES)[:, None] / np.linalg.norm(ways, axis=1, keepdims=True)
        places = x[partner] + ways
        others = np.delete(np.arange(bead), partner)
        gap = np.linalg.norm(places[:, None] - x[others], axis=2).min(axis=1, initial=np.inf)
        spread = np.linalg.norm(places - x[:bead].mean(axis=0), axis=1)
        allowed = np.flatnonzero(gap >= closest)
        if len(allowed) == 0:
            allowed = np.array([gap.argmax()])
        ranked = allowed[np.argsort(spread[allowed], kind="stable")]
        x[bead] = places[ranked[round(stretch * (len(ranked) - 1))]]
    return x
