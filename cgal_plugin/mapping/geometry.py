"""Optimal superposition and dihedral angles in numpy, double precision.

Only proper rotations superpose: a structure and its mirror image do not match. Results have the
length unit of the input; the package uses Å.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Float = NDArray[np.float64]


def optimal_rotation(covariance: Float) -> Float:
    """Return the rotations R with the smallest ‖x R − y‖, from the covariances xᵀ y of centred points.

    Kabsch, Acta Cryst. A 34, 827 (1978).

    Parameters
    ----------
    covariance
        ``(..., 3, 3)``, Σ over points k of x_ki y_kj.

    Returns
    -------
    ``(..., 3, 3)``, to be multiplied from the right: ``x @ R``.
    """
    u, _, vt = np.linalg.svd(covariance)
    u[..., :, 2] *= np.where(np.linalg.det(u) * np.linalg.det(vt) < 0.0, -1.0, 1.0)[..., None]
    rotation: Float = u @ vt
    return rotation


def superpose(points: Float, source: Float, target: Float) -> Float:
    """Move ``points`` by the rigid motion that superposes ``source`` on ``target`` with the smallest RMSD.

    Parameters
    ----------
    points
        ``(n, 3)`` points that move along with ``source``.
    source, target
        ``(k, 3)`` corresponding points.

    Returns
    -------
    ``(n, 3)``.
    """
    origin, destination = source.mean(axis=0), target.mean(axis=0)
    rotation = optimal_rotation((source - origin).T @ (target - destination))
    moved: Float = (points - origin) @ rotation + destination
    return moved


def superposed_rmsd(frames: Float, target: Float) -> Float:
    """Return the RMSD of each frame to ``target`` after optimal superposition.

    From the singular values of the covariance; the smallest one counts as negative if the best match is a
    reflection (Kabsch 1978). Near zero, the error is about 1e-7 of the size of the molecule.

    Parameters
    ----------
    frames
        ``(n, k, 3)``.
    target
        ``(k, 3)``.

    Returns
    -------
    ``(n,)``.
    """
    x = frames - frames.mean(axis=1, keepdims=True)
    y = target - target.mean(axis=0)
    covariance = np.einsum("nki,kj->nij", x, y)
    sigma = np.linalg.svd(covariance, compute_uv=False)
    sigma[:, 2] *= np.where(np.linalg.det(covariance) < 0.0, -1.0, 1.0)
    square = (x**2).sum(axis=(1, 2)) + (y**2).sum() - 2.0 * sigma.sum(axis=1)
    rmsd: Float = np.sqrt(np.maximum(square, 0.0) / len(y))
    return rmsd


def dihedral_angles(points: ArrayLike) -> Float:
    """Return dihedral angles of four points each, radians in (−π, π], IUPAC sign; 0 if undefined.

    Parameters
    ----------
    points
        ``(..., 4, 3)``.

    Returns
    -------
    ``(...)``.
    """
    a, b, c, d = np.moveaxis(np.asarray(points, dtype=np.float64), -2, 0)
    axis = c - b
    length = np.sqrt(np.vecdot(axis, axis))[..., None]
    axis = np.divide(axis, length, out=np.zeros_like(axis), where=length != 0.0)
    left, right = np.cross(b - a, axis), np.cross(axis, d - c)
    angles: Float = np.arctan2(np.vecdot(np.cross(left, right), axis), np.vecdot(left, right))
    return angles
