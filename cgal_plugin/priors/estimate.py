"""Maximum-likelihood estimates of prior parameters from samples of one internal coordinate.

The density of an internal coordinate x under an energy E is p(x) ∝ J(x) exp(−E(x)/kT), with
J = r² for distances, sin θ for angles, 1 for cos θ and for dihedrals. Maximising the likelihood of
the samples is Boltzmann inversion without a histogram: it has no bin-width bias and, for these
exponential families, matches the moments ⟨x⟩, ⟨x²⟩ or ⟨cos mφ⟩, ⟨sin mφ⟩ of the data exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = 4001


@dataclass(frozen=True, eq=False)
class Estimate:
    """Parameters, their standard errors for one sample, and the density of the model on a grid.

    Divide ``error`` by √(effective number of samples). ``bounded``: a parameter is at its bound.
    """

    parameters: dict[str, float | list[float]]
    error: dict[str, float | list[float]]
    bounded: bool
    grid: NDArray[np.float64]
    density: NDArray[np.float64]

    def cdf(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the cumulative distribution of the model at ``x``."""
        steps = np.diff(self.grid) * 0.5 * (self.density[1:] + self.density[:-1])
        cumulative = np.concatenate([[0.0], np.cumsum(steps)])
        return np.asarray(np.interp(x, self.grid, cumulative / cumulative[-1]), dtype=np.float64)


def fit_harmonic(
    x: NDArray[np.floating],
    beta: float,
    jacobian: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    domain: tuple[float, float],
    k_bounds: tuple[float, float],
) -> Estimate:
    """Fit k and x₀ of ½ k (x − x₀)² by maximum likelihood, within bounds.

    Parameters
    ----------
    x
        Samples, ``(n,)``.
    beta
        1/kT, mol/kcal.
    jacobian
        J(x).
    domain
        Range of the coordinate; also the bounds of x₀.
    k_bounds
        Smallest and largest k. Constant samples give the largest.
    """
    mean, spread = float(np.mean(x)), float(np.std(x))
    least = 1.0 / np.sqrt(beta * k_bounds[1])
    scale = max(spread, least)
    square = spread**2
    lo, hi = max(domain[0], mean - 15 * scale), min(domain[1], mean + 15 * scale)
    grid = np.linspace(lo, hi, _GRID)
    log_j = np.log(np.maximum(jacobian(grid), 1e-300))
    weight = _trapezoid(grid)

    def model(k: float, x0: float) -> tuple[float, NDArray[np.float64]]:
        log_p = log_j - 0.5 * beta * k * (grid - x0) ** 2
        top = log_p.max()
        p = weight * np.exp(log_p - top)
        return top + np.log(p.sum()), p / p.sum()

    def objective(u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        k, x0 = np.exp(u[0]), mean + scale * u[1]
        log_z, p = model(k, x0)
        data = square + (mean - x0) ** 2
        gap_square = data - p @ (grid - x0) ** 2
        gap = mean - p @ grid
        value = 0.5 * beta * k * data + log_z
        return value, np.array([0.5 * beta * k * gap_square, -beta * k * scale * gap])

    bounds = [
        (np.log(k_bounds[0]), np.log(k_bounds[1])),
        ((domain[0] - mean) / scale, (domain[1] - mean) / scale),
    ]
    start = np.array([np.clip(-np.log(beta * scale**2), *bounds[0]), 0.0])
    result = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10}
    )
    k, x0 = float(np.exp(result.x[0])), float(mean + scale * result.x[1])
    bounded = any(abs(u - b) < 1e-6 for u, pair in zip(result.x, bounds, strict=True) for b in pair)
    p = model(k, x0)[1]
    features = np.stack([-0.5 * beta * (grid - x0) ** 2, beta * k * (grid - x0)])
    error = _standard_error(features, p)
    return Estimate(
        {"k": min(max(k, k_bounds[0]), k_bounds[1]), "x0": min(max(x0, domain[0]), domain[1])},
        {"k": float(error[0]), "x0": float(error[1])},
        bounded,
        grid,
        p / weight,
    )


