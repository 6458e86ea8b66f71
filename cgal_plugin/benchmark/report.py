"""Write the report of a benchmark: tables, figure, and methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.benchmark.figure import benchmark_figure, caption
from cgal_plugin.benchmark.statistics import METRICS, ArmSummary, Estimate, difference, mean_floor, summarise
from cgal_plugin.provenance import atomic_path, atomic_write
from cgal_plugin.reporting.formatting import printable
from cgal_plugin.reporting.page import environment
from cgal_plugin.reporting.plots import data_uri


def write_benchmark_report(
    folder: Path,
    results: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    fes_range: float,
) -> Path:
    """Write ``report.html``, ``figure.png`` and ``summary.json`` into ``folder``; return the first path.

    Parameters
    ----------
    results
        Lines of ``results.jsonl``.
    settings
        Content of the benchmark's file (``name``, ``baseline``, ``arms``, ``base``, ``test``).
    fes_range
        Half width of the TIC histograms in ``results``, in standard deviations of the reference.

    Raises
    ------
    AnalysisError
        The baseline has no result yet.
    """
    baseline = settings["baseline"]
    arms = summarise(results, baseline)
    labels = {a: settings["arms"].get(a, {}).get("label") or a for a in arms}
    temperature = float(results[0]["test"]["provenance"]["temperature"])
    compared = [a for a in settings.get("compare", ("rmsd",)) if a in arms]
    # the figure shows the surfaces of the first arms
    first = dict.fromkeys([baseline, *compared, *arms])
    figure = benchmark_figure(results, {a: arms[a] for a in first}, labels, temperature, fes_range)
    atomic_path(folder / "figure.png", lambda name: figure.savefig(name, dpi=150, format="png"))
    floors = {m: mean_floor(results, m) for m in METRICS}
    comparisons = head_to_head(results, baseline, compared)
    with atomic_write(folder / "summary.json", "w") as handle:
        json.dump(_summary(arms, floors, comparisons), handle, indent=1)
    noise = [r["test"]["noise_floor"] for r in results if r["test"].get("noise_floor")]
    page = environment().get_template("benchmark.html").render(
        title=settings["name"],
        facts=_facts(results, settings, temperature),
        notes=_notes(results, settings, arms),
        baseline=labels[baseline],
        rows=[{"label": labels[a], **vars(summary)} for a, summary in arms.items()],
        floors=floors,
        noise=float(np.mean(noise)) if noise else None,
        comparisons=[c | {"first": labels[c["first"]], "second": labels[c["second"]]} for c in comparisons],
        figure=data_uri(figure),
        caption=caption(results),
        text=_text(results, settings),
        provenance=json.dumps(
            printable({"settings": dict(settings), "versions": results[0]["versions"]}), indent=1
        ),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    with atomic_write(folder / "report.html", "w") as handle:
        handle.write(page)
    return folder / "report.html"


def head_to_head(
    results: Sequence[Mapping[str, Any]], baseline: str, compared: Sequence[str]
) -> list[dict[str, Any]]:
    """Compute differences between each arm of ``compared`` and every other arm, over their common seeds."""
    rows: dict[str, dict[int, Any]] = {}
    for r in results:
        rows.setdefault(r["arm"], {})[int(r["seed"])] = r
    found = []
    for first in compared:
        for other in rows:
            common = sorted(set(rows[first]) & set(rows[other]))
            if other in (first, baseline) or not common:
                continue
            for metric in METRICS:
                ours, theirs = ([rows[arm][s] for s in common] for arm in (first, other))
                estimate = difference(ours, theirs, metric)
                pair = {"first": first, "second": other, "metric": metric, "estimate": estimate}
                found.append(pair | {"verdict": _verdict(estimate)})
    return found


def _verdict(estimate: Estimate) -> str:
    if estimate.interval is None:
        return "one seed: no interval"
    if not estimate.resolved:
        return "not resolved"
    return "lower" if estimate.value < 0 else "HIGHER"


def _summary(
    arms: Mapping[str, ArmSummary],
    floors: Mapping[str, float | None],
    comparisons: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    def plain(estimate: Estimate) -> dict[str, Any]:
        return vars(estimate) | {"resolved": estimate.resolved}

    return {
        "arms": {
            name: {
                "seeds": list(a.seeds),
                "oracle_ns": a.oracle_ns,
                "mean": {m: plain(e) for m, e in a.mean.items()},
                "reduction": None if a.reduction is None else {m: plain(e) for m, e in a.reduction.items()},
                **a.others,
            }
            for name, a in arms.items()
        },
        "floors": dict(floors),
        "head_to_head": [dict(c) | {"estimate": plain(c["estimate"])} for c in comparisons],
    }


def _facts(
    results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], temperature: float
) -> list[tuple[str, str]]:
    provenance = results[0]["test"]["provenance"]
    wanted = sum(a.get("seeds", 0) for a in settings["arms"].values())
    steps = sum(r["test"]["steps"] for r in results)
    return [
        ("Temperature", f"{temperature:g} K"),
        ("Reference", f"{provenance['reference_frames']:,} frames"),
        ("Arms and seeds done", f"{len(results)} of {wanted}"),
        (
            "CG steps of the tests",
            f"{steps:,} replica-steps, {sum(r['test']['blow_ups'] for r in results)} blow-ups",
        ),
    ]


def _notes(
    results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], arms: Mapping[str, ArmSummary]
) -> list[str]:
    notes = []
    for arm, wanted in settings["arms"].items():
        n = len(arms[arm].seeds) if arm in arms else 0
        if n < wanted.get("seeds", 0):
            notes.append(f"{wanted.get('label') or arm}: {n} of {wanted['seeds']} seeds done.")
    least = arms[settings["baseline"]].oracle_ns
    # arms without labels have the cost of the baseline
    spent = {a: s.oracle_ns for a, s in arms.items() if s.oracle_ns > 1.1 * least}
    if spent and max(spent.values()) > 1.1 * min(spent.values()):
        low, high = min(spent, key=spent.__getitem__), max(spent, key=spent.__getitem__)
        notes.append(
            f"Oracle costs are not equal: {low} {spent[low]:.3f} ns, {high} {spent[high]:.3f} ns "
            "(failed labels are not counted)."
        )
    for row in results:
        if row["test"].get("drift_text"):
            notes.append(f"{row['arm']}, seed {row['seed']}: W1 drifts: {row['test']['drift_text']}.")
    weighting = results[0]["test"].get("reference_weighting")
    notes.append(f"Reference: {weighting}." if weighting else "Reference: unweighted.")
    return notes


def _starts(results: Sequence[Mapping[str, Any]]) -> str:
    """Name the starts of a test; results of earlier versions do not."""
    groups = (results[0]["test"].get("starts") or {}).get("groups")
    if not groups or groups == ["structure", "stretched"]:
        return "the folded and half from the extended chain"
    return " and half from ".join(groups)


def _text(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    test = settings["test"]
    seeds = sorted({r["seed"] for r in results})
    return [
        "Each arm and seed is one run of the loop from all-atom seed data to a final model. The arms of one "
        "seed share the seed data, the priors fitted to them and the first model; they differ in the "
        "settings named in the table. The oracle cost is the all-atom MD of seed data and labels.",
        f"Test of a final model: {test['n_replicas']} replicas of {test['steps']:,} steps, half started from "
        f"{_starts(results)}, without the first {100 * test['discard']:.0f} %, the "
        "same for every arm. TICs are fitted to the reference only.",
        "Robust W1: exact optimal transport on TIC 1 and 2 in units of the reference's standard deviation. "
        "Published recipe: kernel densities on a 25 × 25 grid over the joint range. Finite samples bias both "
        "upwards: the floor is the distance between halves of the reference.",
        "Intervals: seeds are resampled together with block-bootstrap replicates of the model's and the "
        "reference's trajectories (reference blocks are shared by all arms), and quantiles are widened by "
        "Student's factor.",
        f"Seeds: {', '.join(map(str, seeds))}. Versions and the complete configuration follow; raw results "
        "are in results.jsonl.",
    ]
