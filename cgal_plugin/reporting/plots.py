"""Figures of the report: functions that return a :class:`matplotlib.figure.Figure`, without global state.

The colours are those of Okabe & Ito, safe for colour-blind readers; each set also has its own line style.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.distributions import histogram_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cgal_plugin.reporting.records import RoundSummary

#: set → (colour, line style, line width)
STYLES: dict[str, tuple[str, str, float]] = {
    "reference": ("#404040", "-", 1.6),
    "training": ("#009E73", ":", 1.6),
    "before": ("#D55E00", "--", 1.6),
    "after": ("#0072B2", "-", 2.0),
}
LABELS = {
    "reference": "reference (all-atom)",
    "training": "training data",
    "before": "before (first model)",
    "after": "after (last model)",
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
GREY = "#6B7280"


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of the given size in inches, with constrained layout and without pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def data_uri(figure: Figure) -> str:
    """Return the figure as SVG in a ``data:`` URI, with text as outlines."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def tidy(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Set labels, title and spines in the style of all panels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, color=GREY)
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    if title:
        axes.set_title(title, fontsize=11, loc="left")


#: title of W1, by the samples that it was computed from
W1_OF = {"test": "W1 (test)", "exploration": "W1 (exploration)"}


def w1_by_round(rounds: Sequence[RoundSummary], measured: str = "test") -> Figure:
    """Draw both W1 estimates by round, with intervals and the floor of the reference.

    ``measured`` says what W1 was computed from: ``"test"`` or ``"exploration"``.
    """
    names = [n for n in ("w1", "w1_ucsc") if any(getattr(r, n) is not None for r in rounds)]
    figure = new_figure(4.6 * len(names), 3.3)
    titles = {"w1": f"{W1_OF[measured]}, robust", "w1_ucsc": f"{W1_OF[measured]}, published recipe"}
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _w1_panel(axes, rounds, name, titles[name])
    return figure


def progress(rounds: Sequence[RoundSummary], measured: str = "test") -> Figure | None:
    """Draw W1 (robust) and the coverage of the samples by round, side by side; None without both."""
    w1 = any(r.w1 is not None for r in rounds)
    covered = any(finite(r.coverage).size for r in rounds)
    if not (w1 or covered):
        return None
    figure = new_figure(3.9 * (w1 + covered), 2.45)
    panels = list(figure.subplots(1, w1 + covered, squeeze=False)[0])
    if w1:
        _w1_panel(panels.pop(0), rounds, "w1", f"{W1_OF[measured]} by round")
    if covered:
        _coverage_panel(panels.pop(0), rounds, "coverage", "Coverage by round")
    return figure


def _w1_panel(axes: Axes, rounds: Sequence[RoundSummary], name: str, title: str) -> None:
    shown = [(r, getattr(r, name)) for r in rounds if getattr(r, name) is not None]
    index = np.array([r.index for r, _ in shown])
    value = np.array([result.value for _, result in shown])
    colour = STYLES["after"][0]
    axes.plot(index, value, "o-", color=colour, label="model against reference")
    drifting = [(r.index, result.value) for r, result in shown if r.drift]
    if drifting:
        axes.plot(*zip(*drifting, strict=True), "o", mfc="white", color=colour, label="test still drifts")
    for r, result in shown:
        if result.interval is not None:
            low, high = result.interval
            axes.plot([r.index] * 2, [low, high], "-", color=colour, lw=1.6, marker="_", ms=9, zorder=1)
    floors = [(result.floor, result.floor_range) for _, result in shown if result.floor is not None]
    if floors:
        level, band = floors[-1]
        axes.axhline(
            level, color=STYLES["reference"][0], ls="--", lw=1.2, label="floor: halves of the reference"
        )
        if band is not None:
            axes.axhspan(*band, color="#9CA3AF", alpha=0.25, lw=0)
    unit = {"standard deviations of the reference": "reference std"}.get(shown[0][1].unit, shown[0][1].unit)
    tidy(axes, "round", f"W1 / {unit}", title)
    _round_ticks(axes, [r for r, _ in shown])
    tops = [result.interval[1] for _, result in shown if result.interval is not None]
    tops += [band[1] for _, band in floors if band is not None]
    axes.set_ylim(0, 1.45 * max([*value.tolist(), *tops, 1e-3]))
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def _round_ticks(axes: Axes, rounds: Sequence[RoundSummary]) -> None:
    index = [r.index for r in rounds]
    axes.set_xticks(index, [r.name.removesuffix(" model") or str(r.index) for r in rounds])
    axes.set_xlim(min(index) - 0.6, max(index) + 0.6)


