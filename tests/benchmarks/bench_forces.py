"""Force calls and Langevin steps: the fast engine and the exported file against eager TorchMD-Net.

    python tests/benchmarks/bench_forces.py                      # the table of the README, a few minutes
    python tests/benchmarks/bench_forces.py --quick              # 10 and 100 beads only
    python tests/benchmarks/bench_forces.py --plot scaling.png   # also plot cost against beads and replicas

All candidates have the same random weights: TorchMD-Net's graph-network, 128 features, 4 blocks. They run
alternately on one thread of one process; times are medians of CPU time, which is less sensitive to other
load than wall time. Results are checked to be finite and compared with TorchMD-Net before timing. The
reference for dynamics is a typical user script: the scripted model with priors in openmm-torch and autograd.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cgal_plugin
from cgal_plugin.dynamics import add_potential, build_system
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

CASES = [(beads, replicas) for beads in (10, 100, 250, 1000) for replicas in (1, 10, 100, 1000)]
QUICK = [(10, 1), (100, 1)]
LANGEVIN = [(10, 1), (10, 10), (10, 100), (10, 1000), (100, 1), (250, 1)]
#: directed pairs within the cutoff per call: above the first number the edges of TorchMD-Net need gigabytes,
#: above the second a call of the exported file takes many seconds
MAX_THEIRS, MAX_OURS = 100_000, 500_000
CUTOFF = 12.0
SEQUENCE = "YYDPETGTWY"


def topology(n_beads: int) -> CGTopology:
    """Return a chain of ``n_beads`` CA beads."""
    return CGTopology.from_sequence((SEQUENCE * (n_beads // 10 + 1))[:n_beads])


def globule(n_beads: int, seed: int) -> np.ndarray:
    """Return a compact chain ``(n_beads, 3)`` Å at the density of a protein, 134 Å³ per bead.

    A self-avoiding walk in a sphere; for more than 250 beads, where such walks fail, a jittered path through
    a cubic lattice.
    """
    rng = np.random.default_rng(seed)
    if n_beads > 250:
        side = round(n_beads ** (1 / 3) + 0.5)
        path = [
            (i, j if i % 2 == 0 else side - 1 - j, k if (i * side + j) % 2 == 0 else side - 1 - k)
            for i in range(side)
            for j in range(side)
            for k in range(side)
        ]
        return 5.12 * np.array(path[:n_beads]) + rng.normal(scale=0.4, size=(n_beads, 3))
    radius = (n_beads * 134.0 * 3 / (4 * np.pi)) ** (1 / 3)
    x = [np.zeros(3)]
    while len(x) < n_beads:
        for _ in range(200):
            step = rng.normal(size=3)
            bead = x[-1] + 3.8 * step / np.linalg.norm(step)
            if np.linalg.norm(bead) < radius and np.linalg.norm(np.array(x) - bead, axis=1).min() > 3.7:
                x.append(bead)
                break
        else:
            x = x[: max(1, len(x) - 10)]
    return np.array(x)


def frames(n_beads: int, n_replicas: int) -> np.ndarray:
    """Return ``(n_replicas, n_beads, 3)`` Å with at most 100 different frames."""
    return np.stack([globule(n_beads, seed % 100) for seed in range(n_replicas)])


def prior_tables(chain: CGTopology) -> list[dict[str, Any]]:
    """Return bonds, angles, dihedrals and repulsion as a TorchMD-Net prior_model."""
    from cgal_plugin.priors.tables import describe_molecule

    rows = {
        "CGBonds": ("bonds", {"types": ["*"] * 2, "k": 120.0, "r0": 3.8}),
        "CGAngles": ("angles", {"types": ["*"] * 3, "k": 4.0, "x0": 2.0}),
        "CGDihedrals": ("dihedrals", {"types": ["*"] * 4, "k": [0.5, 0.3, 0.2], "phase": [0.3, -2.0, 1.0]}),
        "CGRepulsion": ("repulsion", {"types": ["*"] * 2, "epsilon": 0.5, "sigma": 4.0}),
    }
    return [{n: {"table": [r], "molecule": describe_molecule(chain, t)}} for n, (t, r) in rows.items()]


def make_model(priors: list[dict[str, Any]] | None, derivative: bool) -> Any:
    """Return TorchMD-Net's graph-network with seeded random weights."""
    from torchmdnet.models.model import create_model

    args = {
        "model": "graph-network",
        "embedding_dimension": 128,
        "num_layers": 4,
        "num_rbf": 18,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "cutoff_lower": 3.0,
        "cutoff_upper": 12.0,
        "max_z": 50,
        "max_num_neighbors": 128,
        "neighbor_embedding": False,
        "aggr": "add",
        "reduce_op": "add",
        "output_model": "Scalar",
        "atom_filter": -1,
        "derivative": derivative,
        "precision": 32,
        "prior_model": priors,
        "prior_args": None,
    }
    torch.manual_seed(0)
    return create_model(args).eval()


