"""Optimal-superposition RMSD in plain numpy, double precision: pair lists, one against many, exact.

All functions take *centred* coordinates. Only proper rotations count, as in ``mdtraj.rmsd``:
a structure and its mirror image do not superpose.

Source of the eigenvalue form: Theobald, Acta Cryst. A 61, 478 (2005). With C the 3x3 covariance
of two structures, the largest root of  λ⁴ - 2‖C‖²λ² - 8 det(C) λ + ‖C‖⁴ - 4‖adj C‖²  gives
RMSD² = (Gx + Gy - 2λ) / N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-12
#: relative error of a double root found in double precision is about sqrt(machine epsilon)
_ROOT_ERROR = 1e-7


def centre(frames: NDArray[np.floating]) -> Float:
    """``frames`` (n, beads, 3) in double precision with their geometric centres moved to the origin."""
    centred = frames.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    # a second pass removes the rounding of the mean of frames that lie far from the origin
    centred -= centred.mean(axis=1, keepdims=True)
    return centred


def squared_sizes(centred: Float) -> Float:
    """Sum of squared coordinates (n,) of centred frames, Å²."""
    return np.einsum("nbk,nbk->n", centred, centred)


def _largest_root(cov: list[Float], start: Float) -> Float:
    """Largest root of the quartic for covariances ``cov`` (nine arrays (p,), row major).

    Newton's iteration from above: ``start`` (p,) is an upper bound, all four roots are real, so
    the iterates fall monotonically and an unfinished one is still an upper bound.
    """
    a, b, c, d, e, f, g, h, i = cov
    norm = a * a
    for entry in cov[1:]:
        norm += entry * entry
    m0, m1, m2 = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * m0 + b * m1 + c * m2
    minors = m0 * m0 + m1 * m1 + m2 * m2
    for p, q, r, s in ((b, i, c, h), (c, g, a, i), (a, h, b, g), (b, f, c, e), (c, d, a, f), (a, e, b, d)):
        minor = p * q - r * s
        minors += minor * minor
    # in units of the start the coefficients are of order one whatever the size of the molecule
    unit = np.where(start > 0.0, start, 1.0)
    norm /= unit * unit
    linear = -8.0 * determinant / unit**3
    constant = norm * norm - 4.0 * minors / unit**4
    root = np.where(start > 0.0, 1.0, 0.0)
    for _ in range(_NEWTON_STEPS):
        square = root * root
        half = square - 2.0 * norm
        value = (half * root + linear) * root + constant
        slope = 4.0 * root * (square - norm) + linear
        # at a multiple root value and slope are both rounding noise: stay
        step = np.divide(value, slope, out=np.zeros_like(value), where=slope > 1e-14)
        np.maximum(step, 0.0, out=step)
        root -= step
        if step.size == 0 or step.max() < _NEWTON_TOLERANCE:
            break
    return root * unit


def _squared_rmsd(cov: list[Float], sizes_x: Float, sizes_y: Float, n_beads: int) -> tuple[Float, Float]:
    mean_size = 0.5 * (sizes_x + sizes_y)
    gap = mean_size - _largest_root(cov, mean_size)
    return np.maximum(gap, 0.0) * (2.0 / n_beads), mean_size * (2.0 * _ROOT_ERROR / n_beads)


def pair_squared_rmsd(
    x: Float, y: Float, sizes_x: Float, sizes_y: Float, i: Int, j: Int
) -> tuple[Float, Float]:
    """Squared RMSD (p,) of the pairs ``x[i], y[j]`` and a bound (p,) of its numerical error, Å².

    ``x`` and ``y`` are centred frames *transposed* to ``(3, beads, n)``, so that every operation
    runs over contiguous pairs. The error matters next to zero only: see :func:`exact_rmsd`.
    """
    n_beads = x.shape[1]
    xs, ys = np.take(x, i, axis=2), np.take(y, j, axis=2)
    cov = []
    product = np.empty((n_beads, len(i)))
    for k in range(3):
        for m in range(3):
            np.multiply(xs[k], ys[m], out=product)
            cov.append(product.sum(axis=0))
    return _squared_rmsd(cov, sizes_x[i], sizes_y[j], n_beads)


def one_to_many_squared_rmsd(frame: Float, frames: Float, size: float, sizes: Float) -> Float:
    """Squared RMSD (n,) of one centred frame (beads, 3) to centred ``frames`` (n, beads, 3), Å²."""
    n, n_beads, _ = frames.shape
    # (3, n) per column of the frame: one matrix product with the beads as the inner dimension
    covariance = np.tensordot(frames, frame, axes=([1], [0]))
    cov = [np.ascontiguousarray(covariance[:, k, m]) for k in range(3) for m in range(3)]
    return _squared_rmsd(cov, sizes, np.full(n, size), n_beads)[0]


def exact_rmsd(x: Float, y: Float) -> Float:
    """RMSD (p,) of centred frames ``x[k]`` and ``y[k]``, (p, beads, 3), through the rotation itself.

    The rotation comes from a singular value decomposition (Kabsch) and the RMSD from the
    residuals, so that there is no difference of large numbers: identical frames give zero to
    machine precision, where the eigenvalue form gives its square root.
    """
    u, s, vt = np.linalg.svd(np.einsum("pbk,pbm->pkm", x, y))
    del s
    sign = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0.0, -1.0, 1.0)
    u[:, :, 2] *= sign[:, None]
    residual = x @ (u @ vt) - y
    return np.sqrt(np.einsum("pbk,pbk->p", residual, residual) / x.shape[1])
