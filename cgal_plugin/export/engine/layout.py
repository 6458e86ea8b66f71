"""The arrays of a potential, how replicas are divided among threads, and the workspace of each thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.export.engine import arrays as e
from cgal_plugin.export.engine.arrays import Model, Space
from cgal_plugin.export.engine.tree import tree_levels
from cgal_plugin.export.prior_arrays import no_priors

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: rows of features that are evaluated together: enough for efficient matrix products, few enough for the
#: cache
CHUNK_ROWS = 120
#: beads of the smallest molecule whose pairs are searched with a tree
TREE_BEADS = 129
#: a thread that shares a replica with others has at least this number of beads
_BEADS_PER_THREAD = 32
#: threads work on one replica together if that is faster than this share of an ideal speed-up
_TEAM_SPEED = 0.9
#: prior terms per slot, and the largest number of slots
_TERMS_PER_SLOT, _MOST_SLOTS = 4096, 16
#: pairs per bead for which memory is reserved at first, in a molecule with a tree
_PAIRS_PER_BEAD = 40


@dataclass(frozen=True)
class Division:
    """How many threads are used, replicas evaluated together, and threads that share a replica."""

    threads: int
    chunk: int
    team: int


def divide(n_beads: int, n_replicas: int, n_threads: int) -> Division:
    """Divide replicas among at most ``n_threads`` threads."""
    whole = min(n_threads, n_replicas)
    shared = min(n_threads, n_beads // _BEADS_PER_THREAD)
    speed_up = n_replicas / -(-n_replicas // whole)
    if shared > 1 and _TEAM_SPEED * shared > speed_up:
        return Division(shared, 1, shared)
    together = max(1, CHUNK_ROWS // n_beads)
    chunks = whole * -(-n_replicas // (whole * together))
    return Division(whole, -(-n_replicas // chunks), 1)


def _aligned(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a flat copy at the start of a cache line: vectors across two lines take twice as long."""
    size, line = sum(part.size for part in parts), 64
    memory = np.zeros(size + line // 4, dtype=np.float32)
    skip = -memory.ctypes.data % line // 4
    found = memory[skip : skip + size]
    np.concatenate([part.ravel() for part in parts], out=found)
    return found


def make_model(arrays: dict[str, NDArray[Any]], division: Division) -> Model:
    """Return the arrays of a potential for the kernels."""
    # files of format version 1 have no series
    priors = {name: arrays.get(name, nothing) for name, nothing in no_priors().items()}
    sizes = arrays["sizes"].copy()
    sizes[e.N_CHUNK] = division.chunk
    zeros = np.zeros(max(_widths(sizes)), dtype=np.float32)
    priors["pair_index"] = priors["pair_index"].astype(np.int32)
    return Model(
        sizes=sizes,
        scalars=arrays["scalars"],
        weights=_aligned(arrays["weights"], zeros),
        table=_aligned(arrays["table"]),
        start=_aligned(arrays["start"]),
        first_v=_aligned(arrays["first_v"]),
        **priors,
    )


def _widths(sizes: NDArray[np.int64]) -> list[int]:
    """Return the widths of features, filters and hidden layers of the output."""
    layers = e.HEAD + e.BLOCK * int(sizes[e.N_BLOCKS])
    hidden = [int(sizes[layers + e.LAYER * k + e.OUT_WIDTH]) for k in range(int(sizes[e.N_HIDDEN]))]
    return [int(sizes[e.WIDTH]), int(sizes[e.FILTERS]), *hidden]


def make_spaces(model: Model, division: Division, pairs: int = 0) -> list[Space]:
    """Return the workspace of each thread, for at least ``pairs`` pairs per thread."""
    if division.team > 1:
        return [_space(model, division, pairs)] * division.threads
    return [_space(model, division, pairs) for _ in range(division.threads)]


def _space(model: Model, division: Division, pairs: int) -> Space:
    sizes, team = model.sizes, division.team
    n, rows = int(sizes[e.N_BEADS]), division.chunk * int(sizes[e.N_BEADS])
    width, filters, *hidden = _widths(sizes)
    blocks, widest = int(sizes[e.N_BLOCKS]), max(width, filters, *hidden, 0)
    # H, V, SUMMED, SLOPE, SCRATCH, M, M_ODD, HIDDEN, G, SWAP, SWAP_ODD
    lengths = [
        width, blocks * filters, filters, blocks * width, width, filters, filters, 2 * sum(hidden), width,
        widest, widest,
    ]  # fmt: skip
    places = np.concatenate([[0], np.cumsum([length * rows for length in lengths])])
    unused = int(places[-1])
    work = _aligned(np.zeros(unused + team * filters, dtype=np.float32))
    zeros = len(model.weights) - widest
    tree = n >= TREE_BEADS
    levels = tree_levels(n) if tree else 0
    leaves = 2**levels
    nodes = 2 * leaves - 1
    most = _PAIRS_PER_BEAD * n // team if tree else division.chunk * n * (n - 1) // 2
    most = max(most, pairs)
    terms = sum(
        len(index)
        for index in (model.pair_index, model.series_index, model.angle_index, model.dihedral_index)
    )
    slots = max(1, min(_MOST_SLOTS, terms // _TERMS_PER_SLOT)) if tree else 1
    plan = np.zeros(e.PLAN, dtype=np.int64)
    plan[[e.TEAM, e.MOST, e.LEVELS, e.SLOTS]] = team, most, levels, slots
    x_rows = rows if tree else 0
    return Space(
        plan=plan,
        work=work,
        at=np.array([*places[:-1], rows, zeros, unused, widest], dtype=np.int64),
        beads=np.arange(rows),
        x=np.empty((x_rows, 3)),
        span=np.zeros((nodes, 2), dtype=np.int64),
        box=np.zeros((nodes, 6)),
        near=np.zeros(team * leaves, dtype=np.int64),
        leaf_pairs=np.zeros(team * leaves, dtype=np.int64),
        begin=np.zeros(rows, dtype=np.int64),
        stop=np.zeros(rows, dtype=np.int64),
        ends=np.empty((team * most, 2), dtype=np.int32),
        place=np.empty(team * most, dtype=np.float32),
        geometry=np.empty((team * most, 4)),
        dr=np.empty(team * most),
        incoming=np.empty((team * most if team > 1 else 0, 2), dtype=np.int32),
        bad=np.zeros(division.chunk, dtype=np.int64),
        bead_energy=np.empty(rows),
        slot_energy=np.empty(slots),
        slot_forces=np.empty((slots * n if slots > 1 else 0, 3)),
        needed=np.zeros(team, dtype=np.int64),
    )
