"""Defaults that follow the size of the molecule: rules of the number of residues N.

========================  ================  ==================  ===========  ========
key                       N = 10            rule                from, to     status
========================  ================  ==================  ===========  ========
seed_data.picoseconds     50 ps             linear in N         50, 1,000    assumed
oracle.production_ps      34 ps             linear in N         34, 340      assumed
oracle.release_ps         22 ps             11/17 of            --           assumed
                                            production_ps
simulation.steps          12,500            linear in N         12,500,      assumed
                                                                125,000
selector.n_select         12                N^0.5               12, 48       assumed
selector.min_rmsd         0.6 Å             N^0.5               0.3, 3       assumed
selector.max_rmsd         2.5 Å             N^0.5               1.2, 12.5    assumed
stopping.rounds           4                 N^0.25              4, 8         assumed
refinement.steps          30,000            linear in N         30,000,      assumed
                                                                300,000
refinement.n_states       60                N^0.5               60, 240      assumed
refinement.rungs          4                 N^0.5               4, 24        assumed
test.rungs                4                 N^0.5               4, 24        assumed
test.steps                30,000            linear in N         30,000,      assumed
                                                                300,000
========================  ================  ==================  ===========  ========

The column N = 10 is from runs of chignolin (10 residues, `examples/chignolin`); the whole recipe with
refinement was measured only for longer labels. How the numbers change with N is assumed from polymer physics
and was not measured: the radius of a chain, and with it RMSD, grows about as N^0.5; the time to cross it
grows at least in proportion to N; the number of shapes grows, and frames per round and rounds are raised
slowly because the cost is their product. The limits keep a small molecule from too little data, and a large
one from a cost that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cgal_plugin.config.quantities import parse_quantity
from cgal_plugin.config.section import MEASURED, Auto, Decision

#: share of a steered label without restraint: 22 of 34 ps
RELEASED = 11 / 17


@dataclass(frozen=True)
class Rule:
    """``at_ten * (N / 10) ** power`` within ``least`` and ``most``.

    ``step`` is what values are rounded to: 1 for counts.
    """

    at_ten: float
    power: float
    least: float
    most: float
    unit: str = ""
    step: float = 1.0

    def __call__(self, n_residues: int) -> float:
        """Return the value for a molecule of this size."""
        scaled = self.at_ten * (n_residues / MEASURED) ** self.power
        digits = 0 if self.step >= 1 else len(f"{self.step:g}") - 2
        value: float = min(max(round(scaled / self.step) * self.step, self.least), self.most)
        return round(value, digits)

    @property
    def text(self) -> str:
        """The rule in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.power == 1:
            how = f"{self.at_ten / MEASURED:g}{unit} per residue"
        else:
            how = f"{self.at_ten:g}{unit} * (residues / {MEASURED})^{self.power:g}"
        return f"{how}, from {self.least:g} to {self.most:g}"


RULES: Mapping[str, Rule] = {
    "seed_data.picoseconds": Rule(50, 1, 50, 1000, "ps"),
    "oracle.production_ps": Rule(34, 1, 34, 340, "ps", 0.1),
    "simulation.steps": Rule(12_500, 1, 12_500, 125_000, step=100),
    "selector.n_select": Rule(12, 0.5, 12, 48),
    "selector.min_rmsd": Rule(0.6, 0.5, 0.3, 3, "Å", 0.01),
    "selector.max_rmsd": Rule(2.5, 0.5, 1.2, 12.5, "Å", 0.01),
    "stopping.rounds": Rule(4, 0.25, 4, 8),
    "refinement.steps": Rule(30_000, 1, 30_000, 300_000, step=100),
    "refinement.n_states": Rule(60, 0.5, 60, 240),
    "refinement.rungs": Rule(4, 0.5, 4, 24),
    "test.steps": Rule(30_000, 1, 30_000, 300_000, step=100),
    "test.rungs": Rule(4, 0.5, 4, 24),
}


def scaled(key: str) -> Auto:
    """Return the mark of a key with a rule in :data:`RULES`."""
    return Auto(RULES[key].text)


def length(key: str, n_residues: int = MEASURED) -> float:
    """Return the value of a key that is a length or a time."""
    return RULES[key](n_residues)


def count(key: str, n_residues: int = MEASURED) -> int:
    """Return the value of a key that is a count."""
    return int(RULES[key](n_residues))


def by_size(section: str, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
    """Return the decisions for the keys of a section that have a rule and are not given."""
    found = {}
    for name, rule in RULES.items():
        key = name.removeprefix(f"{section}.")
        if key != name and key not in given:
            value = rule(n_residues)
            found[key] = Decision(int(value) if rule.step >= 1 and not rule.unit else value, rule.text)
    return found


def number(given: Mapping[str, Any], key: str, unit: str) -> float | None:
    """Return a given number; None if the key is not given or its value is wrong, which is an error later."""
    try:
        return parse_quantity(given[key], unit)
    except (KeyError, ValueError):
        return None
