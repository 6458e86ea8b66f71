"""Wells of stiff dihedrals: those that are fitted together must be in one well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import PriorFitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: rad; means that differ by more are in different wells: L and D differ by 1.1, cis and trans by π
_WELL = 0.8


def _means(x: NDArray[np.floating]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.angle(np.exp(1j * x).mean(axis=0))
    return found


def same_well(x: NDArray[np.floating], members: Sequence[int]) -> list[int]:
    """Return the members in the well that most of them are in, for dihedrals ``x`` ``(n, n_dihedrals)`` rad.

    One residue with a cis peptide bond, or of D-configuration, would otherwise flatten the energy that keeps
    all others in their well.
    """
    mean = _means(x[:, members])
    near = np.abs(np.angle(np.exp(1j * (mean[:, None] - mean)))) <= _WELL
    best = near[int(near.sum(axis=1).argmax())]
    return [member for member, kept in zip(members, best, strict=True) if kept]


def check_well(
    topology: CGTopology, x: NDArray[np.floating], members: Sequence[int], reference: Sequence[int]
) -> None:
    """Check that ``members`` of the dihedrals are in the well of ``reference``, with which they share a row.

    Raises
    ------
    PriorFitError
        One is in another well; the message names it.
    """
    mean = float(_means(x[:, reference].reshape(-1)))
    for member in members:
        own = float(_means(x[:, member]))
        if abs(np.angle(np.exp(1j * (own - mean)))) > _WELL:
            beads, spec = topology.named_dihedrals[member]
            name, number = topology.residue_names[beads[1]], int(topology.residue_index[beads[1]])
            raise PriorFitError(
                f"dihedral {spec.name} of residue {number} ({name}, counted from 0) is around "
                f"{np.degrees(own):.0f}°, but dihedrals with the same prior are around "
                f"{np.degrees(mean):.0f}°: a D-amino acid, a cis peptide bond, or damaged frames. One prior "
                "cannot keep both: give enough frames for a prior of its own bead types (lower "
                "min_effective in fit_priors), remove these frames, or use map CA or CACB"
            )
