"""The row of an ordered table is the one that torchmd's search finds."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cgal_plugin.priors.tables import build_lookup

NAMES = {1: "CA_ALA", 2: "CA_CYS", 3: "CA_ASP"}


def searched(rows: list[tuple[str, ...]], types: tuple[str, ...]) -> int:
    """Search as torchmd 1.1.2 does: fewest wildcards, own direction first, last places wild first."""

    def variants(beads: tuple[str, ...]) -> list[tuple[str, ...]]:
        masks = sorted(itertools.product([False, True], repeat=len(beads)), key=sum)
        return [tuple("*" if wild else b for wild, b in zip(mask, beads, strict=True)) for mask in masks]

    both = sorted(variants(types) + variants(types[::-1]), key=lambda v: v.count("*"))
    return next((rows.index(v) for v in both if v in rows), -1)


@given(st.data())
def test_the_row_is_that_of_torchmds_search(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([2, 3, 4]))
    row = st.tuples(*[st.sampled_from(["*", *NAMES.values()])] * width)
    rows = data.draw(st.lists(row, min_size=1, max_size=12, unique=True))
    lookup = build_lookup(rows, width, NAMES, ordered=True)
    types = np.array(list(itertools.product(NAMES, repeat=width))).T
    expected = [searched(rows, tuple(NAMES[t] for t in column)) for column in types.T.tolist()]
    assert lookup.row(types).tolist() == expected
