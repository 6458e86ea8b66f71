"""Leave frames out of a prior fit that are no structures: molecules broken across the box, extreme forces.

The fit of a harmonic term matches the mean square of a bond length: one bond of 39 Å among 800 of 3.8 Å
lowers the force constant from 168 to 2 kcal/mol/Å². Broad and bimodal distributions are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.bond_lengths import bond_lengths, describe_bond, usual_lengths
from cgal_plugin.errors import PriorFitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: distance from the median in robust standard deviations; a Gaussian never reaches it
_SIGMAS = 10.0
#: distance from the median, relative to it, that is never an outlier: chain bonds (the cis peptide bond is at
#: 0.76), and bonds of a user's map
_RELATIVE, _RELATIVE_USER = 0.5, 3.0
#: force of a frame relative to the median of all frames
_FORCE = 20.0
#: with more outliers than this, the data are not what they should be
_MOST = 0.1
#: frames that are listed
_LISTED = 20


def reject_outliers(
    topology: CGTopology, frames: NDArray[np.float64], forces: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
    """Return which frames to keep, and one JSON-ready record for each kind of outlier.

    A frame is left out if a bond is far from the median of that bond: by 10 robust standard deviations and by
    half of the median (user's map: three times the median); or if its root mean square force is 20 times the
    median.

    Parameters
    ----------
    frames, forces
        ``(n, n_beads, 3)`` Å and kcal/mol/Å.

    Returns
    -------
    ``(n,)`` bool; records with ``reason`` (text), ``n`` and ``frames`` (the first 20 numbers).

    Raises
    ------
    PriorFitError
        More than a tenth of the frames are outliers.
    """
    keep = np.ones(len(frames), dtype=bool)
    records = []
    if len(topology.bond_index):
        length, median, bad = _impossible(topology, frames)
        rows = np.flatnonzero(bad.any(axis=1))
        if rows.size:
            k = int(bad[rows[0]].argmax())
            bond = f"{describe_bond(topology, k)} is {length[rows[0], k]:.3g} Å long"
            reason = f"bond {bond} in frame {rows[0]}, usually {median[k]:.3g} Å"
            records.append(_record(rows, len(frames), reason))
            keep[rows] = False
    if forces is not None:
        size = np.sqrt(np.square(forces).mean(axis=(1, 2)))
        usual = np.median(size)
        rows = np.flatnonzero(keep & (size > _FORCE * usual)) if usual > 0 else np.array([], int)
        if rows.size:
            found = size[rows[0]]
            reason = f"the force is {found:.3g} kcal/mol/Å in frame {rows[0]}, usually {usual:.3g}"
            records.append(_record(rows, len(frames), reason))
            keep[rows] = False
    left_out = int(np.count_nonzero(~keep))
    if left_out > _MOST * len(frames):
        raise PriorFitError(
            f"{left_out} of {len(frames)} frames are outliers: {'; '.join(r['reason'] for r in records)}. "
            "Make molecules whole (gmx trjconv -pbc whole), check the unit, or remove these frames"
        )
    return keep, records


def _impossible(
    topology: CGTopology, frames: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    """Return bond lengths ``(n, n_bonds)``, their medians, and which of them are outliers."""
    length, usual = bond_lengths(frames, topology), usual_lengths(topology)
    median: NDArray[np.floating] = np.median(length, axis=0)
    away = np.abs(length - median)
    spread = 1.4826 * np.median(away, axis=0)
    margin = np.maximum(_SIGMAS * spread, np.where(np.isnan(usual), _RELATIVE_USER, _RELATIVE) * median)
    return length, median, away > margin


def outlier_text(records: list[dict[str, Any]]) -> str:
    """Return the records as text for the user."""
    return "; ".join(
        f"{r['n']} of {r['n_frames']} frames left out of the prior fit: {r['reason']}" for r in records
    )


def _record(rows: NDArray[np.int64], n_frames: int, reason: str) -> dict[str, Any]:
    return {"reason": reason, "n": len(rows), "n_frames": n_frames, "frames": rows[:_LISTED].tolist()}
