"""Compare a model's trajectories with those of a reference by all metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgal_plugin.analysis import observables as obs
from cgal_plugin.analysis.distributions import (
    FreeEnergySurface,
    free_energy_surface,
    grid_edges,
    jensen_shannon,
    jensen_shannon_samples,
)
from cgal_plugin.analysis.resampling import make_blocks, split_halves
from cgal_plugin.analysis.results import W1Result
from cgal_plugin.analysis.tica import TICAModel, feature_beads
from cgal_plugin.analysis.trajectory_checks import as_trajectories, as_weights
from cgal_plugin.analysis.ucsc import w1_ucsc
from cgal_plugin.analysis.wasserstein import w1_points
from cgal_plugin.data.bond_lengths import check_unit
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import derive_seed, hash_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: cells per side of the TIC 1–2 histogram for the Jensen–Shannon divergence
JSD_CELLS = 30


@dataclass(frozen=True)
class Divergence:
    """A Jensen–Shannon divergence (bits), and its floor: the divergence between halves of the reference."""

    value: float
    floor: float | None


@dataclass(frozen=True)
class ObservableDistance:
    """Distance between the distributions of one observable, pooled over all bonds, angles, ...

    ``w1``, ``floor`` and the means are in ``unit`` (on the circle for dihedrals), ``jsd`` in bits.
    """

    unit: str
    w1: float
    floor: float | None
    jsd: float
    model_mean: float
    reference_mean: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of :func:`evaluate`.

    Attributes
    ----------
    w1, w1_ucsc
        Distances in TIC space: robust estimate, and the published recipe.
    jsd_tic
        Jensen–Shannon divergence of the TIC 1–2 histograms.
    observables
        Name → distance, for the observables that the topology defines.
    contact_rmsd
        Root mean square difference of the contact probabilities (8 Å, three or more bonds apart).
    fes_model, fes_reference
        Free-energy surfaces on one grid.
    tica
        The projection.
    failures
        Attribute → reason, for those that could not be computed and are None (only with
        ``on_failure="record"``).
    """

    w1: W1Result
    w1_ucsc: W1Result
    jsd_tic: Divergence
    observables: Mapping[str, ObservableDistance]
    contact_rmsd: float | None
    fes_model: FreeEnergySurface
    fes_reference: FreeEnergySurface
    tica: TICAModel
    provenance: Mapping[str, Any]
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self, *, surfaces: bool = True) -> dict[str, Any]:
        """Return JSON-ready values; NaN in the surfaces becomes None."""
        out: dict[str, Any] = {
            "w1": None if "w1" in self.failures else self.w1.to_dict(),
            "w1_ucsc": None if "w1_ucsc" in self.failures else self.w1_ucsc.to_dict(),
            "jsd_tic": None if "jsd_tic" in self.failures else vars(self.jsd_tic).copy(),
            "observables": {k: vars(v).copy() for k, v in (self.observables or {}).items()},
            "contact_rmsd": self.contact_rmsd,
            "timescales_frames": [float(t) if np.isfinite(t) else None for t in self.tica.timescales],
            "provenance": dict(self.provenance),
        }
        if self.failures:
            out["not_evaluated"] = dict(self.failures)
        if surfaces and not {"fes_model", "fes_reference"} & set(self.failures):
            out["fes"] = {
                "unit": "kcal/mol",
                "x_edges": self.fes_model.x_edges.tolist(),
                "y_edges": self.fes_model.y_edges.tolist(),
                **{
                    name: [[None if np.isnan(v) else float(v) for v in row] for row in fes.energy]
                    for name, fes in (("model", self.fes_model), ("reference", self.fes_reference))
                },
            }
        return out


