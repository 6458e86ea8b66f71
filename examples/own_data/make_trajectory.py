"""Run two short simulations in plain OpenMM, in place of trajectories that you have.

Writes ``top.pdb``, ``run1.xtc`` and ``run2.xtc`` (positions, as most people keep them), and
``run1_forces.npy`` with the forces of the first one (kJ/mol/nm). Any program may have written such files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from openmm import LangevinMiddleIntegrator, Platform, app, unit

from cgal_plugin.oracle import AllAtomModel

SEQUENCE, TEMPERATURE = "GYGAG", 400.0
STEP_PS, SAVE_STEPS = 0.004, 25


class ForceReporter:
    """Keep the forces of each saved frame."""

    def __init__(self, interval: int) -> None:
        self.interval, self.forces = interval, []

    def describeNextReport(self, simulation: app.Simulation) -> tuple:
        steps = self.interval - simulation.currentStep % self.interval
        return steps, False, False, True, False, False

    def report(self, simulation: app.Simulation, state: object) -> None:
        forces = state.getForces(asNumpy=True)
        self.forces.append(forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=200, help="frames of each simulation, 0.1 ps apart")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = AllAtomModel.from_sequence(SEQUENCE)  # ff14SB, OBC2; bonds to hydrogen are constrained
    positions = model.positions / 10 * unit.nanometer
    with (options.out / "top.pdb").open("w") as handle:
        app.PDBFile.writeFile(model.topology, positions, handle)
    for number in (1, 2):
        integrator = LangevinMiddleIntegrator(TEMPERATURE, 1.0, STEP_PS)
        integrator.setRandomNumberSeed(number)
        platform, one = Platform.getPlatformByName("CPU"), {"Threads": "1"}
        simulation = app.Simulation(model.topology, model.make_system(), integrator, platform, one)
        simulation.context.setPositions(positions)
        simulation.context.setVelocitiesToTemperature(TEMPERATURE, number)
        simulation.step(500)  # 2 ps of equilibration, not kept
        simulation.currentStep = 0
        forces = ForceReporter(SAVE_STEPS)
        xtc = options.out / f"run{number}.xtc"
        xtc.unlink(missing_ok=True)
        simulation.reporters += [app.XTCReporter(str(xtc), SAVE_STEPS, enforcePeriodicBox=False), forces]
        simulation.step(SAVE_STEPS * options.frames)
        if number == 1:
            np.save(options.out / "run1_forces.npy", np.array(forces.forces, dtype=np.float32))
        print(f"{xtc}: {options.frames} frames")


if __name__ == "__main__":
    main()
