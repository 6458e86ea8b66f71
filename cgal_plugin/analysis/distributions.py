"""Jensen–Shannon divergences and free-energy surfaces from histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError
from cgal_plugin.units import kT

if TYPE_CHECKING:
    from numpy.typing import NDArray


def jensen_shannon(p: NDArray[np.floating], q: NDArray[np.floating]) -> float:
    """Compute the Jensen–Shannon divergence of two histograms, in bits: 0 for equal, 1 for disjoint ones.

    ``p`` and ``q`` are counts or densities on the same cells, of any shape ``(...)``; both are normalised
    (Lin, IEEE Trans. Inf. Theory 37, 145, 1991).

    Raises
    ------
    AnalysisError
        Shapes differ, or a histogram is empty, negative or not finite.
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape:
        raise AnalysisError(f"histograms have shapes {p.shape} and {q.shape}; they must agree")
    for h in (p, q):
        if not np.isfinite(h).all() or (h < 0).any() or h.sum() <= 0:
            raise AnalysisError("a histogram is empty, negative or not finite")
    p, q = p / p.sum(), q / q.sum()
    m = 0.5 * (p + q)
    terms = [0.5 * (h[h > 0] * np.log2(h[h > 0] / m[h > 0])).sum() for h in (p, q)]
    return float(min(1.0, max(0.0, sum(terms))))


def jensen_shannon_samples(
    model: NDArray[np.floating],
    reference: NDArray[np.floating],
    *,
    bins: int = 50,
    value_range: tuple[float, float] | None = None,
    model_weights: NDArray[np.floating] | None = None,
    reference_weights: NDArray[np.floating] | None = None,
) -> float:
    """Compute the Jensen–Shannon divergence (bits) of samples ``(n,)`` and ``(m,)`` with optional weights.

    Bins span the 0.1 % to 99.9 % quantiles of the reference, widened by a fifth (or ``value_range``). Values
    outside are counted in the outermost bins, so outliers do not change the bins. Two finite samples of the
    same distribution have a divergence of order bins / frames: compare with halves of the reference.

    Raises
    ------
    AnalysisError
        A sample is empty or not finite.
    """
    x, y = np.asarray(model, dtype=np.float64).ravel(), np.asarray(reference, dtype=np.float64).ravel()
    for name, values in (("model", x), ("reference", y)):
        if not len(values) or not np.isfinite(values).all():
            raise AnalysisError(f"{name} sample is empty or not finite")
    edges = histogram_edges(y, bins, value_range)
    p, q = (
        np.histogram(np.clip(v, edges[0], edges[-1]), edges, weights=w)[0]
        for v, w in ((x, model_weights), (y, reference_weights))
    )
    return jensen_shannon(p, q)


def histogram_edges(
    values: NDArray[np.floating], bins: int, value_range: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Return ``(bins + 1,)`` edges over the 0.1 % to 99.9 % quantiles of ``values``, widened by a fifth."""
    if bins < 2:
        raise AnalysisError(f"bins is {bins}; it must be at least 2")
    if value_range is None:
        low, high = np.quantile(values, [0.001, 0.999])
        margin = 0.1 * (high - low) or 0.5
        value_range = (float(low - margin), float(high + margin))
    return np.linspace(*value_range, bins + 1)


@dataclass(frozen=True, eq=False)
class FreeEnergySurface:
    """Free energy −kT ln p on a grid of two components.

    Attributes
    ----------
    x_edges, y_edges
        ``(n + 1,)``, ``(m + 1,)`` edges of the cells.
    energy
        ``(n, m)`` kcal/mol, 0 in the lowest cell, NaN in cells without frames.
    outside
        Fraction of the weight outside the grid.
    temperature
        K.
    """

    x_edges: NDArray[np.float64]
    y_edges: NDArray[np.float64]
    energy: NDArray[np.float64]
    outside: float
    temperature: float


def grid_edges(
    *sets: NDArray[np.floating], bins: int = 50, quantile: float = 0.001
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return edges of two axes that span each set ``(n, ≥2)`` without its ``quantile`` tails, plus 8 %."""
    low = np.min([np.quantile(s[:, :2], quantile, axis=0) for s in sets], axis=0)
    high = np.max([np.quantile(s[:, :2], 1 - quantile, axis=0) for s in sets], axis=0)
    margin = np.where(high > low, 0.08 * (high - low), 0.5)
    edges = [np.linspace(a, b, bins + 1) for a, b in zip(low - margin, high + margin, strict=True)]
    return edges[0], edges[1]


def free_energy_surface(
    points: NDArray[np.floating],
    edges: tuple[NDArray[np.floating], NDArray[np.floating]],
    temperature: float,
    *,
    weights: NDArray[np.floating] | None = None,
    smooth: float = 0.0,
) -> FreeEnergySurface:
    """Estimate the free energy over TIC 1 and 2 from samples.

    Parameters
    ----------
    points
        ``(n, ≥2)``; the first two columns are used.
    edges
        Equally spaced cell edges of both axes (:func:`grid_edges`).
    temperature
        K.
    weights
        ``(n,)``, or None.
    smooth
        Width in cells of a Gaussian filter of the density, for display. Cells farther than this from any
        visited cell stay NaN.

    Raises
    ------
    AnalysisError
        The temperature is not positive, points are not finite, or none is inside the grid.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        raise AnalysisError(f"points have shape {points.shape}; expected finite (n, 2 or more)")
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    density = np.histogram2d(points[:, 0], points[:, 1], bins=edges, weights=weights)[0]
    outside = float(1.0 - density.sum() / max(weights.sum(), np.finfo(float).tiny))
    return surface_of_histogram(density, edges, temperature, smooth=smooth, outside=outside)


def surface_of_histogram(
    density: NDArray[np.floating] | NDArray[np.integer],
    edges: tuple[NDArray[np.floating], NDArray[np.floating]],
    temperature: float,
    *,
    smooth: float = 0.0,
    outside: float = 0.0,
) -> FreeEnergySurface:
    """Compute the free energy of a histogram of two components.

    Parameters
    ----------
    density
        ``(n, m)`` counts or weights.
    edges
        ``(n + 1,)`` and ``(m + 1,)`` equally spaced cell edges.
    temperature
        K.
    smooth
        As in :func:`free_energy_surface`.
    outside
        Fraction of the weight that the histogram does not contain.

    Raises
    ------
    AnalysisError
        The temperature is not positive, or the histogram is empty, negative, not finite or of another shape
        than the edges.
    """
    density = np.asarray(density, dtype=np.float64)
    shape = (len(edges[0]) - 1, len(edges[1]) - 1)
    if not temperature > 0:
        raise AnalysisError(f"temperature is {temperature}; it must be positive (K)")
    if density.shape != shape:
        raise AnalysisError(f"the histogram has shape {density.shape}; its edges give {shape}")
    if not np.isfinite(density).all() or (density < 0).any():
        raise AnalysisError("the histogram is negative or not finite")
    if density.sum() <= 0:
        raise AnalysisError("no point lies inside the grid of the free-energy surface")
    visited = density > 0
    if smooth > 0:
        from scipy.ndimage import binary_dilation, gaussian_filter

        density = gaussian_filter(density, smooth, mode="constant")
        reach = int(np.ceil(smooth))
        visited = binary_dilation(visited, iterations=reach)
    with np.errstate(divide="ignore"):
        energy = np.where(visited & (density > 0), -kT(temperature) * np.log(density), np.nan)
    energy -= np.nanmin(energy)
    return FreeEnergySurface(np.asarray(edges[0]), np.asarray(edges[1]), energy, outside, temperature)
