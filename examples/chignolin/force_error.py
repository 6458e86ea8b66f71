"""How well the priors of each round of a run give the mean forces of the reference.

    python force_error.py runs/quick                      # with and without free bond tensions

Mean squared error of a frame's forces, (kcal/mol/Å)², over frames of reference.npz with the forces in
reference_forces.npz, drawn by their weights. Only the directions that no bond has count. Most of the error is
noise that no model can remove, so it is given relative to bonds and repulsion alone: lower is better.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

from cgal_plugin.analysis import TICAModel
from cgal_plugin.analysis.markov_states import ReferenceStates, reweight
from cgal_plugin.data import DataStore
from cgal_plugin.data.sources import read_store
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.priors import fit_priors
from cgal_plugin.priors.evaluate import prior_forces
from cgal_plugin.priors.settings import FitSettings
from cgal_plugin.priors.tension import FreeTensions
from cgal_plugin.runs.layout import shard_round

HERE = Path(__file__).parent
TERMS = ("bonds", "angle_series", "dihedrals", "repulsion", "pairs")
#: of the tensions: none are free, and the default
RIDGES = (np.inf, FitSettings.ridge_tension)
STIFF = {"terms": ("bonds", "repulsion"), "power": 12, "contact_percentile": 0.1}


def reference(topology, n):
    """Return ``n`` frames of the equilibrium distribution and their forces."""
    trajectories = load_trajectories(HERE / "reference.npz", topology)
    forces = np.load(HERE / "reference_forces.npz")
    tics = TICAModel.fit(trajectories, 5).transform(trajectories)
    weights = np.concatenate(reweight(ReferenceStates.fit(tics, seed=0), lag_frames=25).weights)
    drawn = np.random.default_rng(0).choice(len(weights), n, p=weights / weights.sum())
    x, f = np.concatenate(trajectories), np.concatenate([forces[name] for name in forces])
    return x[drawn].astype(float), f[drawn].astype(float)


def error(priors, x, forces):
    """Return the mean squared error of a frame, without the directions of bonds."""
    rest = (forces - prior_forces(priors, x)).reshape(len(x), -1, 1)
    gradients = FreeTensions(priors.molecule.bond_index, 1.0, 1).gradients(x)
    along = np.linalg.qr(gradients.reshape(len(x), rest.shape[1], -1))[0].swapaxes(1, 2) @ rest
    return ((rest**2).sum() - (along**2).sum()) / len(x)


def matched(data, ridge):
    """Return the priors of the default recipe with this ridge of the tensions."""
    return fit_priors(
        data.topology,
        data.positions,
        data.temperature,
        terms=TERMS,
        method="force_matching",
        forces=data.forces,
        weights=data.frame_weights(),
        pairs_per_type=True,
        ridge_tension=ridge,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=3000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for run in arguments.runs:
        store = DataStore(run / "data")
        x, forces = reference(store.topology, arguments.frames)
        for number in sorted({shard_round(name) for name in store.names()}):
            names = [name for name in store.names() if shard_round(name) <= number]
            data = read_store(store.root, names, None)
            stiff = error(fit_priors(data.topology, data.positions, data.temperature, **STIFF), x, forces)
            plain, free = (error(matched(data, ridge), x, forces) - stiff for ridge in RIDGES)
            print(
                f"{run}, {len(names)} shards, {len(data.positions)} frames: {plain:+.1f}, with free tensions "
                f"{free:+.1f} (bonds and repulsion {stiff:.0f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