def coverage_by_round(rounds: Sequence[RoundSummary]) -> Figure:
    """Draw the distribution of the nearest RMSD to the training data by round."""
    names = [
        (n, t)
        for n, t in (
            ("coverage", "Frames sampled by the model"),
            ("reference_coverage", "Frames of the reference"),
        )
        if any(finite(getattr(r, n)).size for r in rounds)
    ]
    figure = new_figure(4.6 * len(names), 3.3)
    for axes, (name, title) in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _coverage_panel(axes, rounds, name, title)
    return figure


def _coverage_panel(axes: Axes, rounds: Sequence[RoundSummary], name: str, title: str) -> None:
    shown = [(r, finite(getattr(r, name))) for r in rounds]
    shown = [(r, v) for r, v in shown if v.size]
    for r, v in shown:
        axes.boxplot(
            [v], positions=[r.index], widths=0.5, whis=(5, 95), showfliers=False, patch_artist=True,
            boxprops={"facecolor": "#CFE3F1", "edgecolor": STYLES["after"][0]},
            medianprops={"color": "#0B3C5D", "lw": 2},
            whiskerprops={"color": STYLES["after"][0]}, capprops={"color": STYLES["after"][0]},
            manage_ticks=False,
        )  # fmt: skip
        axes.plot([r.index], [v.max()], "x", color=STYLES["before"][0], ms=6)
    _round_ticks(axes, [r for r, _ in shown])
    axes.set_ylim(bottom=0)
    tidy(axes, "round", "nearest RMSD to the\ntraining data / Å", title)


def finite(values: Any) -> NDArray[np.float64]:
    """Return the finite values, ``(k,)``; an empty array for None."""
    if values is None:
        return np.empty(0)
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def distributions(
    panels: Sequence[tuple[str, str, tuple[float, float] | None, Mapping[str, Any]]],
) -> Figure:
    """Draw histograms, one panel for each ``(title, xlabel, range or None, set → (values, weights))``."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.7 * columns, 2.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, xlabel, limits, sets) in zip(grid, panels, strict=False):
        # frames of blow-ups can only be in "before": they must not set the range
        pooled = [np.asarray(sets[n][0]).ravel() for n in sets if n != "before"] or [
            np.asarray(v[0]).ravel() for v in sets.values()
        ]
        edges = histogram_edges(np.concatenate(pooled), 70, limits)
        for name, (values, weights) in sets.items():
            colour, style, width = STYLES[name]
            values = np.asarray(values, dtype=float).ravel()
            counts = np.histogram(values, edges, weights=weights)[0].astype(float)
            total = len(values) if weights is None else float(np.sum(weights))
            density = counts / (total * np.diff(edges))
            if name == "reference":
                axes.stairs(density, edges, fill=True, color="#D1D5DB")
            axes.stairs(density, edges, color=colour, ls=style, lw=width, label=LABELS[name])
        axes.set_ylim(bottom=0)
        axes.set_xlim(edges[0], edges[-1])
        tidy(axes, xlabel, "density", title)
        if limits is not None and limits[1] - limits[0] == 360:
            axes.set_xticks([-180, -90, 0, 90, 180])
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    return figure
