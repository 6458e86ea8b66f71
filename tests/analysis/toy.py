"""Langevin dynamics of a CA chain in a toy potential with one adjustable well, in numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cgal_plugin.analysis import observables as obs


@lru_cache(maxsize=2)
def ensembles(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return a reference, a good and a poor model of it.

    The good model is the reference's own dynamics with another seed; the poor one is too cold and lacks the
    attraction.
    """
    reference = chain_trajectories(30, 50, attraction=6.0, seed=3 * seed + 1, stride=60)
    good = chain_trajectories(12, 40, attraction=6.0, seed=3 * seed + 3, stride=60)
    poor = chain_trajectories(12, 40, attraction=0.0, seed=3 * seed + 2, stride=60, temperature_kcal=0.25)
    return reference, good, poor


def helix(n_beads: int) -> np.ndarray:
    """``(n_beads, 3)`` Å: an ideal CA helix, 3.8 Å bonds."""
    i = np.arange(n_beads)
    return np.stack([2.3 * np.cos(1.745 * i), 2.3 * np.sin(1.745 * i), 1.5 * i], axis=1)


def chain_trajectories(
    n_trajectories: int,
    n_frames: int,
    *,
    n_beads: int = 8,
    attraction: float = 1.5,
    seed: int = 0,
    stride: int = 20,
    temperature_kcal: float = 0.795,
) -> list[np.ndarray]:
    """Overdamped Langevin trajectories ``(n_frames, n_beads, 3)`` Å, all replicas at once.

    Harmonic bonds (3.8 Å), 1–3 distances (5.6 Å, soft), repulsion under 4.5 Å, and an attraction of
    ``attraction`` kcal/mol between the ends that folds the chain.
    """
    rng = np.random.default_rng(seed)
    x = np.tile(helix(n_beads), (n_trajectories, 1, 1)) + rng.normal(0, 0.2, (n_trajectories, n_beads, 3))
    i, j = np.triu_indices(n_beads, k=3)
    dt, kt = 0.004, temperature_kcal
    out = np.empty((n_frames, *x.shape))

    def pull(force: np.ndarray, a: np.ndarray, b: np.ndarray, r0: float, k: float) -> None:
        d = x[:, a] - x[:, b]
        r = np.linalg.norm(d, axis=-1, keepdims=True)
        f = -k * (r - r0) * d / r
        np.add.at(force, (slice(None), a), f)
        np.add.at(force, (slice(None), b), -f)

    index = np.arange(n_beads)
    for step in range(n_frames * stride):
        force = np.zeros_like(x)
        pull(force, index[:-1], index[1:], 3.8, 30.0)
        pull(force, index[:-2], index[2:], 5.8, 2.0)
        d = x[:, i] - x[:, j]
        r = np.maximum(np.linalg.norm(d, axis=-1, keepdims=True), 1.0)
        f = np.where(r < 4.5, 8.0 * (4.5 - r), 0.0) * d / r
        np.add.at(force, (slice(None), i), f)
        np.add.at(force, (slice(None), j), -f)
        d = x[:, 0] - x[:, -1]
        r = np.linalg.norm(d, axis=-1, keepdims=True)
        well = -attraction * (r - 5.5) / 2.0 * np.exp(-(((r - 5.5) / 2.5) ** 2)) * d / np.maximum(r, 1.0)
        force[:, 0] += well
        force[:, -1] -= well
        x = x + dt * force + np.sqrt(2 * kt * dt) * rng.normal(size=x.shape)
        if step % stride == stride - 1:
            out[step // stride] = x
    assert obs.bond_lengths(out[-1], np.stack([index[:-1], index[1:]], 1)).max() < 6.0
    return [out[:, k].copy() for k in range(n_trajectories)]
