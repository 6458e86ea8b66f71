"""Plain and independent computations of the results of the selectors."""

from __future__ import annotations

import mdtraj
import numpy as np
from scipy.spatial.transform import Rotation


def kabsch_rmsd(x: np.ndarray, y: np.ndarray) -> float:
    """RMSD of two frames (beads, 3) after the best proper rotation, in double precision."""
    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    y = y.astype(np.float64) - y.mean(axis=0, dtype=np.float64)
    u, _, vt = np.linalg.svd(x.T @ y)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return float(np.sqrt(np.square(x @ (u @ flip @ vt) - y).sum() / len(x)))


def all_rmsd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) matrix of :func:`kabsch_rmsd`, from one stack of 3x3 matrices."""
    x = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    y = y.astype(np.float64) - y.mean(axis=1, keepdims=True, dtype=np.float64)
    u, _, vt = np.linalg.svd(np.einsum("nbk,mbl->nmkl", x, y))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    residual = np.einsum("nbk,nmkl->nmbl", x, u @ vt) - y
    return np.sqrt(np.square(residual).sum(axis=(2, 3)) / x.shape[1])


def trajectory(frames: np.ndarray) -> mdtraj.Trajectory:
    """An mdtraj trajectory of CA beads from frames in Å."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(frames.shape[1]):
        top.add_atom("CA", mdtraj.element.carbon, top.add_residue("ALA", chain))
    return mdtraj.Trajectory((frames / 10.0).astype(np.float32), top)


def mdtraj_nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brute force with ``mdtraj.rmsd``, Å."""
    candidates, reference = trajectory(x), trajectory(y)
    return np.array([10.0 * mdtraj.rmsd(reference, candidates, k).min() for k in range(len(x))])


def moved(frames: np.ndarray, rng: np.random.Generator, shift: float = 50.0) -> np.ndarray:
    """Each frame rotated and translated at random."""
    rotation = Rotation.random(len(frames), random_state=rng).as_matrix()
    return frames @ rotation + rng.normal(scale=shift, size=(len(frames), 1, 3))


def walks(n: int, beads: int, rng: np.random.Generator, step: float = 0.4) -> np.ndarray:
    """Correlated frames: a chain whose beads diffuse and are pulled back to it, Å."""
    chain = np.cumsum(rng.normal(scale=2.2, size=(beads, 3)), axis=0)
    offset = np.zeros((beads, 3))
    frames = np.empty((n, beads, 3))
    for k in range(n):
        offset = 0.95 * offset + rng.normal(scale=step, size=(beads, 3))
        frames[k] = chain + offset
    return frames
