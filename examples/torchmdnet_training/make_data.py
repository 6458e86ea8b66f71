"""Write a small data set for train.yaml: frames and forces of a chain of 10 beads in a known potential.

    python make_data.py            # writes coords.npy (Å), forces.npy (kcal/mol/Å), topology.json

It replaces mapped all-atom data; any arrays ``(n_frames, n_beads, 3)`` can be used.
"""

from pathlib import Path

import numpy as np

from cgal_plugin.mapping import CGTopology

BEADS, FRAMES, EVERY = 10, 600, 20
KT = 0.794  # kcal/mol at 400 K


def forces(x: np.ndarray) -> np.ndarray:
    """Return forces of harmonic bonds (3.8 Å) and a soft repulsion of beads at least three bonds apart."""
    f = np.zeros_like(x)
    d = x[1:] - x[:-1]
    r = np.linalg.norm(d, axis=1, keepdims=True)
    pull = -40.0 * (r - 3.8) * d / r
    f[1:] += pull
    f[:-1] -= pull
    i, j = np.triu_indices(len(x), 3)
    d = x[i] - x[j]
    r = np.linalg.norm(d, axis=1, keepdims=True)
    push = 6 * (5.0 / r) ** 6 / r**2 * d * KT
    np.add.at(f, i, push)
    np.add.at(f, j, -push)
    return f


def main() -> None:
    """Run overdamped Langevin dynamics, save every 20th step as a frame, and write the files."""
    rng = np.random.default_rng(0)
    x = np.stack([3.3 * np.arange(BEADS), 1.9 * (np.arange(BEADS) % 2), np.zeros(BEADS)], axis=1)
    step, coords, targets = 1e-3, [], []
    for n in range(FRAMES * EVERY):
        f = forces(x)
        if n % EVERY == 0:
            coords.append(x.copy())
            targets.append(f + rng.normal(size=f.shape))
        x = x + step * f + np.sqrt(2 * KT * step) * rng.normal(size=x.shape)
    here = Path(__file__).parent
    np.save(here / "coords.npy", np.array(coords, dtype=np.float32))
    np.save(here / "forces.npy", np.array(targets, dtype=np.float32))
    CGTopology.from_sequence("YYDPETGTWY", mapping="CA").save(here / "topology.json")
    print(f"wrote {len(coords)} frames to {here}")


if __name__ == "__main__":
    main()
