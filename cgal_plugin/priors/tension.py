"""Free bond tensions: what force matching does not read from the forces along bonds.

The mean force along a bond depends on the conformation: in chignolin the rest length of a CA–CA bond shifts
by some 0.02 Å, and this lasts for picoseconds. No prior term describes it, and populations hardly depend on
it, but in least squares the other terms imitate it. So each bond has a free tension in each frame, a
coefficient with a ridge. Tensions are eliminated (Schur complement): with the bond gradients J of a frame,
the normal matrix DᵀD of the other coefficients becomes Dᵀ(1 − J (JᵀJ + ridge)⁻¹ Jᵀ)D. In large problems,
consecutive frames share tensions, which costs less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: products above which frames share tensions: some 4 s of one core
_PRODUCTS = 1e11
#: most frames that share tensions
_MOST_SHARED = 50


def shared_frames(products: float) -> int:
    """Return how many consecutive frames share tensions in a problem of this size.

    ``products``: squared number of coefficients, times bonds, times frames.
    """
    return int(np.clip(np.ceil(products / _PRODUCTS), 1, _MOST_SHARED))


@dataclass(frozen=True, eq=False)
class FreeTensions:
    """Tensions of the bonds ``(n_bonds, 2)``, shared by ``shared`` consecutive frames."""

    bonds: NDArray[np.int64]
    ridge: float
    shared: int

    def gradients(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``(n, n_beads, 3, n_bonds)``: gradients of the bond lengths of ``(n, n_beads, 3)`` Å."""
        i, j = self.bonds.T
        d = frames[:, j] - frames[:, i]
        unit = d / np.sqrt(np.maximum((d * d).sum(-1, keepdims=True), 1e-12))
        out = np.zeros((*frames.shape, len(self.bonds)))
        k = np.arange(len(self.bonds))
        out[:, j, :, k], out[:, i, :, k] = unit.swapaxes(0, 1), -unit.swapaxes(0, 1)
        return out

    def products(
        self,
        frames: NDArray[np.float64],
        weights: NDArray[np.float64],
        rest: NDArray[np.float64],
        terms: Iterable[tuple[NDArray[np.float64], NDArray[np.int64]]],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return what the tensions take from a normal problem, and how many degrees of freedom they are.

        Parameters
        ----------
        frames
            ``(n, n_beads, 3)`` Å.
        weights
            ``(n,)``, weights of the frames.
        rest
            ``(n, n_beads, 3)``: forces to be matched.
        terms
            Of each term, forces per unit of each coefficient ``(n_parameters, n, n_own, 3)`` on its own beads
            ``(n_own,)``.

        Returns
        -------
        matrix
            ``(size, n_parameters)``: its product with itself is taken from the normal matrix.
        vector
            ``(size,)``: its product with the matrix is taken from the right side.
        freedom
            Degrees of freedom of the tensions.
        """
        n, n_bonds = len(frames), len(self.bonds)
        j = self.gradients(frames)
        weighted = j * weights[:, None, None, None]
        own = np.einsum("fbxk,fbxl->fkl", weighted, j)
        own[:, np.arange(n_bonds), np.arange(n_bonds)] += self.ridge * weights[:, None]
        right = np.einsum("fbxk,fbx->fk", weighted, rest)
        mixed = [
            np.matmul(d.reshape(len(d), n, -1).swapaxes(0, 1), weighted[:, beads].reshape(n, -1, n_bonds))
            for d, beads in terms
        ]
        starts = np.arange(0, n, self.shared)
        total = np.concatenate(mixed, axis=1)
        if self.shared > 1:
            own, right, total = (np.add.reduceat(a, starts) for a in (own, right, total))
        lower = np.linalg.inv(np.linalg.cholesky(own))
        matrix = np.matmul(lower, total.swapaxes(1, 2)).reshape(-1, total.shape[1])
        vector = np.matmul(lower, right[:, :, None]).reshape(-1)
        # trace of (JᵀJ + ridge)⁻¹ JᵀJ; a frame of weight 3 counts as three frames
        sums = np.add.reduceat(weights, starts)
        free = n_bonds - self.ridge * sums * (lower * lower).sum((1, 2))
        freedom = float((free * sums / np.diff([*starts, n])).sum())
        return np.asarray(matrix, np.float64), np.asarray(vector, np.float64), freedom
