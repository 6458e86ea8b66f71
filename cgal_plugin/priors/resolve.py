"""The rows of a prior table that the terms of one molecule use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ConfigError
from cgal_plugin.priors.tables import build_lookup, describe_molecule, is_exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

_PAIR_TERMS = ("repulsion", "pairs")
#: lengths of bonds between beads, Å
_SHORTEST, _LONGEST = 1.0, 20.0


def term_index(topology: CGTopology, term: str, exclude_bonds: int) -> NDArray[np.int64]:
    """Return the beads of the terms of a molecule, ``(width, n)``; of pairs and repulsion, i < j."""
    molecule = describe_molecule(topology, term)
    if term in _PAIR_TERMS:
        from cgal_plugin.priors.nonbonded import molecule_pairs  # imports torch

        return molecule_pairs(
            topology.n_beads, topology.bond_index, exclude_bonds, molecule.get("bridges", ())
        )
    width = {"angles": 3, "angle_series": 3, "dihedrals": 4}.get(term, 2)
    return np.array(molecule["index"], dtype=np.int64).reshape(-1, width).T


def rows_of_terms(
    patterns: Sequence[Sequence[Any]],
    index: NDArray[np.int64],
    topology: CGTopology,
    ordered: bool,
    what: str,
) -> NDArray[np.int64]:
    """Return the row of each term of a molecule.

    Parameters
    ----------
    patterns
        Bead types of each row of the table.
    index
        ``(width, n)`` beads of the terms.
    topology
        Molecule.
    ordered
        See :func:`~cgal_plugin.priors.tables.build_lookup`.
    what
        Table, for messages.

    Raises
    ------
    ConfigError
        A term has no parameters.
    """
    names: dict[int, str] = dict(zip(topology.types.tolist(), topology.type_names, strict=True))
    # types of other molecules, which this molecule does not have, get numbers of their own
    others = {t for row in patterns for t in row if not isinstance(t, int) and is_exact(t)}
    first = max([*names, *(t for row in patterns for t in row if isinstance(t, int))]) + 1
    names |= dict(enumerate(sorted(others - set(names.values())), start=first))
    lookup = build_lookup(patterns, index.shape[0], names, ordered)
    rows = lookup.row(topology.types[index])
    if (rows < 0).any():
        beads = index[:, int(np.flatnonzero(rows < 0)[0])].tolist()
        types = [topology.type_names[b] for b in beads]
        known = sorted({str(t) for row in patterns for t in row})
        unknown = sorted(set(topology.type_names) - set(known))
        raise ConfigError(
            f"{what} has no parameters for {'-'.join(types)} (beads {', '.join(map(str, beads))} of "
            f"{topology!r})"
            + (f"; it has no {', '.join(unknown)} at all" if unknown and "*" not in known else "")
            + ": use priors that have these bead types, or add a row for them"
        )
    return rows


def rows_for(
    rows: Sequence[Mapping[str, Any]],
    terms: Sequence[str],
    ordered: Sequence[str],
    exclude_bonds: int,
    topology: CGTopology,
    source: str,
) -> list[dict[str, Any]]:
    """Return the rows of a :class:`PriorSet` that a molecule uses.

    Raises
    ------
    ConfigError
        A term of the molecule has no parameters.
    """
    kept: list[dict[str, Any]] = []
    for term in terms:
        own = [dict(row) for row in rows if row["term"] == term and row["parameters"] is not None]
        index = term_index(topology, term, exclude_bonds)
        what = f"{source}: {term}"
        used = rows_of_terms([row["types"] for row in own], index, topology, term in ordered, what)
        # a term that the molecule does not have keeps its rows, so that the set has the same terms
        kept += [own[n] for n in sorted(set(used.tolist()))] if used.size else own
    return kept


def check_units(rows: Sequence[Mapping[str, Any]], source: str) -> None:
    """Check that imported bonds have lengths in Å.

    Raises
    ------
    ConfigError
        A bond is shorter than 1 Å or longer than 20 Å.
    """
    for row in rows:
        r0 = row["parameters"]["r0"] if row["term"] == "bonds" else 5.0
        if not _SHORTEST <= r0 <= _LONGEST:
            types = "-".join(row["types"])
            raise ConfigError(
                f"{source}: the bond {types} has an equilibrium length of {r0:g} Å; bonds of beads have "
                f"{_SHORTEST:g} to {_LONGEST:g} Å. Is the file in nm? Convert it to Å and kcal/mol"
            )
