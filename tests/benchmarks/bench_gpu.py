"""Force calls on a GPU: the exported potential against eager and compiled TorchMD-Net.

    python tests/benchmarks/bench_gpu.py                # on the first CUDA device
    python tests/benchmarks/bench_gpu.py --device cpu   # the same code on a CPU, as a test of the script

All candidates have the same random weights (TorchMD-Net's ``graph-network``, 128 features, 4 blocks); 10, 100
and 250 beads, 1 to 10,000 replicas. ``portable`` is the exported TorchScript; ``frozen`` is the same after
``torch.jit.freeze``, as openmm-torch runs it; ``graph`` replays it as a CUDA graph, only for small
molecules; ``fast`` is the compiled engine on one CPU thread; ``compiled`` is TorchMD-Net with
``torch.compile``. Unavailable candidates are skipped, with the reason. Times are medians of wall time with a
synchronised device and alternating candidates. Results are compared with TorchMD-Net before timing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_forces import frames, make_model, topology

import cgal_plugin
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

Call = Callable[[], np.ndarray]
NAMES = ("torchmd-net", "compiled", "portable", "frozen", "graph", "fast")
#: beads per call of TorchMD-Net, whose edges would otherwise exceed the memory of a GPU
MAX_BEADS = 250_000


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_graph(script: Any, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return the call as one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            script(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forces = script(x)[1]

    def call() -> torch.Tensor:
        graph.replay()
        return forces

    return call


def candidates(
    n_beads: int, n_replicas: int, device: torch.device, folder: Path, wanted: set[str]
) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Return calls that give forces in kJ/mol/nm, and the reasons for missing ones."""
    chain, model = topology(n_beads), make_model(None, derivative=True)
    x = frames(n_beads, n_replicas).reshape(-1, 3) / ANGSTROM_PER_NM
    unit, missing = KJ_PER_KCAL * ANGSTROM_PER_NM, []
    calls: dict[str, Callable[[], Any]] = {}
    path = folder / f"{n_beads}_{n_replicas}.pt"
    export_torchscript(model, chain, path, n_replicas=n_replicas)
    script = torch.jit.load(str(path), map_location=device).eval()
    nm = torch.from_numpy(x).to(device)
    z = torch.from_numpy(np.tile(chain.types, n_replicas)).long().to(device)
    batch = torch.arange(n_replicas, device=device).repeat_interleave(n_beads)
    pos = (nm * ANGSTROM_PER_NM).float()
    theirs = make_model(None, derivative=True).to(device)
    calls["torchmd-net"] = lambda: theirs(z, pos, batch)[1].detach() * unit
    if "compiled" in wanted:
        compiled = torch.compile(theirs, dynamic=False)
        calls["compiled"] = lambda: compiled(z, pos, batch)[1].detach() * unit
    calls["portable"] = lambda: script(nm)[1]
    frozen = torch.jit.freeze(torch.jit.load(str(path), map_location=device).eval())
    calls["frozen"] = lambda: frozen(nm)[1]
    if "graph" in wanted:
        if device.type != "cuda":
            missing.append("graph: needs CUDA")
        elif hasattr(script, "neighbors"):
            missing.append("graph: a neighbour list has no fixed size")
        else:
            try:
                calls["graph"] = as_graph(script, nm)
            except RuntimeError as error:
                missing.append(f"graph: {str(error).splitlines()[0]}")
    if "fast" in wanted:
        fast = FastPotential.from_model(model, chain, n_replicas=n_replicas)
        calls["fast"] = lambda: fast(x)[1]
    return {name: call for name, call in calls.items() if name in wanted}, missing


def measure(
    calls: dict[str, Callable[[], Any]], device: torch.device, seconds: float, rounds: int = 5
) -> tuple[dict[str, float], float, list[str]]:
    """Return the median seconds per call, the largest force difference, and the failed candidates."""
    found, failed = {}, []
    for name in list(calls):
        try:
            for _ in range(3):
                forces = calls[name]()
            forces = torch.as_tensor(forces).double().cpu().numpy()
        except (RuntimeError, ImportError, AssertionError, TypeError) as error:
            # out of memory or a failure of torch.compile; continue with the others
            failed.append(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            del calls[name]
            continue
        if not np.isfinite(forces).all():
            raise SystemExit(f"{name}: forces are not finite")
        found[name] = forces
    base = next(iter(found.values()))
    gap = max(float(np.abs(f - base).max() / np.abs(base).max()) for f in found.values())
    if gap > 1e-3:
        raise SystemExit(f"forces differ by {gap:.1e} of the largest")
    counts: dict[str, int] = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        synchronise(device)
        counts[name] = max(1, int(seconds / rounds / max(time.perf_counter() - begin, 1e-6)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            synchronise(device)
            begin = time.perf_counter()
            for _ in range(counts[name]):
                call()
            synchronise(device)
            taken[name].append((time.perf_counter() - begin) / counts[name])
    return {name: statistics.median(times) for name, times in taken.items()}, gap, failed


def describe(device: torch.device) -> str:
    """Return the device and versions."""
    import torchmdnet

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    versions += [f"torchmd-net {torchmdnet.__version__}", f"Python {platform.python_version()}"]
    return ", ".join([name or platform.machine(), *versions])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--beads", type=int, nargs="+", default=[10, 100, 250])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seconds", type=float, default=1.0, help="wall time per candidate and row")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} finds no CUDA device: use a machine with a GPU and a CUDA build of "
            "torch (extra cuda12 or cuda13), or --device cpu to test the script"
        )
    torch.set_num_threads(1)
    cgal_plugin.register()
    wanted = set(args.only) | {"torchmd-net"}
    print(describe(device))
    print("ms per call, and speedup relative to eager TorchMD-Net")
    print(f"{'beads':>5} {'replicas':>8} " + " ".join(f"{name:>18}" for name in NAMES) + "  max diff")
    with tempfile.TemporaryDirectory() as folder:
        for n_beads in args.beads:
            for n_replicas in args.replicas:
                label = f"{n_beads:5d} {n_replicas:8d}"
                if n_beads * n_replicas > MAX_BEADS:
                    print(f"{label} skipped: more than {MAX_BEADS} beads")
                    continue
                if device.type == "cpu" and n_beads * n_replicas > 10_000:
                    print(f"{label} skipped: minutes on a CPU")
                    continue
                calls, missing = candidates(n_beads, n_replicas, device, Path(folder), wanted)
                times, gap, failed = measure(calls, device, args.seconds)
                base = times.get("torchmd-net", float("nan"))
                cells = [
                    f"{times[n] * 1e3:10.3f} {base / times[n]:6.1f}x" if n in times else f"{'-':>18}"
                    for n in NAMES
                ]
                print(label, " ".join(cells), f"{gap:9.1e}", flush=True)
                for line in missing + failed:
                    print(f"{'':14s} {line}")


if __name__ == "__main__":
    main()
