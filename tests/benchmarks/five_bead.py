"""The molecule of 269 beads: engrailed homeodomain, 54 residues of five beads, in compact conformations.

``python tests/benchmarks/five_bead.py`` prints its size, the pairs within 15 Å and the radius of gyration.
"""

from __future__ import annotations

import numpy as np

from cgal_plugin.mapping import CGTopology

#: 54 residues, one of them glycine: 269 beads
HOMEODOMAIN = "RPRTAFSSEQLARLKREFNENRYLTERRRQQLSSELGLNEAQIKIWFQNKRAKI"
#: degrees: helices of the native fold (residues 8–20, 26–36, 40–52) and the loops between them
_HELIX = (-62.0, -43.0)
_LOOPS = (range(7), range(20, 26), range(36, 40))
#: Å and degrees of the backbone
_N_CA, _CA_C, _C_N, _C_O, _CA_CB = 1.46, 1.53, 1.33, 1.23, 1.53
_NCAC, _CACN, _CNCA = 111.0, 116.6, 121.7
#: closest distance of beads that are five or more bonds apart, Å
_CLOSEST = 2.5


def _place(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, dihedral: float
) -> np.ndarray:
    """Return the bead d with bond c–d (Å), angle b–c–d and dihedral a–b–c–d (degrees)."""
    theta, phi = np.radians([angle, dihedral])
    u = (c - b) / np.linalg.norm(c - b)
    n = np.cross(b - a, u)
    n /= np.linalg.norm(n)
    local = np.array([-np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)])
    return c + length * (local[0] * u + local[1] * np.cross(n, u) + local[2] * n)


def backbone(topology: CGTopology, phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Return beads ``(n_beads, 3)`` Å of a chain of the 5bead map with dihedrals φ and ψ, degrees."""
    beads: dict[tuple[int, str], np.ndarray] = {}
    n, ca = np.zeros(3), np.array([_N_CA, 0.0, 0.0])
    c = _place(np.array([0.0, 1.0, 0.0]), n, ca, _CA_C, _NCAC, 180.0)
    for r in range(len(phi)):
        following = _place(n, ca, c, _C_N, _CACN, psi[r])
        beads |= {(r, "N"): n, (r, "CA"): ca, (r, "C"): c}
        beads[r, "O"] = _place(n, ca, c, _C_O, 120.5, psi[r] + 180.0)
        beads[r, "CB"] = _place(c, n, ca, _CA_CB, 110.5, -122.5)
        after = _place(ca, c, following, _N_CA, _CNCA, 180.0)
        if r + 1 < len(phi):
            n, ca, c = following, after, _place(c, following, after, _CA_C, _NCAC, phi[r + 1])
    order = zip(topology.residue_index.tolist(), topology.bead_names, strict=True)
    return np.stack([beads[key] for key in order])


def compact_starts(n: int = 1, seed: int = 0, tries: int = 400) -> tuple[CGTopology, np.ndarray]:
    """Return the topology and ``n`` compact conformations ``(n, 269, 3)`` Å, by random search over loops."""
    topology = CGTopology.from_sequence(HOMEODOMAIN, "5bead")
    near = topology.exclusions(4)
    far = np.triu(np.ones((topology.n_beads, topology.n_beads), dtype=bool), 1)
    far[near[:, 0], near[:, 1]] = False
    rng = np.random.default_rng(seed)
    found: list[tuple[float, np.ndarray]] = []
    for _ in range(tries):
        phi, psi = (np.full(len(HOMEODOMAIN), angle) for angle in _HELIX)
        for loop in _LOOPS:
            phi[loop] = rng.uniform(-150, -50, len(loop))
            psi[loop] = np.where(
                rng.random(len(loop)) < 0.6, rng.uniform(90, 180, len(loop)), rng.uniform(-60, -20, len(loop))
            )
        frame = backbone(topology, phi, psi)
        distance = np.linalg.norm(frame[:, None] - frame, axis=-1)
        if distance[far].min() > _CLOSEST:
            size = np.sqrt(((frame - frame.mean(axis=0)) ** 2).sum(axis=1).mean())
            found.append((float(size), frame - frame.mean(axis=0)))
    found.sort(key=lambda one: one[0])
    if len(found) < n:
        raise RuntimeError(f"{len(found)} of {tries} conformations have no overlaps; {n} are needed")
    return topology, np.stack([frame for _, frame in found[:n]])


if __name__ == "__main__":
    top, frames = compact_starts()
    pairs = np.triu(np.linalg.norm(frames[0][:, None] - frames[0], axis=-1) < 15.0, 1).sum()
    radius = np.sqrt((frames[0] ** 2).sum(axis=1).mean())
    print(f"{top.n_beads} beads, {pairs} pairs within 15 Å, radius of gyration {radius:.1f} Å")
