"""The share of a thread in the priors, the pair search and the rows of one molecule."""

from __future__ import annotations

from cgal_plugin.export.engine.arrays import FACTOR, INTERVALS, LEVELS, MOST, N_BEADS, UNIT, Model, Space
from cgal_plugin.export.engine.jit import Float64s, inlined, kernel
from cgal_plugin.export.engine.pairs import find_pairs, find_pairs_of_leaves
from cgal_plugin.export.engine.priors import angle_energy, dihedral_energy, pair_energy, series_energy


@kernel
def share(n: int, slot: int, slots: int) -> tuple[int, int]:
    """Return the limits of one of ``slots`` equal shares of ``n``."""
    return n * slot // slots, n * (slot + 1) // slots


@inlined
def prior_share(
    model: Model, slot: int, slots: int, pos: Float64s, first: int, n: int, out: Float64s, out_first: int
) -> float:
    """Return the energy of a share of the priors of one molecule; write their forces to ``out``."""
    unit, factor, shift = model.scalars[UNIT], model.scalars[FACTOR] * model.scalars[UNIT], out_first - first
    for i in range(out_first, out_first + n):
        out[i, 0] = out[i, 1] = out[i, 2] = 0.0
    index, value = model.pair_index, model.pair_value
    b, e = share(len(index), slot, slots)
    energy = pair_energy(pos, first, b, e, unit, factor, index, value, out, shift)
    series, value = model.series_index, model.series_value
    b, e = share(len(series), slot, slots)
    energy += series_energy(pos, first, b, e, unit, factor, series, value, out, shift)
    angles, value = model.angle_index, model.angle_value
    b, e = share(len(angles), slot, slots)
    energy += angle_energy(pos, first, b, e, unit, factor, angles, value, out, shift)
    dihedrals = model.dihedral_index
    b, e = share(len(dihedrals), slot, slots)
    return energy + dihedral_energy(
        pos, first, b, e, unit, factor, dihedrals, model.dihedral_value, out, shift
    )


@kernel
def own_rows(space: Space, team: int, member: int, n_rows: int) -> tuple[int, int]:
    """Return the rows of a thread: with a tree, whole leaves with equal shares of the cost."""
    if space.plan[LEVELS] == 0:
        return share(n_rows, member, team)
    leaves = 2 ** space.plan[LEVELS]
    # the products of a row cost as much as some 20 pairs
    each = max(1, 20 * n_rows // leaves)
    total = each * leaves
    for k in range(team * leaves):
        total += space.leaf_pairs[k]
    done, lo, hi = 0, 0, 0
    for leaf in range(leaves):
        # a leaf belongs to the thread in whose share its first unit of cost lies
        owner, end = done * team // total, space.span[leaves - 1 + leaf, 1]
        if owner < member:
            lo = end
        if owner <= member:
            hi = end
        done += each
        for k in range(team):
            done += space.leaf_pairs[k * leaves + leaf]
    return lo, hi


@kernel
def find_share(
    model: Model, space: Space, pos: Float64s, first: int, size: int, member: int, team: int
) -> None:
    """Find the pairs of a share of the rows of ``size`` replicas, whose beads start at ``first``."""
    n, plan, intervals = model.sizes[N_BEADS], space.plan, model.sizes[INTERVALS]
    begin, stop, ends, place, geometry = space.begin, space.stop, space.ends, space.place, space.geometry
    at = count = member * plan[MOST]
    most = at + plan[MOST]
    if plan[LEVELS] > 0:
        leaves = 2 ** plan[LEVELS]
        lo, hi = share(leaves, member, team)
        near = space.near[member * leaves : (member + 1) * leaves]
        weight = space.leaf_pairs[member * leaves : (member + 1) * leaves]
        weight[:] = 0
        count = find_pairs_of_leaves(
            space.x, space.span, space.box, leaves, lo, hi, near, weight, count, most, model.scalars,
            intervals, begin, stop, ends, place, geometry,
        )  # fmt: skip
    else:
        lo, hi = share(n, member, team)
        for r in range(size):
            if space.bad[r]:
                begin[r * n : r * n + n] = 0
                stop[r * n : r * n + n] = 0
                continue
            count = find_pairs(
                pos, first + r * n, n, r * n, lo, hi, count, most, model.scalars, intervals, begin, stop,
                ends, place, geometry,
            )  # fmt: skip
    space.needed[member] = max(space.needed[member], count - at)
