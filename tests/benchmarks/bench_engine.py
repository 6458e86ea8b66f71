"""The fast engine: threads, cost per pair of large molecules, and energy conservation of each engine.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_engine.py            # some minutes
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_engine.py --quick    # about a minute

Weights are random: TorchMD-Net's graph-network, 128 features, 4 blocks, cutoff 12 Å. What is compared runs
alternately in one process. Threads are compared by wall time, and the smallest time counts: it needs idle
cores. The cost per pair is CPU time of one thread. Energy conservation: velocity Verlet at constant energy
from 300 K, with bonds, angles, dihedrals and repulsion; the drift is that of the total energy.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_forces import CUTOFF, frames, globule, make_model, prior_tables, topology
from nve import Engine, drift, equilibrated, total_energies

import cgal_plugin
from cgal_plugin.errors import ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.units import ANGSTROM_PER_NM

#: beads, replicas
THREADS = [(10, 100), (10, 1000), (1000, 1), (300, 8)]
THREADS_QUICK = [(10, 100), (1000, 1)]
PAIRS = [300, 2000, 10_000]
#: fs
TIMESTEP = 4.0


def alternate(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, tuple[float, float]]:
    """Return the smallest wall time and CPU time of each call; calls alternate for ``seconds`` each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    while min(sum(cpu for _, cpu in times) for times in taken.values()) < seconds:
        for name, call in calls.items():
            begin, cpu = time.perf_counter(), time.process_time()
            call()
            taken[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    return {name: (min(t[0] for t in times), min(t[1] for t in times)) for name, times in taken.items()}


def threads_case(n_beads: int, n_replicas: int, counts: list[int], seconds: float) -> str:
    """Return a row: time of a call for each number of threads, and the ratio to one thread."""
    model = make_model(None, derivative=True)
    one = FastPotential.from_model(model, topology(n_beads), n_replicas=n_replicas)
    x = frames(n_beads, n_replicas).reshape(-1, 3) / ANGSTROM_PER_NM
    engines = {str(n): one.with_threads(n) for n in counts}
    expected = one(x)
    for engine in engines.values():
        found = engine(x)
        assert found[0] == expected[0]
        assert np.array_equal(found[1], expected[1])
    calls = {name: lambda engine=engine: engine(x) for name, engine in engines.items()}
    times = alternate(calls, seconds)
    wall, cpu = times["1"]
    cells = [f"{1e3 * t:9.2f} ms {wall / t:5.2f}x {used / cpu:5.2f}" for t, used in times.values()]
    return " ".join([f"{n_beads:6d} {n_replicas:8d}", *cells])


def pairs_table(sizes: list[int], seconds: float) -> list[str]:
    """Return rows: CPU time of a call and per pair within the cutoff, and the ratio to the first row."""
    calls: dict[str, Callable[[], Any]] = {}
    pairs = []
    for n in sizes:
        x = globule(n, 0)
        count = sum(int((np.linalg.norm(x[i + 1 :] - x[i], axis=1) < CUTOFF).sum()) for i in range(n))
        engine = FastPotential.from_model(make_model(None, derivative=True), topology(n))
        calls[str(n)] = lambda engine=engine, nm=x / ANGSTROM_PER_NM: engine(nm)
        pairs.append(count)
    times = {name: cpu for name, (_, cpu) in alternate(calls, seconds).items()}
    each = [t / count for t, count in zip(times.values(), pairs, strict=True)]
    return [
        f"{n:6d} {count:9d} {1e3 * times[str(n)]:9.1f} ms {1e9 * cost:7.0f} ns {cost / each[0]:6.2f}"
        for n, count, cost in zip(sizes, pairs, each, strict=True)
    ]


def engines_for(n_beads: int, folder: Path) -> dict[str, Engine]:
    """Return the engines that are installed, with priors; the exported file computes in float32."""
    chain = topology(n_beads)
    model = make_model(prior_tables(chain), derivative=True)
    path = folder / f"{n_beads}.pt"
    export_torchscript(model, chain, path)
    script = torch.jit.load(str(path))

    def portable(x: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = script(torch.from_numpy(x))
        return float(energy), forces.to(torch.float64).numpy()

    fast = FastPotential.from_file(path)
    found: dict[str, Engine] = {"fast": fast, "fast, 2 threads": fast.with_threads(2), "portable": portable}
    if importlib.util.find_spec("warp") is None:
        return found
    from cgal_plugin.export.gpu.potential import GPUPotential

    try:
        gpu = GPUPotential.from_file(path)
    except ExportError as error:
        print(f"{error}; here its kernels run on Warp's CPU device", flush=True)
        gpu = GPUPotential.from_file(path, device="cpu")
    return {**found, f"gpu ({gpu.device})": gpu}


def conservation_table(n_beads: int, picoseconds: float, folder: Path) -> Iterator[str]:
    """Yield rows: drift and standard deviation of the total energy at the time step and at half of it."""
    engines = engines_for(n_beads, folder)
    masses = np.asarray(topology(n_beads).masses)
    start = globule(n_beads, 0) / ANGSTROM_PER_NM
    x, v = equilibrated(engines["fast"], start, masses, steps=1000)
    for name, engine in engines.items():
        cells = [f"{n_beads:6d} {name:18s}"]
        spreads = []
        for dt in (TIMESTEP, TIMESTEP / 2):
            energies = total_energies(engine, x, v, masses, dt, round(1000.0 * picoseconds / dt))
            assert np.isfinite(energies).all()
            spreads.append(energies.std() / n_beads)
            cells.append(f"{dt:4.1f} fs {drift(energies, dt, n_beads):+10.2e} {spreads[-1]:9.1e}")
        yield " ".join([*cells, f"{spreads[0] / spreads[1]:6.2f}"])


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few sizes, short runs")
    parser.add_argument("--seconds", type=float, default=8.0, help="time per candidate and row")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cgal_plugin.register()
    counts = sorted({1, *args.threads})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else f"{cores} cores")
    print(
        "\nthreads, wall time (equal to the last bit)\n beads replicas  " + f"{'':10}".join(map(str, counts))
    )
    for n_beads, n_replicas in THREADS_QUICK if args.quick else THREADS:
        print(threads_case(n_beads, n_replicas, counts, args.seconds), flush=True)
    print("\nlarge molecules, CPU time of one thread\n beads     pairs         call    per pair  ratio")
    for row in pairs_table(PAIRS, min(args.seconds, 2.0) if args.quick else args.seconds):
        print(row, flush=True)
    print(
        "\nenergy conservation: drift, kT per bead and ns; standard deviation, kJ/mol per bead, and its ratio"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n_beads, picoseconds in ((10, 4.0),) if args.quick else ((10, 100.0), (100, 10.0)):
            for row in conservation_table(n_beads, picoseconds, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