def alternate(calls: dict[str, Callable[[], Any]], seconds: float, rounds: int = 5) -> dict[str, float]:
    """Return the median CPU seconds per call, with alternating calls and ``seconds`` in total for each."""
    counts = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        begin = time.process_time()
        call()
        counts[name] = max(1, int(seconds / rounds / max(time.process_time() - begin, 1e-6)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time()
            for _ in range(counts[name]):
                call()
            taken[name].append((time.process_time() - begin) / counts[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def force_case(n_beads: int, n_replicas: int, seconds: float, folder: Path) -> str:
    """Return a row of the table of force calls."""
    label = f"{n_beads:5d} {n_replicas:8d}"
    one = globule(n_beads, 0)
    pairs = n_replicas * int((np.linalg.norm(one[:, None] - one[None], axis=-1) < CUTOFF).sum() - n_beads)
    if pairs > MAX_OURS:
        return f"{label} skipped: {pairs / 1e6:.1f} million pairs take too long"
    chain, model = topology(n_beads), make_model(None, derivative=True)
    x = frames(n_beads, n_replicas).reshape(-1, 3)
    z = torch.from_numpy(np.tile(chain.types, n_replicas)).long()
    batch = torch.arange(n_replicas).repeat_interleave(n_beads)
    pos, nm = torch.from_numpy(x).float(), x / ANGSTROM_PER_NM
    fast = FastPotential.from_model(model, chain, n_replicas=n_replicas)
    path = folder / f"{n_beads}_{n_replicas}.pt"
    export_torchscript(model, chain, path, n_replicas=n_replicas)
    script, tensor = torch.jit.load(str(path)), torch.from_numpy(nm)
    calls: dict[str, Callable[[], Any]] = {
        "torchmd-net": lambda: model(z, pos, batch)[1].detach().numpy() * (KJ_PER_KCAL * ANGSTROM_PER_NM),
        "portable": lambda: script(tensor)[1].numpy(),
        "fast": lambda: fast(nm)[1],
    }
    if pairs > MAX_THEIRS:
        del calls["torchmd-net"]
    found = {name: call() for name, call in calls.items()}
    base = next(iter(found.values()))
    assert all(np.isfinite(f).all() for f in found.values())
    gap = max(np.abs(f - base).max() / np.abs(base).max() for f in found.values())
    # TorchMD-Net also computes in float32
    assert gap < 1e-4, f"forces differ by {gap:.1e}"
    return row(label, alternate(calls, seconds), f"{gap:9.1e}")


def row(label: str, times: dict[str, float], end: str = "") -> str:
    """Format microseconds and ratios to TorchMD-Net."""
    base = times.get("torchmd-net")
    cells = [f"{'-':>12}" if base is None else f"{base * 1e6:12.0f}"]
    for name in ("portable", "fast"):
        ratio = f"{'-':>8}" if base is None else f"{base / times[name]:7.1f}x"
        cells.append(f"{times[name] * 1e6:11.0f} {ratio}")
    return " ".join([label, *cells, end])


class UserScript(torch.nn.Module):
    """A typical module for openmm-torch: unit conversion and the energy; forces by autograd."""

    def __init__(self, model: torch.nn.Module, z: torch.Tensor, batch: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("z", z)
        self.register_buffer("batch", batch)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy, kJ/mol."""
        return self.model(self.z, positions.to(torch.float32) * 10.0, self.batch)[0].sum() * 4.184


def langevin_case(n_beads: int, n_replicas: int, seconds: float, folder: Path) -> str:
    """Return a row of the table of Langevin steps in OpenMM, with priors."""
    import openmm
    import openmmtorch

    chain = topology(n_beads)
    priors = prior_tables(chain)
    z = torch.from_numpy(np.tile(chain.types, n_replicas)).long()
    batch = torch.arange(n_replicas).repeat_interleave(n_beads)
    user = UserScript(make_model(priors, derivative=False), z, batch)
    for parameter in user.parameters():
        parameter.requires_grad_(False)
    torch.jit.script(user).save(folder / "user.pt")
    path = folder / "priors.pt"
    export_torchscript(make_model(priors, derivative=True), chain, path, n_replicas=n_replicas)
    start = frames(n_beads, n_replicas).reshape(-1, 3) / ANGSTROM_PER_NM
    integrators = {}
    contexts = {}
    for name in ("fast", "portable", "torchmd-net"):
        system = build_system(chain, n_replicas)
        if name == "torchmd-net":
            system.addForce(openmmtorch.TorchForce(str(folder / "user.pt")))
        else:
            backend = {"portable": "torchforce", "fast": "fast"}[name]
            add_potential(system, path, chain, backend=backend, n_replicas=n_replicas)
        integrator = openmm.LangevinMiddleIntegrator(400.0, 1.0, 0.002)
        integrator.setRandomNumberSeed(1)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(start)
        if name == "fast":
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
            integrator.step(200)
            start = context.getState(positions=True).getPositions(asNumpy=True)._value
        integrators[name], contexts[name] = integrator, context
    calls = {name: (lambda i=integrators[name]: i.step(1)) for name in ("torchmd-net", "portable", "fast")}
    times = alternate(calls, seconds)
    for context in contexts.values():
        state = context.getState(energy=True, positions=True)
        assert np.isfinite(state.getPositions(asNumpy=True)._value).all()
    return row(f"{n_beads:5d} {n_replicas:8d}", times)


def plot_scaling(path: str) -> None:
    """Plot the cost of the fast engine against replicas and beads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = make_model(None, derivative=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    sweeps = [("replicas of 10 beads", [(10, r) for r in (1, 3, 10, 30, 100, 300, 1000)], 1)]
    sweeps += [("beads, one replica", [(n, 1) for n in (300, 500, 700, 1000, 1500, 2000)], 0)]
    for axis, (label, cases, which) in zip(axes, sweeps, strict=True):
        cost = []
        for n, r in cases:
            potential = FastPotential.from_model(model, topology(n), n_replicas=r)
            x = frames(n, r).reshape(-1, 3) / ANGSTROM_PER_NM
            cost.append(alternate({"fast": lambda p=potential, x=x: p(x)}, 1.0)["fast"] * 1e3)
        size = np.array([case[which] for case in cases])
        axis.loglog(size, cost, "o-", label="measured")
        axis.loglog(size, cost[0] * size / size[0], "--", color="0.6", label="linear")
        axis.set(xlabel=label, ylabel="CPU time per call, ms")
        axis.set_xticks(size, [str(n) for n in size])
        axis.minorticks_off()
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 and 100 beads only")
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU time per candidate and row")
    parser.add_argument("--plot", help="write a figure of the scaling")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cgal_plugin.register()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        head = f"beads replicas  torchmd-net {'portable':>20} {'fast':>20}"
        print(f"\nforce call, us of CPU time\n{head}  max diff", flush=True)
        for n_beads, n_replicas in QUICK if args.quick else CASES:
            print(force_case(n_beads, n_replicas, args.seconds, Path(name)), flush=True)
        print(f"\nLangevin step in OpenMM, with priors, us of CPU time\n{head}", flush=True)
        for n_beads, n_replicas in [case for case in LANGEVIN if not args.quick or case in QUICK]:
            print(langevin_case(n_beads, n_replicas, args.seconds, Path(name)), flush=True)
    if args.plot:
        plot_scaling(args.plot)


if __name__ == "__main__":
    main()
