"""The report of a benchmark: the table, the figure a paper would print, and how it was obtained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.benchmark import METRICS, ArmSummary, Estimate, difference, summarise
from cgal_plugin.analysis.formatting import printable
from cgal_plugin.analysis.plots import CYCLE, FES_LIMIT, data_uri, new_figure, tidy
from cgal_plugin.analysis.report import environment
from cgal_plugin.provenance import atomic_path, atomic_write
from cgal_plugin.units import kT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: titles of the two figures
_TITLES = {"w1": "W1 (robust)", "w1_ucsc": "W1 (published recipe)"}
_MOST_PANELS = 6


def write_benchmark_report(
    folder: Path,
    results: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    fes_range: float,
) -> Path:
    """Write ``report.html``, ``figure.png`` and ``summary.json`` into ``folder``; returns the page's path.

    Parameters
    ----------
    results
        Lines of ``results.jsonl``.
    settings
        What the benchmark's file says (``name``, ``baseline``, ``arms``, ``base``, ``test``).
    fes_range
        Half the width of the results' TIC histograms, standard deviations of the reference.

    Raises
    ------
    AnalysisError
        The baseline has no result yet.
    """
    baseline = settings["baseline"]
    arms = summarise(results, baseline)
    labels = {a: settings["arms"].get(a, {}).get("label") or a for a in arms}
    temperature = float(results[0]["test"]["provenance"]["temperature"])
    figure = benchmark_figure(results, arms, labels, temperature, fes_range)
    atomic_path(folder / "figure.png", lambda name: figure.savefig(name, dpi=150, format="png"))
    floors = {m: _floor(results, m) for m in METRICS}
    comparisons = head_to_head(results, baseline)
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
        caption=_CAPTION,
        text=_text(results, settings),
        provenance=json.dumps(
            printable({"settings": dict(settings), "versions": results[0]["versions"]}), indent=1
        ),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    with atomic_write(folder / "report.html", "w") as handle:
        handle.write(page)
    return folder / "report.html"


_CAPTION = (
    "Top: free-energy surfaces over the reference's TIC 1 and 2 (in its standard deviations), seeds pooled; "
    "grey lines: the reference at 1, 2 and 3 kcal/mol. Bottom: W1 of each round's own sampling by all-atom "
    "MD spent (mean and range over seeds), and of the final test (right of each panel: mean and 95 % "
    "interval); dashed: halves of the reference against each other."
)


def head_to_head(results: Sequence[Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Differences between the arm ``rmsd`` and every other one, over the seeds that both have."""
    rows: dict[str, dict[int, Any]] = {}
    for r in results:
        rows.setdefault(r["arm"], {})[int(r["seed"])] = r
    if "rmsd" not in rows:
        return []
    found = []
    for other in rows:
        common = sorted(set(rows["rmsd"]) & set(rows[other]))
        if other in ("rmsd", baseline) or not common:
            continue
        for metric in METRICS:
            estimate = difference([rows["rmsd"][s] for s in common], [rows[other][s] for s in common], metric)
            found.append(
                {
                    "first": "rmsd", "second": other, "metric": metric, "estimate": estimate,
                    "verdict": _verdict(estimate),
                }
            )  # fmt: skip
    return found


def _verdict(estimate: Estimate) -> str:
    if estimate.interval is None:
        return "one seed: not to be judged"
    if not estimate.resolved:
        return "not resolved"
    return "lower" if estimate.value < 0 else "HIGHER"


def benchmark_figure(
    results: Sequence[Mapping[str, Any]],
    arms: Mapping[str, ArmSummary],
    labels: Mapping[str, str],
    temperature: float,
    fes_range: float,
) -> Figure:
    """Surfaces of the reference and of up to five arms above W1 by oracle cost."""
    figure = new_figure(15.0, 7.2)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.15))
    tests = (r["test"] for r in results)
    reference = np.array(next(t["reference_histogram"] for t in tests if "reference_histogram" in t))
    panels = {"reference (all-atom)": reference}
    for arm in list(arms)[: _MOST_PANELS - 1]:
        histograms = [np.array(r["test"]["histogram"]) for r in results if r["arm"] == arm]
        panels[labels[arm]] = np.mean(histograms, axis=0)
    edges = np.linspace(-fes_range, fes_range, len(reference) + 1)
    axes = top.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    mesh = None
    for panel, (title, density) in zip(axes, panels.items(), strict=True):
        mesh = panel.pcolormesh(
            edges, edges, _energy(density, temperature).T, vmin=0, vmax=FES_LIMIT, rasterized=True
        )
        middle = 0.5 * (edges[1:] + edges[:-1])
        panel.contour(
            middle, middle, np.nan_to_num(_energy(reference, temperature), nan=99.0).T, levels=[1, 2, 3],
            colors="#555555", linewidths=0.6,
        )  # fmt: skip
        tidy(panel, "TIC 1 / std", "TIC 2 / std" if panel is axes[0] else "", title)
    bar = top.colorbar(mesh, ax=list(axes), pad=0.01, fraction=0.02, extend="max")
    bar.set_label("free energy / kcal mol$^{-1}$", fontsize=10)
    for panel, metric in zip(bottom.subplots(1, 2), METRICS, strict=True):
        _by_cost(panel, results, arms, labels, metric)
    return figure


