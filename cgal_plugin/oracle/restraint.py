"""A harmonic restraint of beads to targets, for beads of one atom or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from numpy.typing import ArrayLike

RESTRAINT_PARAMETER = "k_bead"
#: force group of the restraint, for energies and forces without it
RESTRAINT_GROUP = 31


@dataclass(frozen=True, eq=False)
class BeadRestraint:
    """Restraint ½ k Σ_I |R_I − target_I|² of a mapping's beads R_I; k is the context parameter ``k_bead``."""

    mapping: CGMapping

    def make_force(self) -> openmm.Force:
        """Return a new OpenMM force, with k = 0 kJ/mol/nm² and all targets at the origin."""
        from openmm import CustomCentroidBondForce, CustomExternalForce

        if self.mapping.is_slice:
            force = CustomExternalForce(f"0.5*{RESTRAINT_PARAMETER}*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
        else:
            force = CustomCentroidBondForce(1, f"0.5*{RESTRAINT_PARAMETER}*((x1-x0)^2+(y1-y0)^2+(z1-z0)^2)")
        force.setForceGroup(RESTRAINT_GROUP)
        force.addGlobalParameter(RESTRAINT_PARAMETER, 0.0)
        for name in ("x0", "y0", "z0"):
            getattr(force, "addPerParticleParameter" if self.mapping.is_slice else "addPerBondParameter")(
                name
            )
        for bead, group in enumerate(self.mapping.atom_groups):
            if self.mapping.is_slice:
                force.addParticle(group[0], [0.0, 0.0, 0.0])
            else:
                force.addGroup(list(group), self.mapping.matrix[bead, list(group)].tolist())
                force.addBond([bead], [0.0, 0.0, 0.0])
        return force

    def set_targets(self, context: openmm.Context, targets: ArrayLike) -> None:
        """Set the targets of the last force of the context, which must be one of :meth:`make_force`.

        Parameters
        ----------
        targets
            ``(n_beads, 3)`` Å.
        """
        system = context.getSystem()
        force = system.getForce(system.getNumForces() - 1)
        for bead, target in enumerate(np.asarray(targets, dtype=np.float64) / ANGSTROM_PER_NM):
            if self.mapping.is_slice:
                force.setParticleParameters(bead, self.mapping.atom_groups[bead][0], target.tolist())
            else:
                force.setBondParameters(bead, [bead], target.tolist())
        force.updateParametersInContext(context)
