"""Write potential.pt and start.pdb for run.py: an untrained network with priors fitted to synthetic frames.

The potential replaces a trained one (`cgal export model.ckpt --topology x.pdb -o potential.pt`), so that the
example runs in seconds. Usage: python make_potential.py OUT_FOLDER [--replicas R]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mdtraj
import numpy as np
import torch
import torchmdnet.models.model as torchmdnet_model

import cgal_plugin
from cgal_plugin.export import export_torchscript
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import fit_priors

TEMPERATURE = 300.0


def chain_frames(n_frames: int, n_beads: int, seed: int) -> np.ndarray:
    """Return chains ``(n_frames, n_beads, 3)`` Å with bonds, angles and dihedrals as of CA atoms."""
    rng = np.random.default_rng(seed)
    length = rng.normal(3.8, 0.08, (n_frames, n_beads))
    angle = np.deg2rad(rng.normal(112.0, 12.0, (n_frames, n_beads)))
    dihedral = np.deg2rad(rng.normal(-130.0, 50.0, (n_frames, n_beads)))
    frames = np.zeros((n_frames, n_beads, 3))
    frames[:, 1, 0] = length[:, 1]
    frames[:, 2, 0] = frames[:, 1, 0] - length[:, 2] * np.cos(angle[:, 2])
    frames[:, 2, 1] = length[:, 2] * np.sin(angle[:, 2])
    for i in range(3, n_beads):
        along = frames[:, i - 1] - frames[:, i - 2]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        normal = np.cross(frames[:, i - 2] - frames[:, i - 3], along)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        side = np.cross(normal, along)
        r, theta, phi = length[:, i, None], angle[:, i, None], dihedral[:, i, None]
        step = -np.cos(theta) * along + np.sin(theta) * (np.cos(phi) * side + np.sin(phi) * normal)
        frames[:, i] = frames[:, i - 1] + r * step
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--sequence", default="YYDPETGTWY")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    cgal_plugin.register()
    topology = CGTopology.from_sequence(arguments.sequence)
    frames = chain_frames(2000, topology.n_beads, seed=0)
    priors = fit_priors(topology, frames, TEMPERATURE)
    torch.manual_seed(0)
    model = torchmdnet_model.create_model(
        {
            "model": "cgschnet",
            "embedding_dimension": 32,
            "num_layers": 2,
            "prior_model": priors.to_prior_model(),
        }
    )
    potential = arguments.out / "potential.pt"
    export_torchscript(model, topology, potential, n_replicas=arguments.replicas, temperature=TEMPERATURE)
    start = mdtraj.Trajectory(frames[:1] / 10.0, topology.to_mdtraj())
    start.save_pdb(str(arguments.out / "start.pdb"))
    print(f"wrote {potential} and {arguments.out / 'start.pdb'}")


if __name__ == "__main__":
    main()
