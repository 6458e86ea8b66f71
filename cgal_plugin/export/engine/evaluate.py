"""Energies and forces of all replicas, by one thread or by several that run this code together.

Small molecules: each thread takes a few replicas at a time, so that their data stay in cache. Where replicas
are large and fewer than threads, all threads work on one replica: each owns a range of rows, adds to these
only, and waits for the others where it needs their rows. The result does not depend on the number of
threads, to the last bit: each sum has a fixed order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cgal_plugin.export.engine.arrays import (
    FACTOR,
    FILTERS,
    INTERVALS,
    LEVELS,
    MOST,
    N_BEADS,
    N_BLOCKS,
    N_CHUNK,
    N_ROWS,
    SCALE,
    SHIFT,
    SLOTS,
    SUMMED,
    TEAM,
    UNIT,
    UNUSED,
    M,
    Model,
    Space,
    V,
)
from cgal_plugin.export.engine.jit import Float64s, Int64s, entry, exact_kernel, inlined, kernel
from cgal_plugin.export.engine.messages import gather, pair_forces, push, slopes, slopes_and_gather
from cgal_plugin.export.engine.network import backward, fill, first_features, readout, update
from cgal_plugin.export.engine.pairs import incoming_pairs
from cgal_plugin.export.engine.shares import find_share, own_rows, prior_share, share
from cgal_plugin.export.engine.simd import ORDER
from cgal_plugin.export.engine.team import (
    CALL,
    NEXT_CHUNK,
    NEXT_SLOT,
    TOO_MANY,
    add,
    barrier,
    exchange,
    next_call,
)
from cgal_plugin.export.engine.tree import build_tree


@kernel
def _finite(pos: Float64s, first: int, n: int) -> bool:
    for i in range(first, first + n):
        if not (math.isfinite(pos[i, 0]) and math.isfinite(pos[i, 1]) and math.isfinite(pos[i, 2])):
            return False
    return True


@exact_kernel
def _add_slots(space: Space, n: int, lo: int, hi: int, first: int, forces: Float64s) -> None:
    """Set the forces on rows ``lo .. hi`` to those of the priors."""
    for row in range(lo, hi):
        bead = space.beads[row]
        for c in range(3):
            f = space.slot_forces[bead, c]
            for slot in range(1, space.plan[SLOTS]):
                f += space.slot_forces[slot * n + bead, c]
            forces[first + bead, c] = f


@inlined
def _network(
    model: Model,
    space: Space,
    member: int,
    team: int,
    n_rows: int,
    control: Int64s,
    first_bead: int,
    forces: Float64s,
) -> None:
    """Compute bead energies and add the forces; :func:`find_share` and a barrier come before."""
    sizes, scalars, weights, table, at = model.sizes, model.scalars, model.weights, model.table, space.at
    work, begin, stop, ends = space.work, space.begin, space.stop, space.ends
    place, geometry, incoming, dr = space.place, space.geometry, space.incoming, space.dr
    lo, hi = own_rows(space, team, member, n_rows)
    most, blocks, filters = space.plan[MOST], sizes[N_BLOCKS], sizes[FILTERS]
    first = last = member * most
    if team > 1:
        last = incoming_pairs(begin, stop, ends, lo, hi, first, incoming, first + most)
        space.needed[member] = max(space.needed[member], last - first)
        last = min(last, first + most)
    if space.needed[member] > most:
        exchange(control, TOO_MANY, 1)
    unused = at[UNUSED] + member * filters
    summed, step, stride = at[SUMMED], sizes[INTERVALS] * ORDER * filters, at[N_ROWS] * filters
    for b in range(blocks):
        if b > 0:
            barrier(control, team)
        fill(work, summed + lo * filters, (hi - lo) * filters, np.float32(0.0))
        gather(
            lo, hi, begin, stop, ends, place, incoming, first, last, table, b * step, filters, work,
            at[V] + b * stride, summed, unused,
        )  # fmt: skip
        update(sizes, weights, b, lo, hi, work, at)
    readout(sizes, scalars, weights, lo, hi, work, at, space.bead_energy)
    for row in range(lo, hi):
        dr[begin[row] : stop[row]] = 0.0
    for b in range(blocks - 1, -1, -1):
        backward(sizes, weights, b, lo, hi, work, at)
        barrier(control, team)
        v, m = at[V] + b * stride, at[M + b % 2]
        if b == 0:
            slopes(lo, hi, begin, stop, ends, place, geometry, table, b * step, filters, work, v, m, dr)
            break
        fill(work, summed + lo * filters, (hi - lo) * filters, np.float32(0.0))
        slopes_and_gather(
            lo, hi, begin, stop, ends, place, geometry, incoming, first, last, table, b * step, filters, work,
            v, m, summed, unused, dr,
        )  # fmt: skip
    pair_forces(lo, hi, begin, stop, geometry, dr, scalars[FACTOR] * scalars[UNIT])
    barrier(control, team)
    if space.plan[SLOTS] > 1:
        _add_slots(space, sizes[N_BEADS], lo, hi, first_bead, forces)
    push(lo, hi, begin, stop, ends, geometry, incoming, first, last, space.beads, first_bead, forces)


@inlined
def _replicas(
    model: Model,
    space: Space,
    member: int,
    team: int,
    control: Int64s,
    pos: Float64s,
    begin: int,
    size: int,
    energies: Float64s,
    forces: Float64s,
) -> None:
    """Evaluate ``size`` replicas from ``begin``; one if they have a tree or a team shares them."""
    n, slots, scalars = model.sizes[N_BEADS], space.plan[SLOTS], model.scalars
    n_rows, first, n_bad = size * n, begin * n, 0
    for r in range(size):
        space.bad[r] = 0 if _finite(pos, first + r * n, n) else 1
        n_bad += space.bad[r]
        if space.bad[r] and member == 0:
            forces[first + r * n : first + r * n + n] = np.nan
            energies[begin + r] = np.nan
    if n_bad == size:
        return
    if member == 0 and space.plan[LEVELS] > 0:
        build_tree(pos, first, space.plan[LEVELS], space.beads, space.x, space.span, space.box)
    if slots > 1:
        slot = add(control, NEXT_SLOT, 1) if team > 1 else 0
        while slot < slots:
            space.slot_energy[slot] = prior_share(
                model, slot, slots, pos, first, n, space.slot_forces, slot * n
            )
            slot = add(control, NEXT_SLOT, 1) if team > 1 else slot + 1
    elif member == team - 1:
        for r in range(size):
            if not space.bad[r]:
                at = first + r * n
                energies[begin + r] = prior_share(model, 0, slots, pos, at, n, forces, at)
    barrier(control, team)
    if member == 0 and team > 1:
        control[NEXT_SLOT] = 0
    find_share(model, space, pos, first, size, member, team)
    lo, hi = share(n_rows, member, team)
    first_features(model.sizes, model.start, model.first_v, space.beads, lo, hi, space.work, space.at)
    barrier(control, team)
    _network(model, space, member, team, n_rows, control, first, forces)
    if member == 0:
        for r in range(size):
            e = 0.0
            for row in range(r * n, r * n + n):
                e += space.bead_energy[row]
            e = scalars[SHIFT] + e * scalars[SCALE]
            for slot in range(slots if slots > 1 else 0):
                e += space.slot_energy[slot]
            if not space.bad[r]:
                e += energies[begin + r] if slots == 1 else 0.0
                energies[begin + r] = e * scalars[FACTOR]
    barrier(control, team)


@entry
def evaluate(
    thread: int,
    n_threads: int,
    call: int,
    patience: int,
    control: Int64s,
    model_arrays: tuple[Any, ...],
    space_arrays: tuple[Any, ...],
    pos: Float64s,
    energies: Float64s,
    forces: Float64s,
) -> bool:
    """Compute energies ``(R,)`` kJ/mol and forces ``(R·N, 3)`` kJ/mol/nm of ``pos`` ``(R·N, 3)`` nm.

    ``model_arrays`` and ``space_arrays`` are the entries of a :class:`Model` and a :class:`Space`, as plain
    tuples, which are passed in half the time. Thread 0 begins a call and returns at its end; it returns False
    if there were more pairs than ``space.plan[MOST]``, so that the result is invalid. The others take part
    in the calls after number ``call`` until none has begun for ``patience`` turns. A replica with non-finite
    positions gets NaN and does not affect the others.
    """
    model, space = Model(*model_arrays), Space(*space_arrays)
    chunk, team = model.sizes[N_CHUNK], space.plan[TEAM]
    n_replicas, member = len(energies), thread if space.plan[TEAM] > 1 else 0
    n_chunks = (n_replicas + chunk - 1) // chunk
    if thread == 0:
        control[NEXT_CHUNK] = 0
        control[NEXT_SLOT] = 0
        control[TOO_MANY] = 0
        add(control, CALL, 1)
    while True:
        if thread > 0 and not next_call(control, thread, call, patience):
            return True
        call += 1
        own = 0
        c = own if team > 1 else add(control, NEXT_CHUNK, 1)
        while c < n_chunks:
            size = min(chunk, n_replicas - c * chunk)
            _replicas(model, space, member, team, control, pos, c * chunk, size, energies, forces)
            own += 1
            c = own if team > 1 else add(control, NEXT_CHUNK, 1)
        barrier(control, n_threads)
        if thread == 0:
            return bool(control[TOO_MANY] == 0)
