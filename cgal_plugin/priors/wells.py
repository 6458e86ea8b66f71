"""Wells of stiff dihedrals: those that are fitted together must be in one well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import PriorFitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology
    from cgal_plugin.priors.samples import Member, TermValues

#: rad; means that differ by more are in different wells: L and D differ by 1.1, cis and trans by π
_WELL = 0.8


def _mean(x: NDArray[np.floating]) -> float:
    return float(np.angle(np.exp(1j * x).mean()))


def same_well(x: TermValues, members: Sequence[Member]) -> list[Member]:
    """Return the members in the well that most of them are in, for dihedrals ``x``, rad.

    One residue with a cis peptide bond, or of D-configuration, would otherwise flatten the energy that keeps
    all others in their well.
    """
    mean = np.array([_mean(x.column(member)) for member in members])
    near = np.abs(np.angle(np.exp(1j * (mean[:, None] - mean)))) <= _WELL
    best = near[int(near.sum(axis=1).argmax())]
    return [member for member, kept in zip(members, best, strict=True) if kept]


def check_well(
    topologies: Sequence[CGTopology], x: TermValues, members: Sequence[Member], reference: Sequence[Member]
) -> None:
    """Check that ``members`` of the dihedrals are in the well of ``reference``, with which they share a row.

    Raises
    ------
    PriorFitError
        One is in another well; the message names it.
    """
    mean = _mean(x.pooled(reference))
    for member in members:
        own = _mean(x.column(member))
        if abs(np.angle(np.exp(1j * (own - mean)))) > _WELL:
            topology = topologies[member[0]]
            beads, spec = topology.named_dihedrals[member[1]]
            name, number = topology.residue_names[beads[1]], int(topology.residue_index[beads[1]])
            raise PriorFitError(
                f"dihedral {spec.name} of residue {number} ({name}, counted from 0) is around "
                f"{np.degrees(own):.0f}°, but dihedrals with the same prior are around "
                f"{np.degrees(mean):.0f}°: a D-amino acid, a cis peptide bond, or damaged frames. One prior "
                "cannot keep both: give enough frames for a prior of its own bead types (lower "
                "min_effective in fit_priors), remove these frames, or use map CA or CACB"
            )