def evaluate(
    model_trajectories: Any,
    reference_trajectories: Any,
    topology: CGTopology,
    *,
    lag_frames: int,
    temperature: float,
    seed: int,
    reference_weights: Any = None,
    tica: TICAModel | None = None,
    n_bootstrap: int = 100,
    n_splits: int = 10,
    on_failure: Literal["raise", "record"] = "raise",
) -> Evaluation:
    """Compare a model's trajectories with those of a reference.

    Parameters
    ----------
    model_trajectories, reference_trajectories
        Lists of ``(n, n_beads, 3)`` Å in time order.
    topology
        Beads and bonds of both.
    lag_frames
        TICA lag in reference frames; ignored if ``tica`` is given.
    temperature
        Temperature of both, K.
    seed
        Seed of bootstrap resamples and splits.
    reference_weights
        One ``(n,)`` array per reference trajectory, or None.
    n_bootstrap, n_splits
        Number of bootstrap replicates for the intervals, and of split halves for the floors.
    on_failure
        What to do if a quantity cannot be computed, such as a density of two frames: ``"record"`` puts the
        reason into ``failures``, and the others are computed.

    Raises
    ------
    AnalysisError
        Bead counts differ from the topology, frames are not finite, TICA fails, or with ``"raise"`` a
        quantity cannot be computed.
    """
    model = as_trajectories(model_trajectories, "model", topology.n_beads)
    reference = as_trajectories(reference_trajectories, "reference", topology.n_beads)
    for name, trajectories in (("model", model), ("reference", reference)):
        check_unit(trajectories[0], topology, f"the {name} trajectories", remedy="evaluate takes Å")
    weights = as_weights(reference_weights, [len(r) for r in reference], "reference")
    if tica is None:
        tica = TICAModel.fit(reference, lag_frames, 2, beads=feature_beads(topology))
    tics_m, tics_r = tica.transform(model), tica.transform(reference)
    options: dict[str, Any] = {
        "reference_weights": weights,
        "n_bootstrap": n_bootstrap,
        "n_splits": n_splits,
        "seed": derive_seed(seed, "w1"),
    }
    x, y = np.concatenate(tics_m), np.concatenate(tics_r)
    splits = split_halves(make_blocks([len(r) for r in reference]), n_splits, derive_seed(seed, "halves"))
    halves = [h for h in splits if weights[h].sum() > 0 and weights[~h].sum() > 0]
    frames_m, frames_r = np.concatenate(model), np.concatenate(reference)
    computed, failures = _attempt(
        {
            "w1": lambda: w1_points(tics_m, tics_r, notes=tica.notes, **options),
            "w1_ucsc": lambda: w1_ucsc(model, reference, tica=tica, **options),
            "jsd_tic": lambda: _tic_divergence(x, y, weights, halves),
            "observables": lambda: compare_observables(frames_m, frames_r, topology, weights, halves[:4]),
            "contact_rmsd": lambda: _contacts(frames_m, frames_r, weights, topology),
            "fes_model": lambda: free_energy_surface(x, grid_edges(y, x), temperature),
            "fes_reference": lambda: free_energy_surface(y, grid_edges(y, x), temperature, weights=weights),
        },
        on_failure,
    )
    return Evaluation(
        **computed,
        failures=failures,
        tica=tica,
        provenance={
            "model_sha256": hash_array(*model),
            "reference_sha256": hash_array(*reference),
            "model_frames": len(x),
            "reference_frames": len(y),
            "reference_weighted": reference_weights is not None,
            "tica": dict(tica.provenance),
            "lag_frames": tica.lag_frames,
            "temperature": float(temperature),
            "seed": int(seed),
            "topology": topology.hash,
        },
    )


