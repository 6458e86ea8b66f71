"""Random walks with the bond lengths of a molecule, as frames for tests."""

from __future__ import annotations

import numpy as np


def walks(n: int, n_beads: int = 10, seed: int = 0, bond: float = 3.8) -> np.ndarray:
    """(n, n_beads, 3) float32 Å: bonds of 3.8 Å in random directions."""
    steps = np.random.default_rng(seed).normal(size=(n, n_beads, 3))
    steps *= bond / np.linalg.norm(steps, axis=-1, keepdims=True)
    return np.cumsum(steps, axis=1).astype(np.float32)
