"""Figure of a benchmark: free-energy surfaces of the arms, and W1 by oracle cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.benchmark.statistics import METRICS, ArmSummary, mean_floor
from cgal_plugin.reporting.plots import CYCLE, new_figure, tidy
from cgal_plugin.reporting.surfaces import draw_surfaces, histogram_surfaces

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_TITLES = {"w1": "W1 (robust)", "w1_ucsc": "W1 (published recipe)"}
_MOST_PANELS = 6
# line style and marker of the arms in one cycle of the colours
_STYLES = (("-", "o"), ("--", "s"), (":", "D"))

_CAPTION = (
    "Top: free-energy surfaces over the reference's TIC 1 and 2 (in its standard deviations), seeds pooled; "
    "grey lines: contours of the reference at 1, 2 and 3 kcal/mol. Bottom: W1 of each round's {source} by "
    "all-atom MD used (mean and range over seeds), and of the final test (right of each panel: mean, 95 % "
    "interval, and each seed as a small mark); dashed: floor, the distance between halves of the reference."
)


def caption(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the caption; in results of test version 1, rounds have the W1 of their exploration."""
    tested = all(row.get("test_version", 1) > 1 for row in results)
    return _CAPTION.format(source="test" if tested else "exploration")


def benchmark_figure(
    results: Sequence[Mapping[str, Any]],
    arms: Mapping[str, ArmSummary],
    labels: Mapping[str, str],
    temperature: float,
    fes_range: float,
) -> Figure:
    """Draw surfaces of the reference and of up to five arms, and below them W1 by oracle cost.

    Parameters
    ----------
    results
        Lines of ``results.jsonl``.
    arms
        Result of :func:`cgal_plugin.benchmark.statistics.summarise`.
    labels
        Arm → name in titles and legend.
    temperature
        K.
    fes_range
        Half width of the TIC histograms in ``results``, in standard deviations of the reference.
    """
    figure = new_figure(15.0, 7.2)
    halves: NDArray[Any] = np.asarray(figure.subfigures(2, 1, height_ratios=(1.0, 1.15)))
    top, bottom = halves
    tests = (r["test"] for r in results)
    reference = np.array(next(t["reference_histogram"] for t in tests if "reference_histogram" in t))
    panels = {"reference (all-atom)": reference}
    for arm in list(arms)[: _MOST_PANELS - 1]:
        histograms = [np.array(r["test"]["histogram"]) for r in results if r["arm"] == arm]
        panels[labels[arm]] = np.mean(histograms, axis=0)
    axes = top.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    surfaces = histogram_surfaces(panels, fes_range, temperature)
    reference_surface = next(iter(surfaces.values()))
    labels_of_axes = ("TIC 1 / std", "TIC 2 / std")
    draw_surfaces(top, list(axes), surfaces, outline=reference_surface, labels=labels_of_axes)
    left, right = bottom.subplots(1, 2)
    for panel, metric in zip((left, right), METRICS, strict=True):
        _by_cost(panel, results, arms, labels, metric)
    bottom.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    return figure


def _by_cost(
    axes: Axes,
    results: Sequence[Mapping[str, Any]],
    arms: Mapping[str, ArmSummary],
    labels: Mapping[str, str],
    metric: str,
) -> None:
    longest = max(r["oracle_ns"] for r in results)
    for k, (arm, summary) in enumerate(arms.items()):
        colour, (line, marker) = CYCLE[k % len(CYCLE)], _STYLES[k // len(CYCLE) % len(_STYLES)]
        own = [r for r in results if r["arm"] == arm]
        curves = [_curve(r, metric) for r in own]
        n = min(len(c) for c in curves)
        if n > 1:
            ns = np.mean([[x for x, _ in c[:n]] for c in curves], axis=0)
            values = np.array([[y for _, y in c[:n]] for c in curves])
            axes.plot(ns, values.mean(axis=0), line, color=colour, lw=1.5)
            axes.fill_between(ns, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.09, lw=0)
        final = summary.mean[metric]
        x = longest * (1.05 + 0.04 * k)
        seeds = [r["test"][metric]["value"] for r in own]
        axes.plot([x + 0.012 * longest] * len(seeds), seeds, "_", color=colour, ms=5)
        axes.plot([x], [final.value], marker, color=colour, label=labels[arm])
        if final.interval is not None:
            axes.plot([x, x], list(final.interval), "-", color=colour, lw=1.6)
    floor = mean_floor(results, metric)
    if floor is not None:
        axes.axhline(floor, color="#404040", ls="--", lw=1.1)
    axes.set_ylim(bottom=0)
    tidy(axes, "all-atom MD / ns", "W1", _TITLES[metric])


def _curve(result: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    spent, curve = float(result["seed_ns"]), []
    for row in result["rounds"]:
        if metric in row:
            curve.append((spent, float(row[metric]["value"])))
        spent += float(row.get("oracle_ns", 0.0))
    return curve
