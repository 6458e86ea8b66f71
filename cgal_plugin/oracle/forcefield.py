"""OpenMM systems from topologies: force field, implicit solvent, constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.structure import PROTEIN_FORCE_FIELD
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import NDArray
    from openmm import app

SOLVENTS = ("obc2", "gbn2", "tip3pfb")
_SOLVENT_XML = {"obc2": "implicit/obc2.xml", "gbn2": "implicit/gbn2.xml", "tip3pfb": "amber14/tip3pfb.xml"}
_OBC_OFFSET = 0.009  # nm, difference of a GB radius and the offset radius stored in the force field
_SOLVENT_DIELECTRIC = 78.5  # as in obc2.xml; the native force's default is 78.3
_CUTOFF = 0.9  # nm, direct space of PME
HYDROGEN_MASS = 3.0  # amu
LONGEST_STEP_FS = 4.0  # with these masses and constrained bonds to hydrogen
PADDING = 1.0  # nm of water between the solute and the box
_WATER_ATOMS = 100.0  # atoms per nm³ of water
_MOST_ATOMS = 300_000.0


def check_solvent(solvent: str) -> None:
    """Raise an OracleError if the solvent is not one of :data:`SOLVENTS`."""
    if solvent not in SOLVENTS:
        raise OracleError(f"solvent {solvent!r} is not known; use one of {', '.join(SOLVENTS)}")


def force_field(solvent: str) -> app.ForceField:
    """Return the ``openmm.app.ForceField`` for a protein in one of :data:`SOLVENTS`."""
    from openmm import app

    return app.ForceField(PROTEIN_FORCE_FIELD, _SOLVENT_XML[solvent])


def check_box(positions: NDArray[np.float64], padding: float, what: str) -> None:
    """Check that a water box around ``positions`` ``(n, 3)`` Å, ``padding`` nm wider, is not too large.

    Raises
    ------
    OracleError
        It would have more than 300,000 atoms: the chain is long and stretched.
    """
    side = float(np.ptp(positions, axis=0).max()) / ANGSTROM_PER_NM + padding
    n_atoms = _WATER_ATOMS * side**3
    if n_atoms > _MOST_ATOMS:
        raise OracleError(
            f"{what}: a box of water around this structure would be {side:.0f} nm wide, with about "
            f"{n_atoms / 1e6:.1f} million atoms. Give a folded structure (system.structure), or use the "
            "solvent obc2 or gbn2"
        )


def create_system(topology: app.Topology, solvent: str, *, constraints: bool) -> openmm.System:
    """Create a system with or without constrained bonds to hydrogens. Hydrogens have 3 amu.

    Raises
    ------
    OracleError
        The force field has no template for a residue.
    """
    from openmm import app

    box = solvent == "tip3pfb"
    try:
        system = force_field(solvent).createSystem(
            topology,
            nonbondedMethod=app.PME if box else app.NoCutoff,
            **({"nonbondedCutoff": _CUTOFF} if box else {}),
            constraints=app.HBonds if constraints else None,
            rigidWater=True,
            hydrogenMass=HYDROGEN_MASS,
        )
    except ValueError as error:
        raise OracleError(f"the force field does not fit the structure: {error}") from error
    if solvent == "obc2":
        use_native_obc(system)
    return system


@dataclass(frozen=True)
class BuiltinForceField:
    """ff14SB in one of :data:`SOLVENTS`; counterpart of :class:`~cgal_plugin.oracle.given.GivenSystem`."""

    solvent: str
    name = PROTEIN_FORCE_FIELD
    timestep_fs = LONGEST_STEP_FS

    @property
    def boxed(self) -> bool:
        """Whether the solvent is explicit, in a periodic box."""
        return self.solvent == "tip3pfb"

    def create(self, topology: app.Topology, *, constraints: bool) -> openmm.System:
        """Return a new System; see :func:`create_system`."""
        return create_system(topology, self.solvent, constraints=constraints)

    def make_barostat(self, temperature: float) -> openmm.Force:
        """Return a new barostat at 1 bar for a temperature in K."""
        from openmm import MonteCarloBarostat

        return MonteCarloBarostat(1.0, temperature, 25)


def use_native_obc(system: openmm.System) -> None:
    """Replace obc2.xml's ``CustomGBForce`` by the native force, four times as fast on a CPU.

    It has the same parameters.

    The custom force stores the charge, the offset radius ``or`` = radius - 0.009 nm, and
    ``sr`` = scale × ``or`` of every atom.
    """
    from openmm import CustomGBForce, GBSAOBCForce

    index = next(i for i, f in enumerate(system.getForces()) if isinstance(f, CustomGBForce))
    custom, native = system.getForce(index), GBSAOBCForce()
    names = [custom.getPerParticleParameterName(i) for i in range(custom.getNumPerParticleParameters())]
    if names != ["charge", "or", "sr"]:
        raise OracleError(f"OpenMM's obc2.xml has parameters {names}; expected charge, or, sr")
    for i in range(custom.getNumParticles()):
        charge, offset_radius, scaled = custom.getParticleParameters(i)
        native.addParticle(charge, offset_radius + _OBC_OFFSET, scaled / offset_radius)
    native.setSolventDielectric(_SOLVENT_DIELECTRIC)
    native.setNonbondedMethod(GBSAOBCForce.NoCutoff)
    system.removeForce(index)
    system.addForce(native)


def constrain(system: openmm.System, pairs: Sequence[tuple[int, int]]) -> None:
    """Constrain flexible bonds at their equilibrium lengths and remove their harmonic terms."""
    from openmm import HarmonicBondForce

    wanted = {frozenset(p) for p in pairs}
    for bonds in (f for f in system.getForces() if isinstance(f, HarmonicBondForce)):
        for k in range(bonds.getNumBonds()):
            i, j, length, _ = bonds.getBondParameters(k)
            if frozenset((i, j)) in wanted:
                system.addConstraint(i, j, length)
                bonds.setBondParameters(k, i, j, length, 0.0)
                wanted.discard(frozenset((i, j)))
    if wanted:
        raise OracleError(f"no bond for the constraints {sorted(sorted(p) for p in wanted)}")


def drop_motion_remover(system: openmm.System) -> None:
    """Remove ``CMMotionRemover`` forces, which counteract fixed or restrained atoms."""
    from openmm import CMMotionRemover

    for i in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(i), CMMotionRemover):
            system.removeForce(i)
