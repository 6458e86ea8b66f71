"""A Euclidean embedding of conformations whose distances bound the RMSD from below.

For centred coordinates X (beads, 3) let |X| = (X Xᵀ)^½, which no rotation of X changes. The
Araki-Yamagami inequality (Commun. Math. Phys. 81, 89 (1981)),

    ‖ |X| - |Y| ‖_F ≤ √2 ‖X - Y R‖_F   for every rotation R,

makes φ(X) = |X| / √(2N) an embedding with ‖φ(X) - φ(Y)‖ ≤ RMSD(X, Y). The bound is tight: the left
side is at least ‖X - Y R‖_F for the best R (mirror images allowed), so that the bound is at least
RMSD/√2. Orthogonal projections only shorten distances. Dropping bead directions and principal
components of small variance therefore keeps it a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

#: with more bead directions the features of |X| cost more time than they save
_MAX_DIRECTIONS = 16
_MAX_COMPONENTS = 24
_FIT_FRAMES = 4096


@dataclass(frozen=True)
class Embedding:
    """Linear maps from |X| to a few principal components, made by :func:`fit_embedding`.

    Attributes
    ----------
    directions
        ``(directions, beads)`` orthonormal rows: combinations of beads.
    mean
        ``(features,)``, Å.
    components
        ``(features, components)`` orthonormal columns.
    """

    directions: Float
    mean: Float
    components: Float

    def __call__(self, centred: Float) -> NDArray[np.float32]:
        """Return features ``(n, components + 1)`` of centred frames ``(n, beads, 3)``, Å.

        The last feature is the length of the part outside the components: its difference between two
        frames is a lower bound of the distance between these parts.
        """
        out = np.empty((len(centred), self.components.shape[1] + 1), dtype=np.float32)
        for lo in range(0, len(centred), _FIT_FRAMES):
            features = _absolute_value(centred[lo : lo + _FIT_FRAMES], self.directions) - self.mean
            projected = features @ self.components
            rest = np.einsum("nf,nf->n", features, features) - np.einsum("nk,nk->n", projected, projected)
            out[lo : lo + _FIT_FRAMES, :-1] = projected
            out[lo : lo + _FIT_FRAMES, -1] = np.sqrt(np.maximum(rest, 0.0))
        return out


def fit_embedding(centred: Float) -> Embedding:
    """Determine bead directions and principal components from centred frames ``(n, beads, 3)``, Å."""
    sample = centred[:: -(-len(centred) // _FIT_FRAMES)]
    gram = np.einsum("nbk,nck->bc", sample, sample)
    _, vectors = np.linalg.eigh(gram)
    directions = np.ascontiguousarray(vectors[:, ::-1][:, :_MAX_DIRECTIONS].T)
    features = _absolute_value(sample, directions)
    mean = features.mean(axis=0)
    features -= mean
    _, axes = np.linalg.eigh(features.T @ features)
    return Embedding(directions, mean, np.ascontiguousarray(axes[:, ::-1][:, :_MAX_COMPONENTS]))


def _absolute_value(centred: Float, directions: Float) -> Float:
    """Return the upper triangle of |P X| / √(2N), off-diagonal entries times √2: ``(n, features)``, Å.

    The Euclidean norm of a difference of such vectors is the Frobenius norm of the matrix difference.
    """
    n_beads = centred.shape[1]
    projected = np.matmul(directions, centred)
    _, vectors = np.linalg.eigh(np.matmul(projected.transpose(0, 2, 1), projected))
    # columns sₖ uₖ of the singular value decomposition; |X| = Σ (sₖuₖ)(sₖuₖ)ᵀ / sₖ
    columns = np.matmul(projected, vectors)
    lengths = np.sqrt(np.einsum("nbk,nbk->nk", columns, columns))
    lengths = lengths[:, None, :]
    scaled = np.divide(columns, lengths, out=np.zeros_like(columns), where=lengths > 0.0)
    matrix = np.matmul(columns, scaled.transpose(0, 2, 1))
    row, column = np.triu_indices(len(directions))
    weight = np.where(row == column, 1.0, np.sqrt(2.0)) / np.sqrt(2.0 * n_beads)
    features: Float = matrix[:, row, column] * weight
    return features
