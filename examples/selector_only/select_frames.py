"""Select the frames of a trajectory that a reference does not cover.

    python select_frames.py                                  # synthetic trajectories, a few seconds
    python select_frames.py new.dcd old.dcd --top beads.pdb  # your own
    python select_frames.py new.xtc old.xtc --top protein.pdb --atoms "name CA" -n 20 --max-rmsd 15

Only mdtraj and ``cgal_plugin.selector`` are used: no model, no configuration, no run directory.
"""

from __future__ import annotations

import argparse

import mdtraj
import numpy as np

from cgal_plugin.selector import RMSDSelector, coverage


def synthetic(n_frames: int, seed: int, n_beads: int = 10) -> mdtraj.Trajectory:
    """Return a trajectory of a fluctuating chain with bonds of 3.8 Å, in place of a CG trajectory."""
    rng = np.random.default_rng(seed)
    turns = np.zeros((n_beads - 1, 3))
    frames = np.empty((n_frames, n_beads, 3), dtype=np.float32)
    for k in range(n_frames):
        turns = 0.98 * turns + rng.normal(scale=0.12, size=turns.shape)
        bonds = np.array([1.0, 0.0, 0.0]) + np.cumsum(turns, axis=0)
        bonds *= 0.38 / np.linalg.norm(bonds, axis=1, keepdims=True)
        frames[k, 0], frames[k, 1:] = 0.0, np.cumsum(bonds, axis=0)
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(n_beads):
        top.add_atom("CA", mdtraj.element.carbon, top.add_residue("ALA", chain))
    return mdtraj.Trajectory(frames, top)


def main() -> None:
    """Load or generate two trajectories, select frames and print them."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("candidates", nargs="?", help="trajectory to select from")
    parser.add_argument("reference", nargs="?", help="trajectory with the known frames")
    parser.add_argument("--top", help="topology file, if the trajectory format needs one")
    parser.add_argument("--atoms", default="all", help="mdtraj selection of the beads")
    parser.add_argument("-n", type=int, default=10, help="number of frames to select")
    parser.add_argument("--min-rmsd", type=float, default=0.0, help="Å; nearer frames count as covered")
    parser.add_argument("--max-rmsd", type=float, default=np.inf, help="Å; farther frames are unphysical")
    args = parser.parse_args()

    if args.candidates is None:
        candidates, reference = synthetic(3000, seed=1), synthetic(2000, seed=2)
    else:
        if args.reference is None:
            parser.error("a reference trajectory is required")
        options = {"top": args.top} if args.top else {}
        candidates, reference = (mdtraj.load(p, **options) for p in (args.candidates, args.reference))
        candidates, reference = (t.atom_slice(t.top.select(args.atoms)) for t in (candidates, reference))

    selector = RMSDSelector(args.n, min_rmsd=args.min_rmsd, max_rmsd=args.max_rmsd).fit(reference)
    selection = selector.select(candidates)
    print("frame  nearest RMSD to the reference, Å")
    for index, distance in zip(selection.indices, selection.distances, strict=True):
        print(f"{index:5d}  {distance:.3f}")

    # the effect of the selection: with these frames in the reference, the largest distance is smaller
    before = selection.all_distances
    after = coverage(candidates, reference.join(candidates[selection.indices]))["distances"]
    print(f"largest distance from the reference: {before.max():.3f} Å before, {after.max():.3f} Å after")


if __name__ == "__main__":
    main()
