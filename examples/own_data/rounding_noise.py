"""Measure the noise that the rounding of XTC files (0.001 nm) adds to bead forces computed from them.

Runs all-atom MD of a peptide, computes the forces of the rounded frames with the same system, and maps both.
"""

from __future__ import annotations

import argparse

import numpy as np

from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.oracle.recompute import FrameForces


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequence", default="YYDPETGTWY")
    parser.add_argument("--temperature", type=float, default=350.0, help="K")
    parser.add_argument("--picoseconds", type=float, default=30.0)
    options = parser.parse_args()
    oracle = OpenMMOracle(options.sequence, temperature=options.temperature)
    run = oracle.run("auto", options.picoseconds, seed=1, save_ps=0.1)
    rounded = np.round(run.positions.astype(np.float64), 2)
    compute = FrameForces(oracle.model, np.arange(oracle.model.n_solute))
    forces, _ = compute(rounded, None)
    print(f"{options.sequence}, {options.temperature:g} K, {len(run)} frames; kcal/mol/Å, rms per component")
    for kind in ("basic", "optimal"):
        map_ = oracle.fit_force_map([run], kind)
        exact = map_.map_forces(run.forces)
        noise = map_.map_forces(forces) - exact
        part = rms(noise) / rms(exact)
        print(
            f"{kind:>8} map: bead forces {rms(exact):.2f}, noise of rounding {rms(noise):.2f} "
            f"({100 * part:.0f} %, {100 * part**2:.1f} % of the variance)"
        )


if __name__ == "__main__":
    main()
