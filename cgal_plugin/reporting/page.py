"""Write the HTML report: one self-contained file without network access; every string is escaped."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined

from cgal_plugin.analysis.results import Reduction, W1Result, relative_reduction
from cgal_plugin.analysis.tica import TICAModel
from cgal_plugin.provenance import atomic_write
from cgal_plugin.reporting import sections
from cgal_plugin.reporting.first_screen import first_screen
from cgal_plugin.reporting.formatting import DASH, number, printable, prior_image, prior_rows, script_json
from cgal_plugin.reporting.outcome import model_name
from cgal_plugin.reporting.plots import W1_OF, finite
from cgal_plugin.reporting.records import ReportInput
from cgal_plugin.reporting.viewer import viewer_data


def write_report(path: str | os.PathLike[str], report: ReportInput) -> Path:
    """Write the report as one self-contained HTML file; return its path.

    The page names missing parts (no reference, no quarantine, a single round, NaN). It states a reduction of
    W1 only together with its interval and the floor of the reference.
    """
    html = render_report(report)
    with atomic_write(path, "w") as handle:
        handle.write(html)
    return Path(path)


def render_report(report: ReportInput) -> str:
    """Return the report as HTML text; see :func:`write_report`."""
    frames = sections.collect_frames(report)
    tica = sections.projection(report, frames)
    explored = sections.explored_surfaces(report, frames, tica)
    surfaces = sections.surfaces(report, frames, tica, explored)
    structure, distances, basis = sections.structure(report, frames)
    viewer, viewer_note = viewer_data(report)
    prior, prior_note = prior_image(report.prior_plot)
    pages = environment()
    return pages.get_template("report.html").render(
        report=report,
        first=first_screen(report, explored),
        facts=head_facts(report, frames),
        notes=list(dict.fromkeys([*report.notes, *frames.notes, *_general_notes(report)])),
        cards=headline_cards(report),
        rows=round_rows(report),
        surfaces=surfaces,
        tica=tica,
        timescales=_timescales(report, tica),
        w1=sections.w1_picture(report),
        coverage=sections.coverage_picture(report),
        structure=structure,
        distances=distances,
        basis={"reference": "the reference", "training": "the training data"}.get(basis, ""),
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
    """Return the environment of the package's templates, which escapes every value."""
    made = Environment(
        loader=FunctionLoader(_static),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(num=number, script_json=script_json)
    return made


def _static(name: str) -> str:
    return (resources.files("cgal_plugin.reporting") / "static" / name).read_text(encoding="utf-8")


def head_facts(report: ReportInput, frames: sections.Frames) -> list[tuple[str, str]]:
    """Return the rows of the page's head."""
    top = report.topology
    facts = [
        (
            "Molecule",
            f"{top.sequence} ({top.n_beads} beads, {top.mapping} mapping, {top.embedding} embedding)",
        ),
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
        facts.append(("Training data", f"{number(len(frames.training))} labelled frames"))
    if report.frame_interval_ps:
        facts.append(("Reference frame interval", f"{report.frame_interval_ps:g} ps"))
    return facts + [(str(k), str(v)) for k, v in report.facts.items()]


def _general_notes(report: ReportInput) -> list[str]:
    notes = []
    if not report.reference:
        notes.append("No reference trajectory: W1 and other distances to a reference are not available.")
    if len(report.rounds) == 1:
        notes.append("One round only: changes between rounds are not available.")
    if report.reference and report.reference_weights is None:
        notes.append("The reference is not reweighted: all its frames have equal weight.")
    for r in report.rounds:
        if r.drift:
            notes.append(f"{model_name(r).capitalize()}: its test still drifts ({r.drift}).")
        for result in (r.w1, r.w1_ucsc):
            if result is not None:
                notes += [f"Round {r.index}, {result.metric}: {n}." for n in result.notes]
    return notes


def headline_cards(report: ReportInput) -> list[dict[str, str]]:
    """Return the cards at the top of the page: title, value, and details."""
    cards = [
        _w1_card(report, "w1", f"{W1_OF[report.measured]}, robust"),
        _w1_card(report, "w1_ucsc", f"{W1_OF[report.measured]}, published recipe"),
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
    present: list[tuple[str, W1Result]] = [
        (model_name(r), getattr(r, name)) for r in report.rounds if getattr(r, name) is not None
    ]
    if not present:
        return {"title": title, "value": DASH, "small": report.no_w1 or "not computed (needs a reference)"}
    (a, first), (b, last) = present[0], present[-1]
    if len(present) == 1:
        return {"title": title, "value": f"{last.value:.2f}", "small": w1_text(last)}
    reduction = relative_reduction(first, last)
    if reduction is None or last.floor is None:
        small = "reduction not stated: no interval or no floor"
    else:
        small = _reduction_text(reduction) + f" · floor {last.floor:.2f}"
        if last.value <= last.floor:
            small += ", reached: this reference cannot show a further reduction"
    return {
        "title": f"{title}, {a} → {b.removeprefix('round ')}",
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
    return text if reduction.resolved else text + " (not resolved: the interval contains 0)"


def w1_text(result: W1Result) -> str:
    """Return interval and floor as text."""
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
    """Return the summary table, one row per round."""
    rows = []
    for r in report.rounds:
        coverage = finite(r.coverage)
        rows.append(
            {
                "index": r.name.removesuffix(" model") or r.index,
                "n_frames": r.n_frames,
                "w1": r.w1,
                "drifts": bool(r.drift),
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


def _timescales(report: ReportInput, tica: TICAModel | None) -> str:
    if tica is None:
        return ""
    interval = report.frame_interval_ps
    unit, scale = ("ps", interval) if interval else ("frames", 1.0)
    values = [f"{t * scale:.3g}" if math.isfinite(t) else "∞" for t in tica.timescales]
    return f"lag {tica.lag_frames * scale:g} {unit}, implied timescales {', '.join(values)} {unit}"
