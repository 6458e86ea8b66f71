"""Training of CGSchNet against TorchMD-Net's ``graph-network`` of the same size, one thread.

    python tests/benchmarks/bench_training.py                 # steps and epochs, 64x2 and 128x4
    python tests/benchmarks/bench_training.py --priors        # with bonds, angles, dihedrals, repulsion
    python tests/benchmarks/bench_training.py --sizes 128x4 --frames 6400 --rounds 20

Both train on the same frames (the ten-bead hairpin of ``bench_selector.py``, random forces), with
the same hyper-parameters, precision 32. A step is collation of a batch, TorchMD-Net's
``training_step`` and ``backward``, and its AdamW; an epoch is Lightning's, with LNNP and
validation on a tenth. ``graph-network`` gets its batches as PyG collates them and an upstream
DataModule, ours what ``cgal_plugin.training.train`` uses. Runs alternate in one process; the times
are medians of CPU time, which a busy machine disturbs less than wall time. ``grid`` is ours with
``cgschnet: {filter_grid: N}``.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_selector import simulate

import cgal_plugin
from cgal_plugin.data.dataset import CGDataset
from cgal_plugin.mapping import CGTopology
from cgal_plugin.training.settings import resolve

PRIORS = ["CGBonds", "CGAngles", "CGDihedrals", "CGRepulsion"]


def write_data(folder: Path, n_frames: int) -> dict[str, Any]:
    """Frames and forces as files; the dataset arguments that read them."""
    frames = simulate(8, -(-n_frames // 8), 0)[:n_frames]
    np.save(folder / "x.npy", frames.astype(np.float32))
    forces = np.random.default_rng(0).normal(scale=10.0, size=frames.shape)
    np.save(folder / "f.npy", forces.astype(np.float32))
    CGTopology.from_sequence("YYDPETGTWY").save(folder / "t.json")
    return {"coords": "x.npy", "forces": "f.npy", "topology": str(folder / "t.json"), "temperature": 400.0}


def module(hparams: Mapping[str, Any], dataset: CGDataset) -> Any:
    """TorchMD-Net's LNNP."""
    from torchmdnet.models.model import create_prior_models
    from torchmdnet.module import LNNP

    hparams = copy.deepcopy(dict(hparams))
    priors = create_prior_models(dict(hparams), dataset) if hparams["prior_model"] else None
    torch.manual_seed(0)
    return LNNP(hparams, prior_model=priors)


def stepper(hparams: Mapping[str, Any], dataset: CGDataset) -> Callable[[], float]:
    """A function that makes one training step and returns the loss."""
    from torch_geometric.data import Batch

    model = module(hparams, dataset).train()
    optimizer = model.configure_optimizers()[0][0]
    size, count = hparams["batch_size"], [0]

    def step() -> float:
        first = count[0] % (len(dataset) // size) * size
        count[0] += 1
        items = dataset.__getitems__(range(first, first + size))
        loss = model.training_step(items[0] if dataset.prebatch else Batch.from_data_list(items), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def epoch(hparams: Mapping[str, Any], dataset: CGDataset, folder: Path) -> Callable[[], float]:
    """A function that runs one epoch of Lightning and returns the training loss."""
    from torchmdnet.data import DataModule

    from cgal_plugin.training.lightning import SeededDataModule, fit, make_trainer, quiet

    model = module(hparams, dataset)
    settings = {**hparams, "log_dir": str(folder), "val_size": 0.1}
    data = SeededDataModule(settings, dataset, 0) if dataset.prebatch else DataModule(settings, dataset)

    def run() -> float:
        with quiet():
            trainer = make_trainer(dict(hparams), folder, 1, {})
            fit(trainer, model, data, None)
        return float(trainer.callback_metrics["train_total_mse_loss"])

    return run


def compare(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, run in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 2):
        for name, work in variants.items():
            start = time.process_time()
            loss = work()
            if number >= 2:
                times[name].append(time.process_time() - start)
            if not np.isfinite(loss):
                raise SystemExit(f"{name}: the loss is {loss}")
    return {name: float(np.median(values)) for name, values in times.items()}


def main(argv: list[str] | None = None) -> None:
    """Run, compare, print a table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--sizes", nargs="+", default=["64x2", "128x4"], metavar="FxL")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--frames", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=10, help="timed steps; a third as many epochs")
    parser.add_argument("--grid", type=int, default=400)
    parser.add_argument("--priors", action="store_true")
    parser.add_argument("--no-epochs", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cgal_plugin.register()
    print(f"cgal_plugin {Path(cgal_plugin.__file__).parent}, torch {torch.__version__}, one thread, float32")
    print(f"batch {args.batch}, {args.frames} frames of 10 beads, priors: {'yes' if args.priors else 'no'}")
    print(f"{'size':8s}{'work':8s}{'variant':16s}{'CPU ms':>10s}{'frames/s':>10s}{'ratio':>8s}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argument = write_data(folder, args.frames)
        data = {fast: CGDataset(folder, prebatch=fast, **argument) for fast in (True, False)}
        for size in args.sizes:
            width, layers = (int(n) for n in size.split("x"))
            common = resolve({
                "embedding_dimension": width, "num_layers": layers, "batch_size": args.batch,
                "prior_model": PRIORS if args.priors else None, "dataset_root": str(folder),
            }) | {"load_model": None, "seed": 0}  # fmt: skip
            theirs = {**common, "model": "graph-network"}
            theirs.pop("cgschnet")
            kinds = {
                "graph-network": (theirs, data[False]),
                "ours": (common, data[True]),
                f"ours, grid {args.grid}": ({**common, "cgschnet": {"filter_grid": args.grid}}, data[True]),
            }
            work = {"step": ({k: stepper(*v) for k, v in kinds.items()}, args.rounds, args.batch)}
            if not args.no_epochs:
                loops = {k: epoch(*v, folder) for k, v in kinds.items()}
                work["epoch"] = (loops, max(1, args.rounds // 3), args.frames)
            for label, (variants, rounds, frames) in work.items():
                times = compare(variants, rounds)
                for variant, seconds in times.items():
                    print(
                        f"{size:8s}{label:8s}{variant:16s}{1e3 * seconds:10.1f}{frames / seconds:10.0f}"
                        f"{times['graph-network'] / seconds:8.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
