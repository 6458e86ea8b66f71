"""Figures of the report: functions that return a :class:`matplotlib.figure.Figure`, without global state.

The colours are those of Okabe & Ito, safe for colour-blind readers; each set also has its own line style.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.distributions import FreeEnergySurface, histogram_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cgal_plugin.analysis.results import W1Result
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
_GREY = "#6B7280"
#: upper end of the colour scale of free-energy surfaces, kcal/mol
FES_LIMIT = 4.0


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
    axes.tick_params(labelsize=9, color=_GREY)
    axes.set_xlabel(xlabel, fontsize=10)
    axes.set_ylabel(ylabel, fontsize=10)
    if title:
        axes.set_title(title, fontsize=11, loc="left")


def free_energy_panels(
    surfaces: Mapping[str, FreeEnergySurface],
    *,
    outline: FreeEnergySurface | None = None,
    points: Mapping[str, tuple[NDArray[np.floating], str]] | None = None,
) -> Figure:
    """Draw one panel per surface, with the same axes and colour scale.

    Parameters
    ----------
    surfaces
        Title → surface, all on one grid.
    outline
        Surface whose contours of 1, 2 and 3 kcal/mol are drawn in grey in every panel (the reference).
    points
        Label → (``(n, 2)`` points, style ``"dots"`` or ``"diamonds"``), drawn in an additional panel.
    """
    from matplotlib import colormaps

    highest = max(float(np.nanmax(s.energy)) for s in surfaces.values())
    top = min(FES_LIMIT, max(1.0, highest))
    n = len(surfaces) + (1 if points else 0)
    figure = new_figure(3.1 * n + 0.7, 3.3)
    grid = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    cmap = colormaps["viridis"].with_extremes(over="#f1e9b0")
    meshes = []
    for axes, (title, surface) in zip(grid, surfaces.items(), strict=False):
        mesh = axes.pcolormesh(
            surface.x_edges, surface.y_edges, surface.energy.T, vmin=0, vmax=top, cmap=cmap, rasterized=True
        )
        meshes.append(mesh)
        _outline(axes, outline if outline is not surface else None)
        tidy(axes, "TIC 1", "TIC 2" if axes is grid[0] else "", title)
        if surface.outside > 0.001:
            axes.text(
                0.98, 0.02, f"{100 * surface.outside:.1f} % outside", transform=axes.transAxes,
                ha="right", va="bottom", fontsize=8, color=_GREY,
            )  # fmt: skip
    if points:
        _point_panel(grid[-1], points, outline)
    first = next(iter(surfaces.values()))
    grid[0].set_xlim(first.x_edges[0], first.x_edges[-1])
    grid[0].set_ylim(first.y_edges[0], first.y_edges[-1])
    bar = figure.colorbar(meshes[-1], ax=list(grid), pad=0.01, fraction=0.03, extend="max")
    bar.set_label("free energy / kcal mol$^{-1}$", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def _outline(axes: Axes, outline: FreeEnergySurface | None) -> None:
    if outline is None:
        return
    x = 0.5 * (outline.x_edges[1:] + outline.x_edges[:-1])
    y = 0.5 * (outline.y_edges[1:] + outline.y_edges[:-1])
    energy = np.where(np.isfinite(outline.energy), outline.energy, 99.0)
    axes.contour(x, y, energy.T, levels=[1, 2, 3], colors="#555555", linewidths=0.7)


def _point_panel(
    axes: Axes,
    points: Mapping[str, tuple[NDArray[np.floating], str]],
    outline: FreeEnergySurface | None,
) -> None:
    _outline(axes, outline)
    for label, (xy, style) in points.items():
        if style == "diamonds":
            axes.plot(
                xy[:, 0], xy[:, 1], "D", ms=4.5, mfc="#E69F00", mec="black", mew=0.5, label=label, ls="none"
            )
        else:
            axes.plot(
                xy[:, 0], xy[:, 1], ".", ms=3, color=STYLES["training"][0], alpha=0.45, label=label,
                ls="none", rasterized=True,
            )  # fmt: skip
    tidy(axes, "TIC 1", "", "Training data")
    axes.legend(fontsize=8, frameon=True, framealpha=0.85, loc="upper right")


def w1_by_round(rounds: Sequence[RoundSummary]) -> Figure:
    """Draw both W1 estimates by round, with intervals and the floor of the reference."""
    names = [n for n in ("w1", "w1_ucsc") if any(getattr(r, n) is not None for r in rounds)]
    figure = new_figure(4.6 * len(names), 3.3)
    titles = {"w1": "W1 (robust)", "w1_ucsc": "W1 (published recipe)"}
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [(r.index, getattr(r, name)) for r in rounds if getattr(r, name) is not None]
        _w1_panel(axes, shown, titles[name])
    return figure


def _w1_panel(axes: Axes, shown: Sequence[tuple[int, W1Result]], title: str) -> None:
    index = np.array([i for i, _ in shown])
    value = np.array([r.value for _, r in shown])
    colour = STYLES["after"][0]
    axes.plot(index, value, "o-", color=colour, label="model against reference")
    for i, result in shown:
        if result.interval is not None:
            low, high = result.interval
            axes.plot([i, i], [low, high], "-", color=colour, lw=1.6, marker="_", ms=9)
    floors = [(r.floor, r.floor_range) for _, r in shown if r.floor is not None]
    if floors:
        level, band = floors[-1]
        axes.axhline(
            level, color=STYLES["reference"][0], ls="--", lw=1.2, label="floor: halves of the reference"
        )
        if band is not None:
            axes.axhspan(*band, color="#9CA3AF", alpha=0.25, lw=0)
    unit = {"standard deviations of the reference": "reference std"}.get(shown[0][1].unit, shown[0][1].unit)
    tidy(axes, "round", f"W1 / {unit}", title)
    axes.set_xticks(index)
    axes.set_xlim(index.min() - 0.5, index.max() + 0.5)
    tops = [r.interval[1] for _, r in shown if r.interval is not None]
    tops += [band[1] for _, band in floors if band is not None]
    axes.set_ylim(0, 1.22 * max([*value.tolist(), *tops, 1e-3]))
    axes.legend(fontsize=8, frameon=False, loc="upper right")


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
        shown = [(r.index, finite(getattr(r, name))) for r in rounds]
        shown = [(i, v) for i, v in shown if v.size]
        for i, v in shown:
            axes.boxplot(
                [v], positions=[i], widths=0.5, whis=(5, 95), showfliers=False, patch_artist=True,
                boxprops={"facecolor": "#CFE3F1", "edgecolor": STYLES["after"][0]},
                medianprops={"color": "#0B3C5D", "lw": 2},
                whiskerprops={"color": STYLES["after"][0]}, capprops={"color": STYLES["after"][0]},
                manage_ticks=False,
            )  # fmt: skip
            axes.plot([i], [v.max()], "x", color=STYLES["before"][0], ms=6)
        index = [i for i, _ in shown]
        axes.set_xticks(index)
        axes.set_xlim(min(index) - 0.6, max(index) + 0.6)
        axes.set_ylim(bottom=0)
        tidy(axes, "round", "nearest RMSD to the training data / Å", title)
    return figure


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
