"""Parameter tables by bead type: resolve names, ids and wildcards to one row per term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping.embedding import CGAL, EMBEDDINGS
from cgal_plugin.mapping.spec import FIVE_BEAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: what readers of dihedrals of other programs say
FADE_NOTE = (
    "dihedrals fade out where a bond angle is within 8.1° of straight, which those of the source do not"
)
_MAX_LOOKUP = 20_000_000


def canonical(types: Sequence[Any]) -> tuple[Any, ...]:
    """Return the type tuple or its reverse (the same term), whichever sorts first."""
    forward = tuple(types)
    backward = tuple(reversed(forward))
    return min(forward, backward, key=lambda t: tuple(str(x) for x in t))


def known_names(
    type_names: Iterable[str] = (), types: Iterable[int] = (), embedding: str = CGAL
) -> dict[int, str]:
    """Return bead type id → name, of an embedding (of a table nothing is known) and of a molecule."""
    known = EMBEDDINGS.get(embedding)
    names = {} if known is None else {number: name for name, number in known.ids.items()}
    if embedding == CGAL:
        names |= {number: name for name, number in FIVE_BEAD.embedding.ids.items()}
    names.update(zip((int(t) for t in types), type_names, strict=True))
    return names


def _matches(pattern: str | int, type_id: int, name: str | None) -> bool:
    if isinstance(pattern, int):
        return pattern == type_id
    return pattern == "*" or (name is not None and fnmatchcase(name, pattern))


def is_exact(pattern: Any) -> bool:
    """Return whether a pattern is one bead type: a name or an id without wildcard."""
    return isinstance(pattern, int) or "*" not in pattern


def _specificity(types: Sequence[Any]) -> tuple[int, int]:
    exact = sum(is_exact(t) for t in types)
    return exact, sum(not is_exact(t) and t != "*" for t in types)


def _precedence(types: Sequence[Any], reverse: bool) -> tuple[Any, ...]:
    """Return the rank of a row of an ordered table, read forward or in reverse, as in torchmd.

    The direction of the row comes before its reverse, then exact types at the first places of the row, which
    in reverse are those of the last beads.
    """
    return *_specificity(types), not reverse, tuple(is_exact(t) for t in types)


@dataclass(frozen=True, eq=False)
class Lookup:
    """Map from bead type ids to rows of a parameter table.

    ``classes`` ``(max_id + 2,)`` int64 is the class of each id; ids that match the same patterns share a
    class, and the last entry holds for every larger id. ``rows`` ``(n_classes ** width,)`` int64 is the row
    of a tuple of classes, read as a number in base ``n_classes``, or −1.
    """

    classes: NDArray[np.int64]
    rows: NDArray[np.int64]
    n_classes: int

    def row(self, types: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each column of ``types`` ``(width, n)``, −1 if the table has none."""
        classes = self.classes[np.clip(types, 0, len(self.classes) - 1)]
        code = np.zeros(types.shape[1], dtype=np.int64)
        for line in classes:
            code = code * self.n_classes + line
        return self.rows[code]


def build_lookup(
    patterns: Sequence[Sequence[Any]], width: int, names: Mapping[int, str], ordered: bool = False
) -> Lookup:
    """Resolve type patterns. A pattern with more exact types takes precedence.

    Parameters
    ----------
    patterns
        One tuple per row: names (``"CA_TYR"``), ids, ``"*"``, or ``"CB_*"``. A tuple and its reverse are
        equivalent, unless the table is ordered.
    width
        2, 3 or 4.
    names
        Bead type id → name.
    ordered
        A tuple and its reverse are different rows, for the beads in the order of the index table (N→C). A
        tuple that the table has in one order only is used for both.

    Raises
    ------
    ConfigError
        A tuple has the wrong length, occurs twice, or names an unknown type.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for row, types in enumerate(patterns):
        if len(types) != width or not all(isinstance(t, str | int) for t in types):
            raise ConfigError(f"prior table row {row}: types {list(types)!r}; expected {width} names or ids")
        key = tuple(types) if ordered else canonical(types)
        if key in seen:
            raise ConfigError(f"prior table has {list(types)!r} twice: rows {seen[key]} and {row}")
        seen[key] = row
        unknown = [t for t in types if isinstance(t, str) and "*" not in t and t not in names.values()]
        if unknown:
            raise ConfigError(
                f"prior table row {row}: bead types {unknown} are not known; use names such as 'CA_TYR', "
                "ids, '*', or give a molecule that has these types"
            )
    elements = sorted({t for types in patterns for t in types}, key=str)
    ids = [*names, *(e for e in elements if isinstance(e, int))]
    last = max(ids, default=0) + 1
    signatures = [tuple(_matches(e, i, names.get(i)) for e in elements) for i in range(last)]
    signatures.append(tuple(e == "*" for e in elements))
    unique = sorted(set(signatures))
    number = {s: c for c, s in enumerate(unique)}
    if len(unique) ** width > _MAX_LOOKUP:
        raise ConfigError(
            f"prior table has {len(unique)} classes of bead types in tuples of {width}: too many"
        )
    members = {e: [c for c, s in enumerate(unique) if s[k]] for k, e in enumerate(elements)}
    rows = np.full((len(unique),) * width, -1, dtype=np.int64)
    both = [(row, reverse) for row in range(len(patterns)) for reverse in (False, True)]
    if ordered:
        both.sort(key=lambda one: _precedence(patterns[one[0]], one[1]))
    else:
        both.sort(key=lambda one: _specificity(patterns[one[0]]))
    for row, reverse in both:
        sets = [members[t] for t in patterns[row]]
        rows[np.ix_(*(reversed(sets) if reverse else sets))] = row
    return Lookup(np.array([number[s] for s in signatures]), rows.reshape(-1), len(unique))


def describe_molecule(topology: CGTopology, term: str) -> dict[str, Any]:
    """Return the description of a molecule in a prior: types, type names, index table of the term."""
    index = {
        "bonds": topology.bond_index,
        "bridges": topology.bridge_index,
        "angles": topology.angle_index,
        "angle_series": topology.angle_index,
        "dihedrals": topology.dihedral_index,
        "repulsion": topology.bond_index,
        "pairs": topology.bond_index,
    }[term]
    excluded = term in ("repulsion", "pairs") and len(topology.bridge_index)
    return {
        "types": topology.types.tolist(),
        "type_names": list(topology.type_names),
        "index": index.tolist(),
        **({"bridges": topology.bridge_index.tolist()} if excluded else {}),
    }


def rows_by_number(
    table: Iterable[Mapping[str, Any]], topologies: Iterable[CGTopology]
) -> list[dict[str, Any]]:
    """Return the rows of a table for the bead types of some molecules, with numbers in place of names.

    For an embedding whose names are not known without its molecules.
    """
    ids = {
        n: int(t) for topology in topologies for n, t in zip(topology.type_names, topology.types, strict=True)
    }
    numbered = ({**row, "types": [ids.get(t, t) for t in row["types"]]} for row in table)
    return [row for row in numbered if not any(is_exact(t) and isinstance(t, str) for t in row["types"])]
