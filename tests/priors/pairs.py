"""Terms that are fitted to forces beside fitted priors, for tests of what uses priors."""

from __future__ import annotations

import dataclasses

from cgal_plugin.priors import PriorSet


def with_pairs(priors: PriorSet) -> PriorSet:
    """The set with an angle series and pair energies of given coefficients, for all and for some beads."""
    rows = [
        {"term": "angle_series", "types": types, "n": 1, "parameters": {"c": c}, "fallback": None}
        for types, c in ((["*", "*", "*"], [1.0, -0.6, 0.4]), (["*", "CA_TYR", "*"], [0.5, 0.9, -0.2]))
    ] + [
        {"term": "pairs", "types": types, "n": 1, "parameters": {"c": c}, "fallback": None}
        for types, c in ((["*", "*"], [2.0, -1.1, 0.3, 0.7]), (["CA_TYR", "*"], [3.0, 0.1, -0.4, 0.2]))
    ]
    return dataclasses.replace(
        priors,
        terms=(*priors.terms, "angle_series", "pairs"),
        rows=(*priors.rows, *rows),
        pair_range=(4.0, 13.5),
    )
