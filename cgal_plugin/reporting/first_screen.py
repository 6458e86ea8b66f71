"""The first screen of the report: whether the run improved the model, on what evidence, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import AnalysisError
from cgal_plugin.reporting import plots
from cgal_plugin.reporting.outcome import Outcome, end_name, measured, model_name, outcome
from cgal_plugin.reporting.picture import Picture
from cgal_plugin.reporting.plots import finite
from cgal_plugin.reporting.surfaces import SCALED, free_energy_panels, histogram_surfaces

if TYPE_CHECKING:
    from cgal_plugin.analysis.distributions import FreeEnergySurface
    from cgal_plugin.analysis.results import W1Result
    from cgal_plugin.reporting.records import ReportInput, RoundSummary

_PANEL = (3.6, 3.05)
_REFERENCE = "Reference (all-atom)"
_TESTED = (
    "Free energy over the two slowest components of the reference (TICA). Models: simulations of the test, "
    "from the same starts for each model. Grey lines: contours of the reference at 1, 2 and 3 kcal/mol."
)
_EXPLORED = (
    "Free energy over the two slowest components (TICA). Models: exploration of the round, whose starts are "
    "spread over the training data; this is not a test."
)


@dataclass(frozen=True)
class FirstScreen:
    """Content of the first screen.

    Attributes
    ----------
    subtitle
        Molecule, temperature and size of the run.
    outcome
        The result in words.
    surfaces, caption
        Free-energy surfaces before, after, and of the reference; what they are.
    progress
        W1 and coverage by round.
    cards
        Cost: title, value and details of each.
    """

    subtitle: str
    outcome: Outcome
    surfaces: Picture
    caption: str
    progress: Picture
    cards: list[dict[str, str]]


def first_screen(report: ReportInput, explored: Mapping[str, FreeEnergySurface]) -> FirstScreen:
    """Return the first screen.

    ``explored`` are the surfaces of exploration and reference, which are shown if there is no test.
    """
    surfaces, caption = _surfaces(report, explored)
    top = report.topology
    n = len(report.rounds)
    subtitle = " · ".join(
        [
            f"{top.sequence}, {top.n_beads} beads ({top.mapping})",
            f"{report.temperature:g} K",
            f"{n} model{'' if n == 1 else 's'}",
        ]
    )
    return FirstScreen(subtitle, outcome(report), surfaces, caption, _progress(report), cost_cards(report))


# ---------------------------------------------------------------------- surfaces


def _surfaces(report: ReportInput, explored: Mapping[str, FreeEnergySurface]) -> tuple[Picture, str]:
    tested = _tested(report)
    surfaces = tested or _titled(report, explored)
    if not surfaces:
        return Picture(missing="No free-energy surface: there are no trajectories to draw."), ""
    figure = free_energy_panels(
        surfaces,
        outline=next((s for title, s in surfaces.items() if title.startswith(_REFERENCE)), None),
        labels=(SCALED.format(1), SCALED.format(2)) if tested else ("TIC 1", "TIC 2"),
        size=_PANEL,
    )
    alt = "Free-energy surfaces over TIC 1 and TIC 2, panels: " + "; ".join(
        title.replace("\n", ", ") for title in surfaces
    )
    caption = _TESTED if tested or report.sampled_by == "test" else _EXPLORED
    return Picture(plots.data_uri(figure), alt), caption


def _tested(report: ReportInput) -> dict[str, FreeEnergySurface]:
    """Return the surfaces of the first and the last tested model, and of the reference."""
    rows = [r for r in report.rounds if r.histogram is not None]
    if not rows or report.reference_histogram is None:
        return {}
    ends = {_title("Before: ", model_name(rows[0]), rows[0]): rows[0]} if len(rows) > 1 else {}
    ends[_title("After: " if ends else "", end_name(report, rows[-1]), rows[-1])] = rows[-1]
    floors = [r.w1.floor for r in rows if r.w1 is not None and r.w1.floor is not None]
    reference = _REFERENCE + (f"\nfloor of W1: {floors[-1]:.2f}" if floors else "\n")
    histograms: dict[str, Any] = {title: row.histogram for title, row in ends.items()}
    histograms[reference] = report.reference_histogram
    try:
        return histogram_surfaces(histograms, report.histogram_range, report.temperature, smooth=0.8)
    except AnalysisError:  # a damaged record; the values of W1 are shown without it
        return {}


def _title(when: str, name: str, row: RoundSummary) -> str:
    name = name if name.endswith("model") else f"model of {name}"
    return f"{when}{name if when else name.capitalize()}\n{_value(row.w1, row)}"


def _value(result: W1Result | None, row: RoundSummary) -> str:
    if result is None:
        return "W1 not known"
    text = f"W1 {result.value:.2f}"
    if result.interval is not None:
        text += f" [{result.interval[0]:.2f}, {result.interval[1]:.2f}]"
    return text + (", still drifts" if row.drift else "")


def _titled(report: ReportInput, explored: Mapping[str, FreeEnergySurface]) -> dict[str, FreeEnergySurface]:
    """Return the surfaces of the models before that of the reference, with the W1 of old runs."""
    rows = {"before": report.rounds[:1], "after": report.rounds[-1:]}
    found = {}
    for key, words in (("before", f"Before: {report.sampled_by}"), ("after", f"After: {report.sampled_by}")):
        if key not in explored or (key == "before" and len(report.rounds) == 1 and "after" in explored):
            continue
        title = words if rows[key] else key.capitalize()
        for row in rows[key]:
            title += f" of {model_name(row)}"
            title += "\n" + (_value(row.w1, row) if row.w1 is not None else "")
        found[title] = explored[key]
    if "reference" in explored:
        found[f"{_REFERENCE}\n"] = explored["reference"]
    return found


# ---------------------------------------------------------------------- by round, and cost


def _progress(report: ReportInput) -> Picture:
    figure = plots.progress(report.rounds, report.measured)
    if figure is None:
        return Picture(missing="Neither W1 nor coverage was recorded.")
    words = [w for w, there in (("W1", measured(report)), ("coverage", _covered(report))) if there]
    return Picture(plots.data_uri(figure), " and ".join(words) + " by round")


def _covered(report: ReportInput) -> bool:
    return any(finite(r.coverage).size for r in report.rounds)


def cost_cards(report: ReportInput) -> list[dict[str, str]]:
    """Return what the run cost: all-atom MD and wall time."""
    cards = []
    labels = [r.oracle_ns for r in report.rounds if r.oracle_ns is not None]
    parts = [] if report.seed_ns is None else [f"{report.seed_ns:.2f} ns of seed data"]
    if labels:
        labelled = sum(r.n_labelled or 0 for r in report.rounds)
        parts.append(f"{sum(labels):.2f} ns for {labelled} label{'' if labelled == 1 else 's'}")
    if parts:
        total = (report.seed_ns or 0.0) + sum(labels)
        cards.append({"title": "All-atom MD", "value": f"{total:.2f} ns", "small": ", ".join(parts)})
    timings: dict[str, float] = {}
    for part in (report.preparation, *(r.timings for r in report.rounds)):
        for stage, seconds in part.items():
            if np.isfinite(seconds):
                timings[stage] = timings.get(stage, 0.0) + seconds
    if timings:
        total = sum(timings.values())
        most = sorted(timings, key=timings.__getitem__, reverse=True)[:3]
        small = ", ".join(f"{stage} {100 * timings[stage] / max(total, 1e-9):.0f} %" for stage in most)
        cards.append({"title": "Time", "value": _duration(total), "small": small})
    return cards


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