def _energy(density: np.ndarray, temperature: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        energy = np.where(density > 0, -kT(temperature) * np.log(density), np.nan)
    return energy - np.nanmin(energy)


def _by_cost(
    axes: Axes,
    results: Sequence[Mapping[str, Any]],
    arms: Mapping[str, ArmSummary],
    labels: Mapping[str, str],
    metric: str,
) -> None:
    longest = max(r["oracle_ns"] for r in results)
    for k, (arm, summary) in enumerate(arms.items()):
        colour = CYCLE[k % len(CYCLE)]
        curves = [_curve(r, metric) for r in results if r["arm"] == arm]
        n = min(len(c) for c in curves)
        if n > 1:
            ns = np.mean([[x for x, _ in c[:n]] for c in curves], axis=0)
            values = np.array([[y for _, y in c[:n]] for c in curves])
            axes.plot(ns, values.mean(axis=0), "-", color=colour, lw=1.5)
            axes.fill_between(ns, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        final = summary.mean[metric]
        x = longest * (1.05 + 0.04 * k)
        axes.plot([x], [final.value], "o", color=colour, label=labels[arm])
        if final.interval is not None:
            axes.plot([x, x], list(final.interval), "-", color=colour, lw=1.6)
    floor = _floor(results, metric)
    if floor is not None:
        axes.axhline(floor, color="#404040", ls="--", lw=1.1)
    axes.set_ylim(bottom=0)
    tidy(axes, "all-atom MD / ns", "W1", _TITLES[metric])
    axes.legend(fontsize=8, frameon=False, ncols=2)


def _curve(result: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    spent, curve = float(result["seed_ns"]), []
    for row in result["rounds"]:
        if metric in row:
            curve.append((spent, float(row[metric]["value"])))
        spent += float(row.get("oracle_ns", 0.0))
    return curve


def _floor(results: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [r["test"][metric]["floor"] for r in results if r["test"][metric]["floor"] is not None]
    return float(np.mean(values)) if values else None


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
            "CG steps tested",
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
    spent = {a: s.oracle_ns for a, s in arms.items() if a != settings["baseline"]}
    if spent and max(spent.values()) > 1.1 * min(spent.values()):
        low, high = min(spent, key=spent.get), max(spent, key=spent.get)
        notes.append(
            f"Oracle costs are not equal: {low} {spent[low]:.3f} ns, {high} {spent[high]:.3f} ns "
            "(labels that failed are not counted)."
        )
    weighting = results[0]["test"].get("reference_weighting")
    notes.append(f"Reference: {weighting}." if weighting else "Reference: unweighted.")
    return notes


def _text(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    test = settings["test"]
    seeds = sorted({r["seed"] for r in results})
    return [
        "Every arm and seed is one run of the loop from all-atom seed data to a final model. Arms of one "
        "seed share the seed data, the priors fitted to them and the first model; they differ in what the "
        "table names. The oracle's cost counts all-atom MD of seed data and of labels.",
        f"Test of a final model: {test['n_replicas']} replicas of {test['steps']:,} steps, half from the "
        f"folded and half from the stretched chain, the first {100 * test['discard']:.0f} % left out, the "
        "same for every arm; TICs are fitted on the reference only.",
        "Robust W1: exact optimal transport on TIC 1 and 2 in units of the reference's standard deviation. "
        "Published recipe: kernel densities on a 25 × 25 grid over the joint range. Both are biased upwards "
        "by finite sampling: the floor is what halves of the reference give.",
        "Intervals: seeds resampled together with block-bootstrap replicates of the model's and the "
        "reference's trajectories (reference blocks shared by all arms), quantiles widened by Student's "
        "factor.",
        f"Seeds: {', '.join(map(str, seeds))}. Versions and the complete configuration are below; raw "
        "results are in results.jsonl.",
    ]
