"""RMSD after optimal superposition in numpy, double precision: pairs, one to many, exact.

All functions take *centred* coordinates. Only proper rotations superpose, as in ``mdtraj.rmsd``:
a structure and its mirror image do not match.

Source of the eigenvalue form: Theobald, Acta Cryst. A 61, 478 (2005). With C the 3x3 covariance
of two structures, the largest root of  λ⁴ - 2‖C‖²λ² - 8 det(C) λ + ‖C‖⁴ - 4‖adj C‖²  gives
RMSD² = (Gx + Gy - 2λ) / N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.mapping.geometry import optimal_rotation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-12
#: relative error of a double root in double precision, about sqrt(machine epsilon)
_ROOT_ERROR = 1e-7
#: rounding error of the quartic in its own units, with a margin
_SIGN_ERROR = 1e-13


def centre(frames: NDArray[np.floating]) -> Float:
    """Return ``frames`` (n, beads, 3) in double precision with their centres at the origin."""
    centred = frames.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    # a second pass removes the rounding error of the mean for frames far from the origin
    centred -= centred.mean(axis=1, keepdims=True)
    return centred


def squared_sizes(centred: Float) -> Float:
    """Return the sum of squared coordinates (n,) of centred frames, Å²."""
    sizes: Float = np.einsum("nbk,nbk->n", centred, centred)
    return sizes


def _quartic(cov: Float, unit: Float) -> tuple[Float, Float, Float]:
    """Return (‖C‖², -8 det C, ‖C‖⁴ - 4‖adj C‖²) (p,) for covariances ``cov`` (9, p), row major.

    They are the coefficients for λ / ``unit``, which is of order one for any size of the molecule.
    """
    a, b, c, d, e, f, g, h, i = cov
    norm = np.einsum("cp,cp->p", cov, cov)
    m0, m1, m2 = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * m0 + b * m1 + c * m2
    minors = m0 * m0 + m1 * m1 + m2 * m2
    for p, q, r, s in ((b, i, c, h), (c, g, a, i), (a, h, b, g), (b, f, c, e), (c, d, a, f), (a, e, b, d)):
        minor = p * q - r * s
        minors += minor * minor
    square = unit * unit
    norm /= square
    return norm, determinant * (-8.0 / (square * unit)), norm * norm - minors * (4.0 / (square * square))


def _largest_root(cov: Float, start: Float) -> Float:
    """Return the largest root (p,) of the quartics; ``start`` (p,) is an upper bound.

    Newton's iteration from above: all four roots are real, so that the iterates decrease monotonically
    and each is an upper bound.
    """
    unit = np.where(start > 0.0, start, 1.0)
    norm, linear, constant = _quartic(cov, unit)
    root = np.where(start > 0.0, 1.0, 0.0)
    for _ in range(_NEWTON_STEPS):
        square = root * root
        value = ((square - 2.0 * norm) * root + linear) * root + constant
        slope = 4.0 * root * (square - norm) + linear
        # at a multiple root, value and slope are rounding noise: no step
        step = np.divide(value, slope, out=np.zeros_like(value), where=slope > 1e-14)
        np.maximum(step, 0.0, out=step)
        root -= step
        if step.size == 0 or step.max() < _NEWTON_TOLERANCE:
            break
    return root * unit


def _squared_rmsd(cov: Float, mean_size: Float, n_beads: int) -> Float:
    return np.maximum(mean_size - _largest_root(cov, mean_size), 0.0) * (2.0 / n_beads)


def pair_covariance(x: Float, y: Float, i: Int, j: Int) -> Float:
    """Return the covariances (9, p), row major, of the pairs ``x[i], y[j]``.

    ``x`` and ``y`` are centred frames *transposed* to ``(3, beads, n)``, so that every operation
    runs over contiguous pairs.
    """
    xs, ys = np.take(x, i, axis=2), np.take(y, j, axis=2)
    cov = np.empty((9, len(i)))
    product = np.empty((x.shape[1], len(i)))
    for k in range(3):
        for m in range(3):
            np.multiply(xs[k], ys[m], out=product)
            np.add.reduce(product, axis=0, out=cov[3 * k + m])
    return cov


def may_be_within(cov: Float, mean_size: Float, limit: Float, n_beads: int) -> NDArray[np.bool_]:
    """Return False for pairs (p,) whose RMSD is certainly not below ``limit`` (p,) Å, else True.

    The root is not computed: above the largest root of a quartic whose roots are real, and only
    there, the quartic and all its derivatives are positive (Fourier's theorem).
    """
    unit = np.where(mean_size > 0.0, mean_size, 1.0)
    norm, linear, constant = _quartic(cov, unit)
    at = (mean_size - 0.5 * n_beads * limit * limit) / unit
    square = at * at
    beyond = ((square - 2.0 * norm) * at + linear) * at + constant > _SIGN_ERROR
    beyond &= 4.0 * at * (square - norm) + linear > _SIGN_ERROR
    beyond &= 3.0 * square - norm > _SIGN_ERROR
    beyond &= at > 0.0
    return ~beyond


def pair_squared_rmsd_bound(cov: Float, mean_size: Float, n_beads: int) -> Float:
    """Return a lower bound (p,) of the squared RMSD, Å², which differs by rounding errors only."""
    squared = _squared_rmsd(cov, mean_size, n_beads)
    return np.maximum(squared - mean_size * (2.0 * _ROOT_ERROR / n_beads), 0.0)


def one_to_many_squared_rmsd(frame: Float, frames: Float, size: float, sizes: Float) -> Float:
    """Return the squared RMSD (n,), Å², of a centred frame (beads, 3) to centred ``frames``."""
    n, n_beads, _ = frames.shape
    # (3, n) per column of the frame: one matrix product with the beads as the inner dimension
    covariance = np.tensordot(frames, frame, axes=([1], [0]))
    cov = np.ascontiguousarray(covariance.reshape(n, 9).T)
    return _squared_rmsd(cov, 0.5 * (sizes + size), n_beads)


def exact_rmsd(x: Float, y: Float) -> Float:
    """Return the RMSD (p,) of centred frames ``x[k]`` and ``y[k]``, (p, beads, 3), from the rotation.

    The RMSD is computed from the residuals, without a difference of large numbers: identical frames
    give zero to machine precision; the eigenvalue form gives zero only to the square root of it.
    """
    residual = x @ optimal_rotation(np.einsum("pbk,pbm->pkm", x, y)) - y
    rmsd: Float = np.sqrt(np.einsum("pbk,pbk->p", residual, residual) / x.shape[1])
    return rmsd
