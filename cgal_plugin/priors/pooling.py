"""Rows of linear terms that molecules share: what a rare or unseen tuple of bead types takes from the others.

The coefficients of a row are those of its kinds of beads, plus an effect of each bead type, plus a deviation
of its own; all three have the ridge of the term. A tuple with much data is hardly bound by this, a rare one
is near the sum of its types, and an unseen one is this sum: a linear mixed model (Henderson, Biometrics 31,
423 (1975)). The ridge of a deviation counts per force component of the molecules that have the row, so that
data of other molecules do not bind it more; that of effects per force component of a mean row. Effects are
eliminated: with the kinds and types of each row in A, and the components in D and d, deviations have the
quadratic form D - D A (AᵀD A + d)⁻¹ AᵀD.
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
    components
        Number of force components of the molecules that have each row.
    """

    def __init__(
        self, terms: Sequence[LinearTerm], kinds: Mapping[str, str], components: Sequence[float]
    ) -> None:
        self.terms, self.kinds = terms, kinds
        self._weight = np.asarray(components, dtype=np.float64)
        features = [self._features(t.types) for t in terms]
        self._number = {f: i for i, f in enumerate(dict.fromkeys(f for own in features for f in own))}
        self._design = np.stack([self._row(own) for own in features])

    def penalty(self) -> NDArray[np.float64]:
        """Return ``(size, size)``: the quadratic form of the coefficients of all rows, row by row."""
        weighted = self._weight[:, None] * self._design
        form = np.diag(self._weight) - weighted @ np.linalg.solve(self._normal(), weighted.T)
        first = self.terms[0]
        return np.asarray(first.ridge * np.kron(form, np.eye(first.n_parameters)), np.float64)

    def _normal(self) -> NDArray[np.float64]:
        a = self._design
        return np.asarray((a.T * self._weight) @ a + self._weight.mean() * np.eye(a.shape[1]), np.float64)

    def unseen(self, c: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the rows of all other tuples of the bead types, and the wildcards.

        ``c`` ``(size,)`` are the coefficients of the rows, row by row.
        """
        weighted = self._weight[:, None] * self._design
        effects = np.linalg.solve(self._normal(), weighted.T @ c.reshape(len(self.terms), -1))
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
