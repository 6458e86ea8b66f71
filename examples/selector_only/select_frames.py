"""Pick the frames of somebody else's trajectory that a reference does not cover yet.

    python select_frames.py                                  # made-up trajectories, a few seconds
    python select_frames.py new.dcd old.dcd --top beads.pdb  # your own
    python select_frames.py new.xtc old.xtc --top protein.pdb --atoms "name CA" -n 20 --max-rmsd 15

Only mdtraj and ``cgal_plugin.selector`` are used: no model, no configuration, no run directory.
"""

from __future__ import annotations

import argparse

import mdtraj
import numpy as np

from cgal_plugin.selector import RMSDSelector, coverage


def made_up(n_frames: int, seed: int, n_beads: int = 10) -> mdtraj.Trajectory:
    """A chain of beads 3.8 Å apart that wriggles: a stand-in for a CG trajectory."""
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
    """Load or make two trajectories, select, print."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("candidates", nargs="?", help="trajectory to choose from")
    parser.add_argument("reference", nargs="?", help="trajectory that is covered already")
    parser.add_argument("--top", help="topology file, where the trajectories need one")
    parser.add_argument("--atoms", default="all", help="mdtraj selection that gives the beads")
    parser.add_argument("-n", type=int, default=10, help="frames to select")
    parser.add_argument("--min-rmsd", type=float, default=0.0, help="Å; nearer frames are covered")
    parser.add_argument("--max-rmsd", type=float, default=np.inf, help="Å; farther frames have exploded")
    args = parser.parse_args()

    if args.candidates is None:
        candidates, reference = made_up(3000, seed=1), made_up(2000, seed=2)
    else:
        if args.reference is None:
            parser.error("give a reference trajectory as well")
        options = {"top": args.top} if args.top else {}
        candidates, reference = (mdtraj.load(p, **options) for p in (args.candidates, args.reference))
        candidates, reference = (t.atom_slice(t.top.select(args.atoms)) for t in (candidates, reference))

    selector = RMSDSelector(args.n, min_rmsd=args.min_rmsd, max_rmsd=args.max_rmsd).fit(reference)
    selection = selector.select(candidates)
    print("frame  nearest RMSD to the reference, Å")
    for index, distance in zip(selection.indices, selection.distances, strict=True):
        print(f"{index:5d}  {distance:.3f}")

    # what the selection is for: with these frames labelled, less is left uncovered
    before = selection.all_distances
    after = coverage(candidates, reference.join(candidates[selection.indices]))["distances"]
    print(f"farthest frame from what is covered: {before.max():.3f} Å before, {after.max():.3f} Å after")


if __name__ == "__main__":
    main()
