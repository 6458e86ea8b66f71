"""Figure of a reference ensemble: free-energy surface, trajectories, halves, implied timescales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.distributions import free_energy_surface, grid_edges
from cgal_plugin.reporting.plots import CYCLE, new_figure, tidy
from cgal_plugin.reporting.surfaces import FES_LIMIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from cgal_plugin.analysis.tica import TICAModel


def reference_figure(
    trajectories: Sequence[NDArray[np.floating]],
    tica: TICAModel,
    parts: Sequence[NDArray[np.floating]] | None,
    *,
    interval_ps: float,
    facts: Mapping[str, Any],
    temperature: float,
) -> Figure:
    """Draw four panels: free-energy surface; TIC 1 by time; TIC 1 of two halves; implied timescales.

    Parameters
    ----------
    trajectories
        ``(n, n_beads, 3)`` Å each.
    tica
        Projection.
    parts
        Weights of the frames, one ``(n,)`` array per trajectory, or None.
    interval_ps
        Time between frames.
    facts
        Result of :func:`cgal_plugin.benchmark.reference.convergence`.
    temperature
        K.
    """
    tics = tica.transform(trajectories)
    points = np.concatenate(tics)
    weights = np.full(len(points), 1.0 / len(points)) if parts is None else np.concatenate(parts)
    figure = new_figure(13.0, 3.4)
    surface, time, halves, scales = figure.subplots(1, 4)
    fes = free_energy_surface(points, grid_edges(points), temperature, weights=weights)
    mesh = surface.pcolormesh(fes.x_edges, fes.y_edges, fes.energy.T, vmin=0, vmax=FES_LIMIT, rasterized=True)
    tidy(surface, "TIC 1", "TIC 2", "weighted" if parts is not None else "UNWEIGHTED")
    figure.colorbar(mesh, ax=surface, label="free energy / kcal mol$^{-1}$", extend="max")

    for i, tic in enumerate(tics):
        time.plot(np.arange(len(tic)) * interval_ps / 1000, tic[:, 0], lw=0.4, color=CYCLE[i % len(CYCLE)])
    tidy(time, "time / ns", "TIC 1", f"{len(tics)} trajectories")

    edges = np.linspace(fes.x_edges[0], fes.x_edges[-1], 41)
    number = np.repeat(np.arange(len(tics)), [len(t) for t in tics])
    for k, name in enumerate(("even trajectories", "odd trajectories")):
        rows = number % 2 == k
        if rows.any() and weights[rows].sum() > 0:
            density, _ = np.histogram(points[rows, 0], edges, weights=weights[rows], density=True)
            halves.stairs(density, edges, label=name, color=CYCLE[k])
    halves.legend(fontsize=8, frameon=False)
    floor = facts["split_halves"]["w1"]["mean"]
    title = "split halves" if floor is None else f"split halves: W1 {floor:.2f}"
    tidy(halves, "TIC 1", "density", title)

    lags = sorted(facts["implied_timescales_ps"], key=float)
    for k in range(3):
        rows = [lag for lag in lags if len(facts["implied_timescales_ps"][lag]) > k]
        values = [facts["implied_timescales_ps"][lag][k] for lag in rows]
        scales.plot([float(lag) for lag in rows], values, marker="o", ms=3, color=CYCLE[k])
    x = np.array([float(lag) for lag in lags])
    scales.fill_between(x, 0, x, color="0.9")
    scales.set(xscale="log", yscale="log")
    tidy(scales, "lag / ps", "implied timescale / ps", "Markov state model")
    return figure