def fit_cosines(
    phi: NDArray[np.floating],
    beta: float,
    n_terms: int,
    k_max: float,
    uniform: float,
    *,
    narrow: bool = False,
) -> Estimate:
    """Fit kₘ and φ₀ₘ of Σ kₘ (1 + cos(m φ − φ₀ₘ)) by maximum likelihood, kₘ between 0 and ``k_max``.

    Parameters
    ----------
    phi
        Samples, ``(n,)`` rad.
    beta
        1/kT, mol/kcal.
    n_terms
        Number of multiplicities, starting at 1.
    k_max
        Bound of each kₘ, kcal/mol.
    uniform
        Fraction of a uniform distribution mixed into the data. It limits the energy where there are no
        data. 0: plain maximum likelihood.
    narrow
        The data are in one narrow well: start the search at the fit of the first multiplicity.
    """
    m = np.arange(1, n_terms + 1)[:, None]
    grid = np.linspace(-np.pi, np.pi, 1441)
    features = np.concatenate([np.cos(m * grid), np.sin(m * grid)])
    moments = (1.0 - uniform) * np.concatenate([np.cos(m * phi).mean(1), np.sin(m * phi).mean(1)])
    weight = _trapezoid(grid)

    def model(u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = -beta * (u @ features)
        top = log_p.max()
        p = weight * np.exp(log_p - top)
        return top + np.log(p.sum()), p / p.sum()

    def objective(u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_z, p = model(u)
        return beta * float(u @ moments) + log_z, beta * (moments - features @ p)

    start = np.zeros(2 * n_terms)
    if narrow:  # its force constants are far from zero, where the search would be slow
        start[[0, n_terms]] = np.clip(_von_mises(moments[0], moments[n_terms]) / beta, -k_max, k_max)
    result = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-k_max, k_max)] * (2 * n_terms),
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )
    a, b = result.x[:n_terms], result.x[n_terms:]
    k = np.hypot(a, b)
    shrink = np.minimum(1.0, k_max / np.maximum(k, 1e-300))
    bounded = bool((k > k_max * (1 - 1e-6)).any())
    p = model(np.concatenate([a * shrink, b * shrink]))[1]
    error = _standard_error(beta * features, p)
    return Estimate(
        {"k": (k * shrink).tolist(), "phase": np.arctan2(b, a).tolist()},
        {"k": np.hypot(error[:n_terms], error[n_terms:]).tolist()},
        bounded,
        grid,
        p / weight,
    )


def _von_mises(cosine: float, sine: float) -> NDArray[np.float64]:
    """Return a, b of p(φ) ∝ exp(−a cos φ − b sin φ) with about these ⟨cos φ⟩ and ⟨sin φ⟩."""
    length = min(float(np.hypot(cosine, sine)), 1.0 - 1e-9)
    scale = -(2.0 - length**2) / (1.0 - length**2)
    return np.array([scale * cosine, scale * sine])


def with_multiplicities(estimate: Estimate, n_terms: int) -> Estimate:
    """Return an estimate of :func:`fit_cosines` with further multiplicities of force constant 0."""

    def padded(values: dict[str, float | list[float]]) -> dict[str, float | list[float]]:
        return {key: [*v, *[0.0] * (n_terms - len(v))] for key, v in values.items() if isinstance(v, list)}

    return replace(estimate, parameters=padded(estimate.parameters), error=padded(estimate.error))


def _trapezoid(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = np.full(len(grid), grid[1] - grid[0])
    weight[[0, -1]] *= 0.5
    return weight


def _standard_error(features: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Cramér–Rao bound for one sample, from the Fisher information (covariance of the scores)."""
    centred = features - (features @ p)[:, None]
    information = (centred * p) @ centred.T
    variance: NDArray[np.float64] = np.diag(np.linalg.pinv(information))
    return np.sqrt(np.maximum(variance, 0.0))


def kolmogorov_smirnov(x: NDArray[np.floating], estimate: Estimate) -> float:
    """Return the largest distance between the cumulative distributions of samples and model."""
    ordered = np.sort(x)
    model = estimate.cdf(ordered)
    n = len(ordered)
    # with tied samples, the empirical distribution makes a single step over all of them
    below = np.searchsorted(ordered, ordered, side="left") / n
    above = np.searchsorted(ordered, ordered, side="right") / n
    return float(np.maximum(np.abs(model - below), np.abs(model - above)).max())


def overlap(x: NDArray[np.floating], estimate: Estimate, n_bins: int = 60) -> float:
    """Return ∫ min(histogram, model) dx, between 0 and 1."""
    counts, edges = histogram(x, n_bins)
    model = np.diff(estimate.cdf(edges))
    return float(np.minimum(counts / counts.sum(), model).sum())


def histogram(x: NDArray[np.floating], n_bins: int = 60) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts and edges over the range of the samples; constant samples get a wider range."""
    lo, hi = float(x.min()), float(x.max())
    pad = 1e-3 * max(1.0, abs(lo)) if hi - lo < 1e-6 * max(1.0, abs(lo)) else 0.0
    counts, edges = np.histogram(x, bins=n_bins, range=(lo - pad, hi + pad))
    return counts.astype(np.int64), edges


def effective_samples(series: NDArray[np.floating]) -> float:
    """Return the number of independent samples in a correlated series, n / (1 + 2 Σ ρ(t)).

    The sum stops at the first negative sum of two neighbouring autocorrelations (Geyer 1992). In a
    constant series every frame counts as independent.
    """
    x = np.asarray(series, dtype=np.float64)
    n = len(x)
    x = x - x.mean()
    variance = float(x @ x) / n
    if n < 4 or variance < 1e-20:
        return float(n)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    rho = np.fft.irfft(spectrum * np.conj(spectrum), size)[: n // 2] / (n * variance)
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs <= 0)
    stop = negative[0] if negative.size else len(pairs)
    inefficiency = max(1.0, 2.0 * float(pairs[:stop].sum()) - 1.0)
    return n / inefficiency
