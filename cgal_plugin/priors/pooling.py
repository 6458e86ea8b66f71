"""Rows of linear terms that molecules share: what a rare or unseen tuple of bead types takes from the others.

The coefficients of a row are those of its kinds of beads, plus an effect of each bead type, plus a deviation
of its own; all three have the ridge of the term. A tuple with much data is hardly bound by this, a rare one
is near the sum of its types, and an unseen one is this sum: a linear mixed model (Henderson, Biometrics 31,
423 (1975)). With the effects eliminated, rows have the covariance 1 + A Aᵀ, where A has the kinds and types
of each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cgal_plugin.priors.tables import canonical, is_exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.priors.linear import LinearTerm

Key: TypeAlias = tuple[str, tuple[str, ...]]


class PooledRows:
    """The rows of one term.

    Parameters
    ----------
    terms
        One linear term per row, of any of the molecules.
    kinds
        Bead type → its wildcard.
    """

    def __init__(self, terms: Sequence[LinearTerm], kinds: Mapping[str, str]) -> None:
        self.terms, self.kinds = terms, kinds
        features = [self._features(t.types) for t in terms]
        self._number = {f: i for i, f in enumerate(dict.fromkeys(f for own in features for f in own))}
        self._design = np.stack([self._row(own) for own in features])

    def penalty(self) -> NDArray[np.float64]:
        """Return ``(size, size)``: the quadratic form of the coefficients of all rows, row by row."""
        covariance = np.eye(len(self.terms)) + self._design @ self._design.T
        first = self.terms[0]
        penalty: NDArray[np.float64] = first.ridge * np.kron(
            np.linalg.inv(covariance), np.eye(first.n_parameters)
        )
        return penalty

    def unseen(self, c: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the rows of all other tuples of the bead types, and the wildcards.

        ``c`` ``(size,)`` are the coefficients of the rows, row by row.
        """
        a = self._design
        effects = np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ c.reshape(len(self.terms), -1))
        seen = {t.types for t in self.terms}
        found = []
        for types in self._tuples():
            if types not in seen:
                first = replace(self.terms[0], types=types)
                values = self._row(self._features(types)) @ effects
                found.append(
                    {
                        "term": first.term,
                        "types": list(types),
                        "n": 0,
                        "parameters": first.parameters(values),
                        "standard_error": None,
                        "at_bound": False,
                        "fallback": None,
                    }
                )
        return found

    def _tuples(self) -> list[tuple[str, ...]]:
        """Return all tuples of known types at the places where rows have types, and all wildcards."""
        of_kind: dict[str, list[str]] = {}
        for name, kind in self.kinds.items():
            of_kind.setdefault(kind, []).append(name)
        shapes = {tuple((self._kind(t), is_exact(t)) for t in term.types) for term in self.terms}
        found = set()
        for shape in shapes:
            places = [of_kind[kind] if exact else [kind] for kind, exact in shape]
            found |= {canonical(types) for types in product(*places)}
            found.add(canonical([kind for kind, _ in shape]))
        return sorted(found)

    def _kind(self, name: str) -> str:
        return self.kinds.get(name, name)

    def _features(self, types: Sequence[str]) -> list[tuple[Any, ...]]:
        kinds = canonical([self._kind(t) for t in types])
        return [kinds, *((kinds, t) for t in types if is_exact(t))]

    def _row(self, features: Sequence[tuple[Any, ...]]) -> NDArray[np.float64]:
        row = np.zeros(len(self._number))
        for feature in features:
            if feature in self._number:
                row[self._number[feature]] += 1.0
        return row
