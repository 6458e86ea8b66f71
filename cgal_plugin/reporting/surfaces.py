"""Panels of free-energy surfaces over TIC 1 and 2, on one scale: for reports of runs and of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.distributions import surface_of_histogram
from cgal_plugin.reporting.plots import GREY, STYLES, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    from cgal_plugin.analysis.distributions import FreeEnergySurface

#: upper end of the colour scale of free-energy surfaces, kcal/mol
FES_LIMIT = 4.0
#: label of the axes of histograms in standard deviations of the reference
SCALED = "TIC {} / std of the reference"


def histogram_surfaces(
    histograms: Mapping[str, Any], half_width: float, temperature: float, *, smooth: float = 0.0
) -> dict[str, FreeEnergySurface]:
    """Return the free energies of histograms of model tests.

    Parameters
    ----------
    histograms
        Title → ``(n, n)`` counts over TIC 1 and 2, in standard deviations of the reference from its mean.
        Frames beyond the range are counted in the outermost cells.
    half_width
        Half width of their range, standard deviations.
    temperature
        K.
    smooth
        Width in cells of a Gaussian filter, for display.

    Raises
    ------
    AnalysisError
        A histogram is empty, negative, not finite or not square.
    """
    found = {}
    for title, counts in histograms.items():
        density = np.asarray(counts, dtype=np.float64)
        edges = np.linspace(-half_width, half_width, len(density) + 1)
        beyond = 0.0
        if density.ndim == 2 and density.sum() > 0:
            beyond = float(1.0 - density[1:-1, 1:-1].sum() / density.sum())
        found[title] = surface_of_histogram(
            density, (edges, edges), temperature, smooth=smooth, outside=beyond
        )
    return found


def draw_surfaces(
    figure: FigureBase,
    panels: Sequence[Axes],
    surfaces: Mapping[str, FreeEnergySurface],
    *,
    outline: FreeEnergySurface | None = None,
    labels: tuple[str, str] = ("TIC 1", "TIC 2"),
    top: float = FES_LIMIT,
) -> None:
    """Draw one surface into each of ``panels``, with one colour scale and the contours of ``outline``.

    ``panels`` share their axes, which are cut to the cells that a surface visits; all surfaces are on one
    grid. There may be more panels than surfaces; the colour bar spans all of them.
    """
    from matplotlib import colormaps

    cmap = colormaps["viridis"].with_extremes(over="#f1e9b0")
    meshes = []
    for axes, (title, surface) in zip(panels, surfaces.items(), strict=False):
        mesh = axes.pcolormesh(
            surface.x_edges, surface.y_edges, surface.energy.T, vmin=0, vmax=top, cmap=cmap, rasterized=True
        )
        meshes.append(mesh)
        draw_outline(axes, outline if outline is not surface else None)
        tidy(axes, labels[0], labels[1] if axes is panels[0] else "", title)
        if surface.outside > 0.001:
            axes.text(
                0.98, 0.02, f"{100 * surface.outside:.1f} % outside", transform=axes.transAxes,
                ha="right", va="bottom", fontsize=8, color=GREY,
            )  # fmt: skip
    x, y = visited_limits(list(surfaces.values()))
    panels[0].set_xlim(*x)
    panels[0].set_ylim(*y)
    bar = figure.colorbar(meshes[-1], ax=list(panels), pad=0.01, fraction=0.03, extend="max")
    bar.set_label("free energy / kcal mol$^{-1}$", fontsize=10)
    bar.ax.tick_params(labelsize=9)


def free_energy_panels(
    surfaces: Mapping[str, FreeEnergySurface],
    *,
    outline: FreeEnergySurface | None = None,
    points: Mapping[str, tuple[NDArray[np.floating], str]] | None = None,
    labels: tuple[str, str] = ("TIC 1", "TIC 2"),
    size: tuple[float, float] = (3.1, 3.3),
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
    labels
        Labels of the axes.
    size
        Width and height of a panel, inches.
    """
    highest = max(float(np.nanmax(s.energy)) for s in surfaces.values())
    n = len(surfaces) + (1 if points else 0)
    figure = new_figure(size[0] * n + 0.7, size[1])
    grid = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    top = min(FES_LIMIT, max(1.0, highest))
    draw_surfaces(figure, list(grid), surfaces, outline=outline, labels=labels, top=top)
    if points:
        _point_panel(grid[-1], points, outline, labels[0])
    return figure


def visited_limits(
    surfaces: Sequence[FreeEnergySurface],
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of both axes around the cells that a surface visits; all are on one grid.

    The outermost cells do not count: in the histograms of model tests, they hold the frames beyond the range.
    """
    visited = np.any([np.isfinite(s.energy) for s in surfaces], axis=0)
    inner = visited.copy()
    inner[[0, -1]] = False
    inner[:, [0, -1]] = False
    visited = inner if inner.any() else visited
    limits = []
    for axis, edges in enumerate((surfaces[0].x_edges, surfaces[0].y_edges)):
        cells = np.flatnonzero(visited.any(axis=1 - axis))
        low, high = max(cells[0] - 1, 0), min(cells[-1] + 2, len(edges) - 1)
        limits.append((float(edges[low]), float(edges[high])))
    return limits[0], limits[1]


def draw_outline(axes: Axes, outline: FreeEnergySurface | None) -> None:
    """Draw the contours of 1, 2 and 3 kcal/mol of a surface in grey; nothing for None."""
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
    xlabel: str,
) -> None:
    draw_outline(axes, outline)
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
    tidy(axes, xlabel, "", "Training data")
    axes.legend(fontsize=8, frameon=True, framealpha=0.85, loc="upper right")
