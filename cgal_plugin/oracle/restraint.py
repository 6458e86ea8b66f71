"""A harmonic restraint of beads to targets, for beads of one atom or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.mapping.maps import CGMapping
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RESTRAINT_PARAMETER = "k_bead"
#: of the restraint, so that energies and forces can be had without it
RESTRAINT_GROUP = 31


@dataclass(frozen=True, eq=False)
class BeadRestraint:
    """½ k Σ_I |R_I − target_I|² on the beads R_I of a mapping; k is the context parameter ``k_bead``."""

    mapping: CGMapping

    def make_force(self) -> Any:
        """A new OpenMM force, with k = 0 kJ/mol/nm² and all targets at the origin."""
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

    def set_targets(self, context: Any, targets: ArrayLike) -> None:
        """Move the targets of the context's last force, made by :meth:`make_force`.

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
