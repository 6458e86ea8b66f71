"""The GPU engine: the whole table of accuracy, steps per second, memory, energy drift and nearest RMSD.

    python tests/benchmarks/bench_gpu.py                        # on the first NVIDIA GPU, at most 8 minutes
    python tests/benchmarks/bench_gpu.py --device cpu --small   # the same code on Warp's CPU device

Cases: 10 beads (TorchMD-Net's graph-network, 128 features, 4 blocks, 18 rbf, 3-12 Å) with 1 and 1,000
replicas, and 269 beads (54 residues of 5 beads) with 128 replicas and the settings of mlcg (15 Å, 64 rbf,
tanh); random weights, with bond, angle, dihedral and repulsion priors. Ways to run them:

* ``resident``: ``simulate(backend="gpu")``, state and integrator on the GPU
* ``openmm``: LangevinMiddle of OpenMM (Reference platform), forces of ``add_potential(backend="gpu")``
* ``eager``, ``compiled``: forces of TorchMD-Net's ``graph-network`` without an integrator, so an upper bound
  of its dynamics; with half the replicas until they fit into memory

The ways of a case alternate, rates are medians of wall time with a synchronised device, and every line has
the aim beside it. A stage that fails or exceeds its time says so, and the others go on. ``--json FILE``
appends one JSON object per line as results come.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_forces import globule, make_model, prior_tables, topology

import cgal_plugin
from cgal_plugin._warp import device_name, has_gpu, load_warp
from cgal_plugin.dynamics import add_potential, build_system
from cgal_plugin.dynamics.gpu_engine import GPUEngine
from cgal_plugin.dynamics.gpu_force import HostCall, load_gpu_potential
from cgal_plugin.dynamics.packing import PackedForce
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.potential import potential_module
from cgal_plugin.mapping import CGTopology
from cgal_plugin.selector import nearest_rmsd
from cgal_plugin.selector.device_search import device_search
from cgal_plugin.units import ANGSTROM_PER_NM, BOLTZMANN_KCAL_PER_MOL_K, KJ_PER_KCAL

TEMPERATURE, TIMESTEP_FS, FRICTION = 300.0, 2.0, 1.0
#: largest error of a force component, relative to the largest component
ACCURACY = 1e-4
SEQUENCE_54 = "GSAELKQRVTDIYWNFLPHMCEAKSRLEVAQLIKDTPEYRSFLNAVMKQWDETH"
#: the published rate of FlashMD (arXiv 2602.13140): 269 beads, 128 replicas, RTX PRO 6000, another card
FLASHMD = 2861.0


class OutOfTime(Exception):
    """A stage exceeded its time."""


@dataclass
class Table:
    """Print lines, and append them to a file."""

    path: Path | None
    failed: int = 0

    def add(self, case: str, what: str, value: float, unit: str, aim: str = "") -> None:
        """Report one value."""
        print(f"{case:18s} {what:30s} {value:14,.6g} {unit:24s} {aim}", flush=True)
        self._append({"case": case, "what": what, "value": value, "unit": unit, "aim": aim})

    def say(self, case: str, text: str, *, failure: bool = False) -> None:
        """Report why something is missing, or a fact."""
        self.failed += failure
        print(f"{case:18s} {text}", flush=True)
        self._append({"case": case, "failure" if failure else "note": text})

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as handle:
                handle.write(json.dumps(row) + "\n")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after ``seconds`` of wall time."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


# ---------------------------------------------------------------------- molecules and models


def five_bead_chain(n_residues: int) -> tuple[CGTopology, np.ndarray]:
    """Return topology and coordinates ``(beads, 3)`` Å of a compact chain, five beads per residue."""
    chain = CGTopology.from_sequence(SEQUENCE_54[:n_residues], mapping="5bead")
    rng = np.random.default_rng(0)
    alpha = globule(n_residues, 0)
    before = np.vstack([2 * alpha[0] - alpha[1], alpha[:-1]]) - alpha
    after = np.vstack([alpha[1:], 2 * alpha[-1] - alpha[-2]]) - alpha
    side = np.cross(before, after) + 1e-3 * rng.normal(size=alpha.shape)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    offset = {
        "N": 0.36 * before + 0.4 * side,
        "CA": 0 * side,
        "CB": -1.5 * side,
        "C": 0.38 * after + 0.4 * side,
    }
    offset["O"] = offset["C"] + 1.23 * side
    x = [alpha[r] + offset[name][r] for name, r in zip(chain.bead_names, chain.residue_index, strict=True)]
    return chain, np.array(x)


def mlcg_model(chain: CGTopology, network: str) -> Any:
    """Return a model with mlcg's settings: ours (``cgschnet``) or TorchMD-Net's (``graph-network``)."""
    from torchmdnet.models.model import create_model

    priors = prior_tables(chain)
    for name, value in (("CGBonds", {"r0": 1.45}), ("CGRepulsion", {"sigma": 2.0})):
        row = next(p[name] for p in priors if name in p)["table"][0]
        row[1].update(value) if isinstance(row, tuple) else row.update(value)
    args: dict[str, Any] = {
        "model": network,
        "embedding_dimension": 128,
        "num_layers": 4,
        "num_rbf": 64,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "tanh",
        "cutoff_lower": 0.0,
        "cutoff_upper": 15.0,
        "max_z": 50,
        "max_num_neighbors": chain.n_beads,
        "neighbor_embedding": False,
        "aggr": "add",
        "reduce_op": "add",
        "output_model": "Scalar",
        "atom_filter": -1,
        "derivative": True,
        "precision": 32,
        "prior_model": priors,
        "prior_args": None,
    }
    if network == "cgschnet":
        args["cgschnet"] = {"form": "mlcg"}
    torch.manual_seed(0)
    return create_model(args).eval()


@dataclass
class Case:
    """A molecule with its exported potential and start frames."""

    name: str
    chain: CGTopology
    model: Any
    theirs: Any
    start: np.ndarray
    path: Path
    cutoff: float
    #: ours for one replica, on the device
    potential: Any = None

    def engine(self, device: str, **changes: Any) -> GPUEngine:
        """Return a device-resident engine; the file is read once."""
        if self.potential is None:
            self.potential = load_gpu_potential(self.path, 1, device)
        return GPUEngine(self.settings(device, **changes), potential=self.potential)

    def settings(self, device: str, **changes: Any) -> Settings:
        """Return the settings of the dynamics."""
        values: dict[str, Any] = {
            "potential": self.path,
            "topology": self.chain,
            "n_replicas": len(self.start),
            "timestep_fs": TIMESTEP_FS,
            "temperature": TEMPERATURE,
            "friction": FRICTION,
            "seed": 1,
            "backend": "gpu",
            "platform": "CPU" if device == "cpu" else "CUDA",
        }
        return Settings(**values | changes)


def make_case(n_beads: int, n_replicas: int, folder: Path) -> Case:
    """Return the case of ten CA beads, or of five beads per residue."""
    name = f"{n_beads} x {n_replicas}"
    if n_beads == 10:
        chain = topology(n_beads)
        model = theirs = make_model(prior_tables(chain), derivative=True)
        one, cutoff = globule(n_beads, 0), 12.0
    else:
        chain, one = five_bead_chain((n_beads + 1) // 5)  # with one glycine, which has four beads
        model, theirs, cutoff = mlcg_model(chain, "cgschnet"), mlcg_model(chain, "graph-network"), 15.0
    path = folder / f"{name.replace(' ', '')}.pt"
    export_torchscript(model, chain, path, n_replicas=n_replicas)
    return Case(name, chain, model, theirs, np.repeat(one[None], n_replicas, axis=0), path, cutoff)


def relaxed(case: Case, device: str) -> GPUEngine:
    """Return an engine after a minimisation and a short run, and keep its frames as start."""
    first = case.engine(device, n_replicas=1)
    first.set_start(case.start[:1], minimize_steps=100)
    case.start = np.repeat(first.positions(), len(case.start), axis=0)
    engine = case.engine(device)
    engine.set_start(case.start)
    engine.step(200 if device != "cpu" else 5)
    case.start = engine.positions()
    return engine


# ---------------------------------------------------------------------- ways to run


def openmm_runner(case: Case, device: str) -> Callable[[int], None]:
    """Return a function that runs steps of OpenMM with the GPU force."""
    import openmm

    system = build_system(case.chain, len(case.start))
    add_potential(
        system,
        case.path,
        case.chain,
        backend="gpu",
        n_replicas=len(case.start),
        device="cpu" if device == "cpu" else "cuda",
    )
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIMESTEP_FS / 1000.0)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(case.start.reshape(-1, 3) / ANGSTROM_PER_NM)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    # the context is freed with the function that keeps it
    return lambda n, keep=context: integrator.step(n)  # type: ignore[misc]


def torchmdnet_runner(case: Case, device: torch.device, compiled: bool) -> tuple[Callable[[int], None], int]:
    """Return a function that evaluates forces n times, and the replicas that fit into memory."""
    count = len(case.start)
    model = case.theirs.to(device)
    if compiled:
        model = torch.compile(model, dynamic=False)
    while True:
        z = torch.from_numpy(np.tile(case.chain.types, count)).long().to(device)
        batch = torch.arange(count, device=device).repeat_interleave(case.chain.n_beads)
        pos = torch.from_numpy(case.start[:count].reshape(-1, 3)).float().to(device)

        def run(n: int, z: Any = z, pos: Any = pos, batch: Any = batch) -> None:
            for _ in range(n):
                model(z, pos, batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        try:
            run(2)
            return run, count
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            count //= 2
            torch.cuda.empty_cache()


def alternate(runs: dict[str, Callable[[int], None]], seconds: float, rounds: int = 5) -> dict[str, float]:
    """Return steps per second: the median over rounds, in which the ways alternate."""
    counts = {}
    for name, run in runs.items():
        run(4)
        begin = time.perf_counter()
        run(4)
        counts[name] = max(1, int(4 * seconds / rounds / max(time.perf_counter() - begin, 1e-6)))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(counts[name])
            rates[name].append(counts[name] / (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in rates.items()}


# ---------------------------------------------------------------------- stages


def accuracy(case: Case, device: str, table: Table) -> None:
    """Compare forces with the exact network in float64."""
    call = HostCall(PackedForce(case.potential, len(case.start)))
    forces = call(case.start.reshape(-1, 3))[1].reshape(case.start.shape)
    few = min(2, len(case.start))
    exact = potential_module(case.model, case.chain, n_replicas=few, dtype="float64", verify=False)
    wanted = exact(torch.from_numpy(case.start[:few].reshape(-1, 3) / ANGSTROM_PER_NM))[1].detach().numpy()
    wanted = wanted.reshape(few, -1, 3) / (KJ_PER_KCAL * ANGSTROM_PER_NM)
    error = float(np.abs(forces[:few] - wanted).max() / np.abs(wanted).max())
    table.add(case.name, "force error", error, "of the largest component", f"aim <= {ACCURACY:g}")
    if not error <= ACCURACY:
        table.say(case.name, f"force error {error:.1e} exceeds {ACCURACY:g}", failure=True)


def rates(case: Case, device: str, table: Table, args: argparse.Namespace, aims: dict[str, str]) -> None:
    """Measure steps per second of every way, and the memory of ours."""
    wp = load_warp()
    free = wp.get_device(device).free_memory if device != "cpu" else 0
    engine = relaxed(case, device)
    near = np.linalg.norm(case.start[0][:, None] - case.start[0][None], axis=-1) < case.cutoff
    neighbours = float(near.sum()) / case.chain.n_beads - 1
    table.add(case.name, "neighbours per bead", neighbours, f"within {case.cutoff:g} Å")
    accuracy(case, device, table)
    runs: dict[str, Callable[[int], None]] = {"resident": lambda n: (engine.step(n), None)[1]}
    replicas = {"resident": len(case.start)}
    engine.step(100 if device != "cpu" else 2)
    used = (free - wp.get_device(device).free_memory) if device != "cpu" else engine.force.memory_bytes
    table.add(case.name, "memory, resident", used / 2**30, "GB", aims.get("memory", ""))
    ways: dict[str, Callable[[], tuple[Callable[[int], None], int]]] = {
        "openmm": lambda: (openmm_runner(case, device), len(case.start)),
        "eager": lambda: torchmdnet_runner(case, torch.device(device), False),
        "compiled": lambda: torchmdnet_runner(case, torch.device(device), True),
    }
    for name, build in ways.items():
        if name in args.without:
            continue
        try:
            with at_most(60.0):
                runs[name], replicas[name] = build()
        except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
            table.say(case.name, f"{name}: {first_line(error)}", failure=name == "openmm")
    found = alternate(runs, args.seconds)
    for name, rate in found.items():
        n = replicas[name]
        note = "" if n == len(case.start) else f"({n} replicas fit)"
        table.add(case.name, f"{name} {note}", rate, "steps/s" if n == 1 else "calls/s", aims.get(name, ""))
        if n > 1:
            table.add(case.name, f"{name} {note}", rate * n, "replica-steps/s", aims.get(f"{name} all", ""))
    if not np.isfinite(engine.positions()).all():
        table.say(case.name, "a replica is not finite after the runs", failure=True)


def drift(case: Case, device: str, table: Table, steps: int) -> None:
    """Print the energy drift without a thermostat: a line through the total energy, per bead and ns."""
    engine = case.engine(device, friction=0.0)
    engine.set_start(case.start)
    mass, dt = case.chain.masses[:, None], TIMESTEP_FS / 1000.0
    energies = []
    for _ in range(40):
        engine.step(max(1, steps // 40))
        # leapfrog: half a kick gives the velocities at the time of the positions
        v = engine.velocities() + engine.forces() * (0.5 * dt * ANGSTROM_PER_NM) / mass
        energies.append(engine.energies() + 0.5 * (mass * v**2).sum(axis=(1, 2)) / (100.0 * KJ_PER_KCAL))
    total = np.array(energies)
    ns = np.arange(len(total)) * max(1, steps // 40) * dt / 1000.0
    slopes = np.polyfit(ns, total, 1)[0] / case.chain.n_beads / (BOLTZMANN_KCAL_PER_MOL_K * TEMPERATURE)
    error = slopes.std() / np.sqrt(len(slopes)) if len(slopes) > 1 else float("nan")
    table.add(case.name, "NVE drift, resident", float(slopes.mean()), "kT per bead and ns", f"± {error:.2g}")


def selection(device: str, table: Table, frames: int) -> None:
    """Time the nearest RMSD on the GPU and on the CPU, and compare the results."""
    from bench_selector import simulate as hairpins

    replicas = 50
    x, y = (hairpins(replicas, max(2, frames // 10 // replicas), seed) for seed in (1, 2))
    rng = np.random.default_rng(0)  # ten copies with noise: the script has no minutes to sample them all
    x, y = (np.concatenate([s + rng.normal(scale=0.3, size=s.shape) for _ in range(10)]) for s in (x, y))
    case, sample = f"{len(x)} x {len(y)}", slice(0, len(x), max(1, len(x) // 2000))
    where = "cpu" if device == "cpu" else "cuda:0"
    device_search(y[:64], x[:64], np.full(64, np.inf), where)  # compiles
    begin = time.perf_counter()
    if device == "cpu":
        found = device_search(y, x, np.full(len(x), np.inf), where)
        assert found is not None
        distance, index = found
    else:
        distance, index = nearest_rmsd(x, y, device="cuda")
    gpu = time.perf_counter() - begin
    begin = time.perf_counter()
    expected, which = nearest_rmsd(x[sample], y, device="cpu")
    cpu = (time.perf_counter() - begin) * len(x) / len(expected)
    table.add(case, "nearest RMSD, device", gpu, "s")
    table.add(case, "nearest RMSD, CPU", cpu, "s, all usable cores", f"from {len(expected)} candidates")
    table.add(case, "CPU / device", cpu / gpu, "", "aim > 1")
    gap = float(np.abs(distance[sample] - expected).max())
    table.add(case, "largest difference", gap, "Å", "aim <= 1e-05")
    ties = int((index[sample] != which).sum())
    table.add(case, "other index", ties, "candidates", "0, or ties")
    if gap > 1e-5:
        table.say(case, f"distances differ by {gap:.1e} Å", failure=True)


def main(argv: list[str] | None = None) -> None:
    """Print the table; exit code 1 if a stage failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="smallest sizes, seconds; a test of the script")
    parser.add_argument("--seconds", type=float, help="wall time for the rate of each way")
    parser.add_argument("--minutes", type=float, default=8.0, help="end of the script, wall time")
    parser.add_argument("--without", nargs="+", default=[], choices=["openmm", "eager", "compiled"])
    parser.add_argument("--json", type=Path, help="append results to this file")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not has_gpu():
        raise SystemExit("no NVIDIA GPU with a working driver: use --device cpu --small to test the script")
    args.seconds = args.seconds or (0.2 if args.small else 4.0)
    args.without += ["compiled"] if args.small else []
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cgal_plugin.register()
    device, begin = "cpu" if args.device == "cpu" else "cuda:0", time.monotonic()
    table = Table(args.json)
    versions = (
        f"torch {torch.__version__}, Warp {load_warp().__version__}, Python {platform.python_version()}"
    )
    table.say("device", f"{device_name(device)}; {versions}; {time.strftime('%Y-%m-%d %H:%M')}")
    one, many, large = ((10, 1), (10, 1000), (269, 128)) if not args.small else ((10, 1), (10, 4), (29, 2))
    aims = {
        one: {"resident": "aim >= 20,000", "openmm": "aim >= 5,000"},
        many: {"resident all": "aim >= 1,500,000 (bound by float32 8,400,000)"},
        large: {
            "resident all": f"aim >= 28,600, 10 x FlashMD's {FLASHMD:,.0f} (another card)",
            "memory": "aim <= 4",
        },
    }
    cases: dict[tuple[int, int], Case] = {}
    with tempfile.TemporaryDirectory() as folder:

        def measure(size: tuple[int, int]) -> None:
            cases[size] = make_case(*size, Path(folder))
            rates(cases[size], device, table, args, aims[size])

        steps = 12_500 if not args.small else 200
        stages: list[tuple[str, float, Callable[[], None]]] = [
            (f"{one[0]} beads x {one[1]}", 120.0, lambda: measure(one)),
            (f"{large[0]} beads x {large[1]}", 180.0, lambda: measure(large)),
            (f"{many[0]} beads x {many[1]}", 120.0, lambda: measure(many)),
            ("energy, 10 beads", 40.0, lambda: drift(cases[many], device, table, steps)),
            ("energy, large", 40.0, lambda: drift(cases[large], device, table, steps // 5)),
            ("nearest RMSD", 90.0, lambda: selection(device, table, 1000 if args.small else 100_000)),
        ]
        for name, limit, work in stages:
            left = 60.0 * args.minutes - (time.monotonic() - begin)
            started = time.monotonic()
            try:
                with at_most(min(limit, left)):
                    work()
                table.say(name, f"({time.monotonic() - started:.0f} s)")
            except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, the others go on)
                table.say(name, first_line(error), failure=True)
    table.say("end", f"{time.monotonic() - begin:.0f} s, {table.failed} failure(s)")
    if table.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
