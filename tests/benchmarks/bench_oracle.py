"""Speed of the oracle's all-atom dynamics and labels, compared with a plain OpenMM script; one thread.

    python tests/benchmarks/bench_oracle.py

Chignolin, OBC2, 400 K, constrained bonds to hydrogen (3 amu), 4 fs, CPU platform. The script loads amber14
and ``implicit/obc2.xml``; the oracle uses the same force field with OpenMM's native GBSA force. Both read
coordinates and forces every 40 fs, as for labels. Runs alternate; the table has medians of the process's
CPU time. A label consists of backmapping, relaxation (1 ps), dynamics (5 ps) and the screens.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from typing import Any

import numpy as np

from cgal_plugin.oracle import OpenMMOracle

SEQUENCE, TEMPERATURE = "YYDPETGTWY", 400.0


def user_context(oracle: OpenMMOracle) -> Any:
    """Return the context of a plain OpenMM script, at the oracle's structure."""
    import openmm
    from openmm import app, unit

    field = app.ForceField("amber14-all.xml", "implicit/obc2.xml")
    system = field.createSystem(
        oracle.model.topology,
        nonbondedMethod=app.NoCutoff,
        constraints=app.HBonds,
        hydrogenMass=3.0 * unit.amu,
    )
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.004)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(oracle.native_positions() / 10.0)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    return context


def main(argv: list[str] | None = None) -> None:
    """Run both and print a table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--picoseconds", type=float, default=4.0, help="length of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=3)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    for name in ("OPENMM_CPU_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    oracle = OpenMMOracle(
        SEQUENCE, temperature=TEMPERATURE, mode="free", relax_ps=1.0, production_ps=5.0, save_ps=0.04
    )
    theirs = user_context(oracle)
    theirs.getIntegrator().step(50)

    def user() -> None:
        for _ in range(int(args.picoseconds / 0.04)):
            theirs.getIntegrator().step(10)
            state = theirs.getState(getPositions=True, getForces=True)
            found = state.getPositions(asNumpy=True)._value, state.getForces(asNumpy=True)._value
        assert all(np.isfinite(x).all() for x in found)

    def ours() -> None:
        found = oracle.run("auto", args.picoseconds, seed=1, save_ps=0.04, equilibrate_ps=0.04)
        assert np.isfinite(found.positions).all()

    ours()
    taken: dict[str, list[float]] = {"OpenMM script, obc2.xml": [], "oracle": []}
    for _ in range(args.rounds):
        for name, work in zip(taken, (user, ours), strict=True):
            begin = time.process_time()
            work()
            taken[name].append(time.process_time() - begin)
    times = {name: statistics.median(values) for name, values in taken.items()}
    base = next(iter(times.values()))
    print(f"{'all-atom dynamics':26s}{'ns/day of CPU time':>20s}{'ratio':>8s}")
    for name, seconds in times.items():
        print(f"{name:26s}{args.picoseconds / 1e3 / seconds * 86400:20.0f}{base / seconds:8.2f}")
    frames = oracle.map_trajectory(
        oracle.run("auto", args.labels * 2.0, seed=2, save_ps=2.0, equilibrate_ps=0.4)
    ).positions[: args.labels]
    oracle.label(frames[:1])
    begin = time.process_time()
    labelled = oracle.label(frames)
    seconds = (time.process_time() - begin) / len(frames)
    sound = len(set(labelled.frame_index.tolist()))
    print(f"one label: {seconds:.2f} s of CPU time; {sound} of {len(frames)} frames labelled")


if __name__ == "__main__":
    main()
