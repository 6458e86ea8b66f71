"""The HTML report: one self-contained file, no network, every string escaped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.results import Reduction, W1Result, relative_reduction
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import atomic_write
from cgal_plugin.reporting import sections
from cgal_plugin.reporting.formatting import (
    DASH,
    field,
    number,
    printable,
    prior_image,
    prior_rows,
    script_json,
)
from cgal_plugin.reporting.plots import finite
from cgal_plugin.reporting.records import (
    QuarantineRecord,
    ReportInput,
    RoundSummary,
    SelectedFrames,
)
from cgal_plugin.reporting.viewer import viewer_data

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "QuarantineRecord",
    "ReportInput",
    "RoundSummary",
    "SelectedFrames",
    "render_report",
    "write_report",
]


def write_report(path: str | os.PathLike[str], report: ReportInput) -> Path:
    """Write the report as one HTML file that needs nothing else, and return its path.

    Missing pieces (no reference, no quarantine, a single round, NaN) are named in the page. A gain in W1 is
    stated only with its interval and the reference's floor.

    Raises
    ------
    AnalysisError
        jinja2 is not installed.
    """
    html = render_report(report)
    with atomic_write(path, "w") as handle:
        handle.write(html)
    return Path(path)


def render_report(report: ReportInput) -> str:
    """The report as a string; see :func:`write_report`."""
    frames = sections.collect_frames(report)
    tica = sections.projection(report, frames)
    surfaces = sections.surfaces(report, frames, tica)
    structure, distances, yardstick = sections.structure(report, frames)
    viewer, viewer_note = viewer_data(report)
    prior, prior_note = prior_image(report.prior_plot)
    pages = environment()
    return pages.get_template("report.html").render(
        report=report,
        facts=head_facts(report, frames),
        notes=list(dict.fromkeys([*report.notes, *frames.notes, *_standing_notes(report)])),
        cards=headline_cards(report),
        rows=round_rows(report),
        surfaces=surfaces,
        tica=tica,
        timescales=_timescales(report, tica),
        w1=sections.w1_picture(report),
        coverage=sections.coverage_picture(report),
        structure=structure,
        distances=distances,
        yardstick={"reference": "the reference", "training": "the training data"}.get(yardstick, ""),
        contacts=sections.contacts(report, frames),
        prior_uri=prior,
        prior_note=prior_note,
        prior_table=prior_rows(report.prior_table),
        viewer=viewer,
        viewer_note=viewer_note,
        script=_static("viewer.js"),
        training=sections.training_picture(report),
        timing=sections.timing_picture(report),
        blow_ups=[(r.index, event) for r in report.rounds for event in r.blow_ups],
        provenance=json.dumps(printable(report.provenance), indent=2, ensure_ascii=False),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def environment() -> Environment:
    """Templates of the package's pages; every value is escaped."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise AnalysisError("the report needs jinja2, which comes with torch: pip install jinja2") from error
    made = Environment(
        loader=FunctionLoader(_static),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(num=number, field=field, script_json=script_json)
    return made


def _static(name: str) -> str:
    return (resources.files("cgal_plugin.reporting") / "static" / name).read_text(encoding="utf-8")


def head_facts(report: ReportInput, frames: sections.Frames) -> list[tuple[str, str]]:
    """Rows of the page's head."""
    top = report.topology
    facts = [
        ("Molecule", f"{top.sequence} ({top.n_beads} beads, {top.mapping} mapping)"),
        ("Temperature", f"{report.temperature:g} K"),
        ("Rounds", str(len(report.rounds)) if report.rounds else "none recorded"),
    ]
    names = {
        "reference": "Reference",
        "before": "CG samples before",
        "after": "CG samples after",
        "seed_trajectories": "Seed runs",
    }
    for key, label in names.items():
        if key in frames.sets:
            parts = frames.sets[key]
            facts.append((label, f"{number(sum(map(len, parts)))} frames in {len(parts)} trajectories"))
    if frames.training is not None:
        facts.append(("Training data", f"{number(len(frames.training))} force-labelled frames"))
    if report.frame_interval_ps:
        facts.append(("Reference frame interval", f"{report.frame_interval_ps:g} ps"))
    return facts + [(str(k), str(v)) for k, v in report.facts.items()]


def _standing_notes(report: ReportInput) -> list[str]:
    notes = []
    if not report.reference:
        notes.append("No reference trajectory: W1 and the distances to a reference are not available.")
    if len(report.rounds) == 1:
        notes.append("One round only: there is no change from round to round to show.")
    if report.reference and report.reference_weights is None:
        notes.append("The reference is not reweighted: its frames count equally.")
    for r in report.rounds:
        for result in (r.w1, r.w1_ucsc):
            if result is not None:
                notes += [f"Round {r.index}, {result.metric}: {n}." for n in result.notes]
    return notes


def _ends(rounds: Sequence[RoundSummary], name: str) -> tuple[Any, Any]:
    present = [getattr(r, name) for r in rounds if getattr(r, name) is not None]
    return (present[0], present[-1]) if present else (None, None)


def headline_cards(report: ReportInput) -> list[dict[str, str]]:
    """The figures a reader wants first: title, value, and the small print that belongs to it."""
    cards = [
        _w1_card(report, "w1", "W1, robust"),
        _w1_card(report, "w1_ucsc", "W1, published recipe"),
        _coverage_card(report),
    ]
    labelled = [r.n_labelled for r in report.rounds if r.n_labelled is not None]
    chosen = [r.n_selected for r in report.rounds if r.n_selected is not None]
    if labelled or chosen:
        oracle = [r.oracle_ns for r in report.rounds if r.oracle_ns is not None]
        quarantined = sum(r.n_quarantined or 0 for r in report.rounds)
        small = f"{quarantined} quarantined" + (f" · {sum(oracle):.3g} ns of all-atom MD" if oracle else "")
        cards.append(
            {
                "title": "Selected frames that were labelled",
                "value": f"{sum(labelled)} of {sum(chosen)}" if chosen else str(sum(labelled)),
                "small": small,
            }
        )
    steps = sum(r.cg_steps or 0 for r in report.rounds)
    if steps:
        events = sum(len(r.blow_ups) for r in report.rounds)
        cards.append(
            {
                "title": "Blow-ups of the CG dynamics",
                "value": str(events),
                "small": f"{1e6 * events / steps:.3g} per million steps, {number(steps)} replica-steps",
            }
        )
    return cards


def _w1_card(report: ReportInput, name: str, title: str) -> dict[str, str]:
    present = [r for r in report.rounds if getattr(r, name) is not None]
    if not present:
        return {"title": title, "value": DASH, "small": "not computed (needs a reference)"}
    first, last = getattr(present[0], name), getattr(present[-1], name)
    if len(present) == 1:
        return {"title": title, "value": f"{last.value:.2f}", "small": w1_text(last)}
    reduction = relative_reduction(first, last)
    if reduction is None:
        small = "change not stated: no interval or no floor"
    else:
        small = _reduction_text(reduction) + f" · floor {last.floor:.2f}"
        if last.value <= last.floor:
            small += ", reached: no further gain can be seen with this reference"
    return {
        "title": f"{title}, round {present[0].index} → {present[-1].index}",
        "value": f"{first.value:.2f} → {last.value:.2f}",
        "small": small,
    }


def _reduction_text(reduction: Reduction) -> str:
    sign, word = (1.0, "lower") if reduction.value >= 0 else (-1.0, "higher")
    low, high = sorted(100 * sign * v for v in reduction.interval)
    text = (
        f"{100 * sign * reduction.value:.0f}\u00a0% {word}, {100 * reduction.confidence:.0f}\u00a0% interval "
        f"[{low:.0f},\u00a0{high:.0f}]\u00a0%"
    )
    return text if reduction.resolved else text + " (not resolved: it contains 0)"


def w1_text(result: W1Result) -> str:
    """Interval and floor in words."""
    parts = []
    if result.interval is not None:
        low, high = result.interval
        parts.append(f"{100 * result.confidence:.0f} % interval [{low:.2f}, {high:.2f}]")
    else:
        parts.append("no interval")
    parts.append(f"floor {result.floor:.2f}" if result.floor is not None else "no floor")
    return " · ".join(parts)


def _coverage_card(report: ReportInput) -> dict[str, str]:
    title = "Nearest RMSD to training data, 95th percentile"
    present = [(r.index, finite(r.coverage)) for r in report.rounds if finite(r.coverage).size]
    if not present:
        return {"title": title, "value": DASH, "small": "not recorded"}
    (a, first), (b, last) = present[0], present[-1]
    tails = [float(np.quantile(v, 0.95)) for v in (first, last)]
    medians = [float(np.median(v)) for v in (first, last)]
    if len(present) == 1:
        small = f"median {medians[0]:.2f} Å, round {a}"
        return {"title": title, "value": f"{tails[0]:.2f}\u00a0Å", "small": small}
    return {
        "title": title,
        "value": f"{tails[0]:.2f} → {tails[1]:.2f}\u00a0Å",
        "small": f"median {medians[0]:.2f} → {medians[1]:.2f} Å, round {a} → {b}",
    }


def round_rows(report: ReportInput) -> list[dict[str, Any]]:
    """One row a round of the summary table."""
    rows = []
    for r in report.rounds:
        coverage = finite(r.coverage)
        rows.append(
            {
                "index": r.index,
                "n_frames": r.n_frames,
                "w1": r.w1,
                "w1_ucsc": r.w1_ucsc,
                "coverage": np.quantile(coverage, [0.5, 0.95, 1.0]).tolist() if coverage.size else None,
                "selected": r.n_selected,
                "labelled": r.n_labelled,
                "quarantined": r.n_quarantined,
                "new_frames": r.n_new_frames,
                "oracle_ns": r.oracle_ns,
                "cg_steps": r.cg_steps,
                "blow_ups": len(r.blow_ups),
                "seconds": sum(finite(list(r.timings.values()))) if r.timings else None,
            }
        )
    return rows


def _timescales(report: ReportInput, tica: Any) -> str:
    if tica is None:
        return ""
    interval = report.frame_interval_ps
    unit, scale = ("ps", interval) if interval else ("frames", 1.0)
    values = [f"{t * scale:.3g}" if math.isfinite(t) else "∞" for t in tica.timescales]
    return f"lag {tica.lag_frames * scale:g} {unit}, implied timescales {', '.join(values)} {unit}"
