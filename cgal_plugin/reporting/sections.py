"""Sections of the report: each returns its figure, or a sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis import observables as obs
from cgal_plugin.analysis.distributions import free_energy_surface, grid_edges
from cgal_plugin.analysis.evaluate import compare_observables
from cgal_plugin.analysis.resampling import make_blocks, split_halves
from cgal_plugin.analysis.tica import TICAModel, feature_beads
from cgal_plugin.analysis.trajectory_checks import as_trajectories, as_weights
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import derive_seed
from cgal_plugin.reporting import plots, plots_run
from cgal_plugin.reporting.picture import Picture
from cgal_plugin.reporting.surfaces import free_energy_panels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.analysis.distributions import FreeEnergySurface
    from cgal_plugin.reporting.records import ReportInput

_TITLES = {"bond": "Bonds", "angle": "Angles", "dihedral": "Dihedrals", "rg": "Radius of gyration",
           "end_to_end": "End to end"}  # fmt: skip


@dataclass
class Frames:
    """Validated trajectories of the report, with notes on those that are left out."""

    sets: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    training: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    notes: list[str] = field(default_factory=list)

    def joined(self, name: str) -> NDArray[np.float64]:
        """Return all frames of a set, ``(n, n_beads, 3)`` Å."""
        return np.concatenate(self.sets[name])


def collect_frames(report: ReportInput) -> Frames:
    """Validate every set of frames; an unusable set becomes a note instead of an error."""
    out = Frames()
    for name in ("reference", "before", "after", "seed_trajectories"):
        given = getattr(report, name)
        if given is None or len(given) == 0:
            continue
        try:
            out.sets[name] = as_trajectories(given, name, report.topology.n_beads)
        except AnalysisError as error:
            out.notes.append(f"{name} is not shown: {error}")
    if report.training_frames is not None and len(report.training_frames):
        try:
            (out.training,) = as_trajectories(
                np.asarray(report.training_frames), "training", report.topology.n_beads
            )
        except AnalysisError as error:
            out.notes.append(f"training frames are not shown: {error}")
    if "reference" in out.sets:
        lengths = [len(t) for t in out.sets["reference"]]
        try:
            out.weights = as_weights(report.reference_weights, lengths, "reference")
        except AnalysisError as error:
            out.weights = as_weights(None, lengths, "reference")
            out.notes.append(f"reference weights are not used: {error}")
    return out


def projection(report: ReportInput, frames: Frames) -> TICAModel | None:
    """Return the given TICs, or fit them to the first available of reference, seed runs, CG trajectories."""
    if report.tica is not None:
        if report.tica.n_beads == report.topology.n_beads:
            return report.tica
        frames.notes.append(
            f"the given TICA model is for {report.tica.n_beads} beads, not {report.topology.n_beads}: "
            "it is not used"
        )
    beads = feature_beads(report.topology)
    for name, words in (
        ("reference", ""),
        ("seed_trajectories", "No reference given: TICs are fitted to the all-atom seed runs."),
        ("after", "No reference and no seed runs given: TICs are fitted to the last model's trajectories."),
    ):
        if name not in frames.sets:
            continue
        try:
            model = TICAModel.fit(frames.sets[name], report.lag_frames, 2, beads=beads)
        except AnalysisError as error:
            frames.notes.append(f"TICs could not be fitted to {name}: {error}")
            continue
        frames.notes += [words] if words else []
        frames.notes += list(model.notes)
        return model
    return None


def explored_surfaces(
    report: ReportInput, frames: Frames, tica: TICAModel | None
) -> dict[str, FreeEnergySurface]:
    """Return the free-energy surfaces of the sets ``reference``, ``before`` and ``after``, on one grid."""
    names = [n for n in ("reference", "before", "after") if n in frames.sets]
    if tica is None or not names:
        return {}
    points: dict[str, NDArray[np.float64]] = {
        n: np.concatenate(tica.transform(frames.sets[n])) for n in names
    }
    edges = _fes_edges(points)
    drawn: dict[str, FreeEnergySurface] = {}
    for n in names:
        weights = frames.weights if n == "reference" else None
        try:
            drawn[n] = free_energy_surface(points[n], edges, report.temperature, weights=weights, smooth=1.0)
        except AnalysisError as error:
            frames.notes.append(f"no free-energy surface of {n}: {error}")
    return drawn


def surfaces(
    report: ReportInput,
    frames: Frames,
    tica: TICAModel | None,
    explored: Mapping[str, FreeEnergySurface],
) -> Picture:
    """Draw the free-energy surfaces of exploration and reference, and the training data on them."""
    if tica is None:
        return Picture(missing="No free-energy surface: there are no trajectories to fit TICs to.")
    if not any(n in frames.sets for n in ("reference", "before", "after")):
        return Picture(missing="No free-energy surface: neither a reference nor CG trajectories are given.")
    if not explored:
        return Picture(missing="No free-energy surface: no frame lies inside the grid.")
    titles = {"reference": "Reference", "before": "Before", "after": "After"}
    drawn = {titles[n]: surface for n, surface in explored.items()}
    extra: dict[str, tuple[NDArray[np.float64], str]] = {}
    if frames.training is not None:
        thin = frames.training[:: max(1, len(frames.training) // 1500)]
        extra["training frames"] = (tica.transform(thin), "dots")
    selected = _selected_positions(report, frames)
    if selected is not None:
        extra["selected frames"] = (tica.transform(selected), "diamonds")
    figure = free_energy_panels(drawn, outline=drawn.get("Reference"), points=extra)
    alt = "Free-energy surfaces over TIC 1 and TIC 2, panels: " + ", ".join(drawn)
    return Picture(plots.data_uri(figure), alt)


def _fes_edges(
    points: Mapping[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return edges around all sets, at most one reference range beyond the reference."""
    edges = grid_edges(*points.values())
    if "reference" not in points:
        return edges
    limited = []
    for axis, base in zip(edges, grid_edges(points["reference"]), strict=True):
        width = base[-1] - base[0]
        low, high = max(axis[0], base[0] - width), min(axis[-1], base[-1] + width)
        limited.append(np.linspace(low, high, len(axis)))
    return limited[0], limited[1]


