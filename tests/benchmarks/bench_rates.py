"""The rates of ``cgal_plugin/runs/rates.py``: one core, by length of the chain, solvent and network.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rates.py [10 20 35 60]

CPU time of this process, so that other processes matter little; those on the same core still slow it down by
up to a half. The CG engine is compiled before it is timed.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests.priors.chains, when this runs as a script

SEQUENCE = "YYDPETGTWYKLAVSENQRGFHIMKDEALVTSYGQNKWLRIEAHFSDVKPTMLEQAGNYR"


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def all_atom(n: int, solvent: str) -> None:
    """MD of a chain of n residues, folded if it is chignolin and stretched otherwise."""
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.runs.rates import Molecule, Rates

    molecule = Molecule.of(CGTopology.from_sequence(SEQUENCE[:n]))
    shape = "folded" if n == 10 else "extended"
    if solvent == "tip3pfb" and molecule.box_atoms(shape) > 1e5:
        return
    model = AllAtomModel.from_sequence(SEQUENCE[:n], solvent=solvent)
    context = model.context(300.0, seed=1)
    step = context.getIntegrator().step
    step(1)
    n_steps = max(2, round(5 / seconds(lambda: step(1)))) if solvent == "tip3pfb" else 40
    found = seconds(lambda: step(n_steps)) / n_steps * 250
    guess = Rates(molecule, solvent).md_seconds(1.0, [shape])
    n_atoms = model.topology.getNumAtoms()
    print(f"{n:3d} residues  {solvent:8s} {n_atoms:6d} atoms  {found:8.2f} s/ps, estimate {guess:8.2f}")


def backmapping(n: int) -> None:
    """Backmap the beads of the built structure without a library."""
    from cgal_plugin.oracle import AllAtomModel, backmap
    from cgal_plugin.runs.rates import Molecule, Rates

    model = AllAtomModel.from_sequence(SEQUENCE[:n])
    beads = model.mapping.map_positions(model.positions[None])
    found = seconds(lambda: backmap(beads, model))
    guess = Rates(Molecule.of(model.cg_topology)).backmap_seconds()
    print(f"{n:3d} residues  backmapping {found:8.1f} s, estimate {guess:8.1f}")


def coarse_grained(n: int) -> None:
    """Training, and dynamics of 16 replicas, with 64 features and 2 blocks."""
    from cgal_plugin.data import DataStore, LabelledFrames
    from cgal_plugin.dynamics import simulate
    from cgal_plugin.export import export_torchscript
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.priors import fit_priors
    from cgal_plugin.runs.rates import Molecule, Rates
    from cgal_plugin.training import train
    from tests.priors.chains import chains

    topology = CGTopology.from_sequence(SEQUENCE[:n])
    frames, rows = chains(600, n).astype(np.float32), np.arange(600)
    rates = Rates(Molecule.of(topology))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = DataStore.create(folder / "store", topology, temperature=300.0, force_map_hash="none")
        forces = np.random.default_rng(0).normal(size=frames.shape)
        labelled = LabelledFrames(frames, forces, rows // 10, 0 * rows, np.zeros(600))
        store.append("seed_000", labelled, source="seed")
        hparams: dict[str, Any] = {
            "model": "cgschnet",
            "cgschnet": {"filter_grid": 1000},
            "embedding_dimension": 64,
            "num_layers": 2,
            "prior_model": fit_priors(topology, frames, 300.0).to_prior_model(),
            "dataset": "CGDataset",
            "dataset_root": str(store.root),
            "val_size": 0.1,
        }
        times = []
        for epochs in (1, 4):
            keys = {**hparams, "num_epochs": epochs}
            times.append(seconds(lambda keys=keys: train(keys, folder / str(keys["num_epochs"]), seed=0)))
        per_second = 3 * 600 / (times[1] - times[0])
        guess = 1 / rates.training_seconds(1, 1)
        print(f"{n:3d} beads  training {per_second:8.0f} frames/s, estimate {guess:8.0f}")
        checkpoint = max((folder / "4").glob("epoch_*.ckpt"))
        export_torchscript(checkpoint, topology, folder / "potential.pt", n_replicas=16, temperature=300.0)
        options = {"timestep_fs": 1.0, "temperature": 300.0, "friction": 1.0, "report_interval": 20}
        for backend, n_steps in (("cpu", 1000), ("fast", 1000), ("torchforce", 200)):

            def run(steps: int, out: str, backend: str = backend) -> float:
                return seconds(
                    lambda: simulate(
                        folder / "potential.pt",
                        topology,
                        frames[:16],
                        steps=steps,
                        out_dir=folder / f"{backend}_{out}",
                        backend=backend,
                        **options,
                    )
                )

            run(20, "first")
            rate = 16 * n_steps / (run(20 + n_steps, "long") - run(20, "short"))
            guess = 1 / rates.cg_seconds(1, 1.0, fast=backend != "torchforce", gpu=False)
            print(f"{n:3d} beads  {backend:10s} {rate:8.0f} replica-steps/s, estimate {guess:8.0f}")


def main(sizes: list[int]) -> None:
    """Measure and print each rate beside its estimate."""
    import torch

    import cgal_plugin

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    cgal_plugin.register()
    for n in sizes:
        coarse_grained(n)
        for solvent in ("obc2", "gbn2", "tip3pfb"):
            all_atom(n, solvent)
        backmapping(n)


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [10, 20, 35, 60])
