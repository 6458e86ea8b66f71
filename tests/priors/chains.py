"""Random self-avoiding chains, and samplers of exact distributions by inversion."""

from __future__ import annotations

import numpy as np


def chains(n_frames: int, n_beads: int, seed: int = 0) -> np.ndarray:
    """(n_frames, n_beads, 3) Å: bonds about 3.8 Å, angles 75–125°, nothing closer than 4 Å."""
    rng = np.random.default_rng(seed)
    frames = []
    while len(frames) < n_frames:
        chain, step = [np.zeros(3)], np.array([1.0, 0.0, 0.0])
        for _ in range(n_beads - 1):
            for _attempt in range(200):
                new = rng.normal(size=3)
                new /= np.linalg.norm(new)
                point = chain[-1] + new * (3.8 + 0.05 * rng.normal())
                clear = all(np.linalg.norm(point - other) > 4.0 for other in chain[:-1])
                if -0.6 < -(new @ step) < 0.3 and clear:
                    break
            else:
                break
            chain.append(point)
            step = new
        if len(chain) == n_beads:
            frames.append(chain)
    return np.array(frames)


def draw(density: np.ndarray, grid: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n independent samples of a density given on a fine grid."""
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    return np.interp(np.random.default_rng(seed).random(n), cumulative / cumulative[-1], grid)


def place(length: np.ndarray, angle: np.ndarray, dihedral: np.ndarray) -> np.ndarray:
    """(n, 4, 3) frames of four beads with these bond lengths (n, 3), angles (n, 2), dihedrals (n,)."""
    n = len(dihedral)
    x = np.zeros((n, 4, 3))
    x[:, 1, 0] = length[:, 0]
    t = np.pi - angle[:, 0]
    x[:, 2] = x[:, 1] + length[:, 1, None] * np.stack([np.cos(t), np.sin(t), 0 * t], 1)
    b = (x[:, 2] - x[:, 1]) / length[:, 1, None]
    normal = np.zeros((n, 3))
    normal[:, 2] = 1.0
    m = np.cross(normal, b)
    s, c = np.sin(angle[:, 1]), np.cos(angle[:, 1])
    direction = (
        -c[:, None] * b + (s * np.cos(dihedral))[:, None] * m + (s * np.sin(dihedral))[:, None] * normal
    )
    x[:, 3] = x[:, 2] + length[:, 2, None] * direction
    return x
