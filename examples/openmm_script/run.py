"""Run Langevin dynamics of an exported potential in plain OpenMM, without cgal_plugin.

Usage: python run.py potential.pt start.pdb [--steps 1000] [--temperature 300]

`start.pdb` has one atom per bead. All replicas start from it.
"""

import argparse
import json
import sys

import numpy as np
import openmm
import openmm.app as app
import openmm.unit as unit
import torch
from openmmtorch import TorchForce

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("potential")
parser.add_argument("start")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--temperature", type=float, default=300.0, help="K")
parser.add_argument("--timestep", type=float, default=4.0, help="fs")
parser.add_argument("--friction", type=float, default=1.0, help="1/ps")
parser.add_argument("--platform", default="Reference", help="default: the fastest for few beads on a CPU")
parser.add_argument("--dcd", help="write frames of all replicas to this file")
arguments = parser.parse_args()

# the metadata of the file: number of replicas that one call evaluates, and masses of the beads
extra = {"cgal.json": ""}
torch.jit.load(arguments.potential, _extra_files=extra)
metadata = json.loads(extra["cgal.json"])
n_replicas, masses = metadata["n_replicas"], metadata["topology"]["masses"]

pdb = app.PDBFile(arguments.start)
start = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
if len(start) != len(masses):
    sys.exit(f"{arguments.start} has {len(start)} atoms; the potential is for {len(masses)} beads")

# the replicas are packed one after the other and do not interact
model = app.Modeller(pdb.topology, pdb.positions)
system = openmm.System()
for replica in range(n_replicas):
    if replica:
        model.add(pdb.topology, pdb.positions)
    for mass in masses:
        system.addParticle(mass)
force = TorchForce(arguments.potential)
force.setOutputsForces(True)
system.addForce(force)

integrator = openmm.LangevinMiddleIntegrator(
    arguments.temperature * unit.kelvin,
    arguments.friction / unit.picosecond,
    arguments.timestep * unit.femtosecond,
)
integrator.setRandomNumberSeed(1)
platform = openmm.Platform.getPlatformByName(arguments.platform)
simulation = app.Simulation(model.topology, system, integrator, platform)
simulation.context.setPositions(np.tile(start, (n_replicas, 1)))
simulation.context.setVelocitiesToTemperature(arguments.temperature * unit.kelvin, 1)
interval = max(1, arguments.steps // 10)
simulation.reporters.append(
    app.StateDataReporter(
        sys.stdout,
        interval,
        step=True,
        potentialEnergy=True,
        kineticEnergy=True,
        temperature=True,
        speed=True,
    )
)
if arguments.dcd:
    simulation.reporters.append(app.DCDReporter(arguments.dcd, interval))
simulation.step(arguments.steps)

energy = simulation.context.getState(energy=True).getPotentialEnergy()
print(f"final potential energy of {n_replicas} replica(s): {energy}")
if not np.isfinite(energy.value_in_unit(unit.kilojoule_per_mole)):
    sys.exit("the simulation blew up")
