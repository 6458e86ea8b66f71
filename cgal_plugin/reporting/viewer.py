"""Data of the report's 3D view: frames, bonds and colours, for ``static/viewer.js``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.mapping.geometry import optimal_rotation
from cgal_plugin.mapping.residues import THREE_TO_ONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.reporting.records import ReportInput

#: maximum number of frames, which limits the size of the page
MAX_FRAMES = 200

#: group → (residues, colour)
GROUPS: dict[str, tuple[str, str]] = {
    "aromatic": ("FWYH", "#8E6BBF"),
    "aliphatic": ("AVLIM", "#E69F00"),
    "polar": ("STNQC", "#3E9E76"),
    "negative": ("DE", "#D55E00"),
    "positive": ("KR", "#0072B2"),
    "glycine, proline": ("GP", "#8A8F98"),
    "other": ("X", "#CC79A7"),
}


def viewer_data(report: ReportInput) -> tuple[dict[str, Any] | None, str]:
    """Return JSON-ready data for the view (or None), and a note on missing or omitted frames."""
    selected = report.selected
    if selected is None or len(selected.positions) == 0:
        return None, "No frames were selected."
    positions = np.asarray(selected.positions, dtype=np.float64)
    if positions.shape[1] != report.topology.n_beads:
        return None, (
            f"Selected frames have {positions.shape[1]} beads and the topology "
            f"{report.topology.n_beads}: they are not shown."
        )
    usable = np.flatnonzero(np.isfinite(positions).all(axis=(1, 2)))
    if not usable.size:
        return None, "No selected frame has finite coordinates."
    n_bad = len(positions) - usable.size
    note = f"{n_bad} frames have coordinates that are not finite; they are not shown. " if n_bad else ""
    if usable.size > MAX_FRAMES:
        note += f"{MAX_FRAMES} of {usable.size} frames are shown, evenly spaced."
        usable = usable[np.linspace(0, usable.size - 1, MAX_FRAMES).round().astype(int)]
    rmsd = np.asarray(selected.nearest_rmsd, dtype=np.float64)
    return {
        "frames": np.round(_superposed(positions[usable]), 2).tolist(),
        "bonds": [*report.topology.bond_index.tolist(), *report.topology.bridge_index.tolist()],
        "beads": _beads(report),
        "info": [
            {
                "round": int(selected.round[i]),
                "rmsd": round(float(rmsd[i]), 3) if np.isfinite(rmsd[i]) else None,
                "label": str(selected.labels[int(i)]) if selected.labels else "",
            }
            for i in usable
        ],
        "groups": [[name, colour] for name, (_, colour) in GROUPS.items()],
    }, note


def _beads(report: ReportInput) -> list[dict[str, str]]:
    top = report.topology
    beads = []
    for residue, name, index in zip(top.residue_names, top.bead_names, top.residue_index, strict=True):
        letter = THREE_TO_ONE.get(residue, "X")
        group = next((g for g, (letters, _) in GROUPS.items() if letter in letters), "other")
        text = f"{residue.capitalize()} {int(index) + 1}" + ("" if name == "CA" else f" {name}")
        beads.append({"letter": letter if name == "CA" else "", "name": text, "group": group})
    return beads


def _superposed(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Superpose every frame on the first one, so that the view does not jump between frames."""
    x = frames - frames.mean(axis=1, keepdims=True)
    rotation = optimal_rotation(np.einsum("nbi,bj->nij", x, x[0]))
    return np.asarray(np.einsum("nbi,nij->nbj", x, rotation))