def _selected_positions(report: ReportInput, frames: Frames) -> NDArray[np.float64] | None:
    if report.selected is None or len(report.selected.positions) == 0:
        return None
    try:
        (positions,) = as_trajectories(
            np.asarray(report.selected.positions), "selected", report.topology.n_beads
        )
    except AnalysisError as error:
        frames.notes.append(f"selected frames are not shown in TIC space: {error}")
        return None
    return positions


def structure(report: ReportInput, frames: Frames) -> tuple[Picture, list[dict[str, Any]], str]:
    """Draw distributions of the observables; return the figure, distances, and the set they refer to."""
    sets: dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]] = {}
    if "reference" in frames.sets:
        sets["reference"] = (frames.joined("reference"), frames.weights)
    elif frames.training is not None:
        sets["training"] = (frames.training, None)
    basis = next(iter(sets), "")
    for name in ("before", "after"):
        if name in frames.sets:
            sets[name] = (frames.joined(name), None)
    if not sets:
        return Picture(missing="No distributions: there are no frames."), [], ""
    panels = []
    for name, unit in obs.OBSERVABLES.items():
        values = {}
        for key, (positions, weights) in sets.items():
            found = obs.observable(positions, report.topology, name)
            if found.shape[1] == 0:
                continue
            values[key] = (found, None if weights is None else np.repeat(weights, found.shape[1]))
        if values:
            title = _TITLES[name]
            panels.append((title, f"{title.lower()} / {unit}", obs.PERIODIC.get(name), values))
    picture = Picture(
        plots.data_uri(plots.distributions(panels)),
        "Histograms of " + ", ".join(p[0].lower() for p in panels) + " for " + ", ".join(sets),
    )
    return picture, _distance_rows(report, frames, sets, basis), basis


def _distance_rows(
    report: ReportInput, frames: Frames, sets: Mapping[str, Any], basis: str
) -> list[dict[str, Any]]:
    models = [n for n in ("before", "after") if n in sets]
    if not basis or not models:
        return []
    positions, weights = sets[basis]
    halves = []
    if basis == "reference":
        blocks = make_blocks([len(t) for t in frames.sets["reference"]])
        halves = [
            h
            for h in split_halves(blocks, 4, derive_seed(0, "halves"))
            if weights[h].sum() > 0 and weights[~h].sum() > 0
        ]
    found = {n: compare_observables(sets[n][0], positions, report.topology, weights, halves) for n in models}
    rows = []
    for name in found[models[0]]:
        first = found[models[0]][name]
        rows.append(
            {
                "name": _TITLES[name],
                "unit": first.unit,
                "floor": first.floor,
                "basis_mean": first.reference_mean,
                "models": {n: found[n][name] for n in models},
            }
        )
    return rows


def contacts(report: ReportInput, frames: Frames) -> Picture:
    """Draw contact maps of reference (or training data), before and after."""
    if report.topology.n_beads > 400:
        return Picture(missing="No contact maps: more than 400 beads.")
    maps = {}
    if "reference" in frames.sets:
        maps["Reference"] = obs.contact_map(frames.joined("reference"), weights=frames.weights)
    elif frames.training is not None:
        maps["Training data"] = obs.contact_map(frames.training)
    for name in ("before", "after"):
        if name in frames.sets:
            maps[name.capitalize()] = obs.contact_map(frames.joined(name))
    if not maps:
        return Picture(missing="No contact maps: there are no frames.")
    top = report.topology
    labels = [
        f"{res.capitalize()}{int(i) + 1}" + ("" if bead == "CA" else f" {bead}")
        for res, i, bead in zip(top.residue_names, top.residue_index, top.bead_names, strict=True)
    ]
    return Picture(plots.data_uri(plots_run.contact_maps(maps, labels)), "Contact maps: " + ", ".join(maps))


def w1_picture(report: ReportInput) -> Picture:
    """Draw W1 by round."""
    if not any(r.w1 is not None or r.w1_ucsc is not None for r in report.rounds):
        return Picture(missing=f"W1 was not computed: {report.no_w1 or 'it needs a reference trajectory'}.")
    return Picture(
        plots.data_uri(plots.w1_by_round(report.rounds, report.measured)),
        "W1 by round with intervals and floor",
    )


def coverage_picture(report: ReportInput) -> Picture:
    """Draw the coverage by round."""
    if not any(plots.finite(v).size for r in report.rounds for v in (r.coverage, r.reference_coverage)):
        return Picture(missing="No coverage: no nearest-RMSD values were recorded.")
    return Picture(
        plots.data_uri(plots.coverage_by_round(report.rounds)), "Nearest RMSD to the training data by round"
    )


def training_picture(report: ReportInput) -> Picture:
    """Draw the training curves."""
    figure = plots_run.training_curves(report.rounds)
    if figure is None:
        return Picture(missing="No training curves: no finite training metrics were recorded.")
    return Picture(plots.data_uri(figure), "Training and validation loss by epoch, one line per round")


def timing_picture(report: ReportInput) -> Picture:
    """Draw the wall time of each stage."""
    figure = plots_run.timing_bars(report.rounds)
    if figure is None:
        return Picture(missing="No timings were recorded.")
    return Picture(plots.data_uri(figure), "Wall time of each stage by round")