def _attempt(
    quantities: Mapping[str, Callable[[], Any]], on_failure: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute each quantity; return their values and the reasons of those that cannot be computed."""
    computed: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name, compute in quantities.items():
        try:
            computed[name] = compute()
        except (AnalysisError, np.linalg.LinAlgError, ValueError, ArithmeticError) as error:
            # numpy and scipy raise errors of their own for too few or equal points
            reason = str(error) or type(error).__name__
            if on_failure == "raise":
                raise AnalysisError(f"{name} cannot be computed: {reason}") from error
            computed[name], failures[name] = None, reason
    return computed, failures


def compare_observables(
    model: NDArray[np.float64],
    reference: NDArray[np.float64],
    topology: CGTopology,
    weights: NDArray[np.float64] | None = None,
    halves: list[NDArray[np.bool_]] | None = None,
) -> dict[str, ObservableDistance]:
    """Compute the distance of each observable between two sets of frames ``(n, n_beads, 3)`` Å.

    ``weights`` ``(n_reference,)`` are those of the reference; ``halves`` are masks of halves of the
    reference, for the floors.
    """
    weights = np.full(len(reference), 1.0 / len(reference)) if weights is None else weights
    found = {n: _compare(n, model, reference, weights, topology, halves or []) for n in obs.OBSERVABLES}
    return {name: distance for name, distance in found.items() if distance is not None}


def _tic_divergence(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    halves: list[NDArray[np.bool_]],
) -> Divergence:
    edges = grid_edges(y, bins=JSD_CELLS)
    low, high = np.array([e[0] for e in edges]), np.array([e[-1] for e in edges])

    def histogram(points: NDArray[np.float64], w: NDArray[np.float64] | None) -> NDArray[np.float64]:
        inside = np.clip(points[:, :2], low, high)
        return np.asarray(np.histogram2d(inside[:, 0], inside[:, 1], bins=edges, weights=w)[0])

    floors = [jensen_shannon(histogram(y[h], weights[h]), histogram(y[~h], weights[~h])) for h in halves]
    value = jensen_shannon(histogram(x, None), histogram(y, weights))
    return Divergence(value, float(np.mean(floors)) if floors else None)


def _compare(
    name: str,
    model: NDArray[np.float64],
    reference: NDArray[np.float64],
    weights: NDArray[np.float64],
    topology: CGTopology,
    halves: list[NDArray[np.bool_]],
) -> ObservableDistance | None:
    p, q = (obs.observable(f, topology, name) for f in (model, reference))
    if q.shape[1] == 0:
        return None
    k = q.shape[1]
    w = np.repeat(weights, k)
    period = obs.PERIODIC.get(name)
    distance = _circle_w1 if period else _line_w1
    floors = [
        distance(q[h].ravel(), q[~h].ravel(), np.repeat(weights[h], k), np.repeat(weights[~h], k))
        for h in halves
    ]
    ones = np.ones(p.size)
    return ObservableDistance(
        unit=obs.OBSERVABLES[name],
        w1=distance(p.ravel(), q.ravel(), ones, w),
        floor=float(np.mean(floors)) if floors else None,
        jsd=jensen_shannon_samples(p, q, value_range=period, reference_weights=w),
        model_mean=_mean(p.ravel(), ones, bool(period)),
        reference_mean=_mean(q.ravel(), w, bool(period)),
    )


def _line_w1(
    x: NDArray[np.float64], y: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> float:
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(x, y, a, b))


def _circle_w1(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    cells: int = 720,
) -> float:
    """Compute W1 on the circle, degrees: ∫|F − G − median(F − G)| (Rabin, Delon & Gousseau 2011)."""
    edges = np.linspace(-180.0, 180.0, cells + 1)
    f = np.histogram(x, edges, weights=a)[0] / a.sum()
    g = np.histogram(y, edges, weights=b)[0] / b.sum()
    difference = np.cumsum(f - g)
    return float(np.abs(difference - np.median(difference)).sum() * (360.0 / cells))


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64], circular: bool) -> float:
    if not circular:
        return float(np.average(values, weights=weights))
    z = np.average(np.exp(1j * np.radians(values)), weights=weights)
    return float(np.degrees(np.angle(z)))


def _contacts(
    model: NDArray[np.float64],
    reference: NDArray[np.float64],
    weights: NDArray[np.float64],
    topology: CGTopology,
) -> float | None:
    keep = np.triu(np.ones((topology.n_beads, topology.n_beads), dtype=bool), k=1)
    near = topology.exclusions(2)
    keep[near[:, 0], near[:, 1]] = False
    if not keep.any():
        return None
    difference = obs.contact_map(model) - obs.contact_map(reference, weights=weights)
    return float(np.sqrt((difference[keep] ** 2).mean()))
