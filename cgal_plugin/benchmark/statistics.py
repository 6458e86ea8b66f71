"""Statistics over the arms of a benchmark: means over seeds, reductions, differences, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.results import centred_interval
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRICS = ("w1", "w1_ucsc")
_RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, a reduction or a difference, with its interval (None for a single seed)."""

    value: float
    interval: tuple[float, float] | None
    n_seeds: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class ArmSummary:
    """Results of one arm.

    Attributes
    ----------
    mean
        Metric → mean over seeds.
    reduction
        Metric → 1 − mean / mean of the baseline over the same seeds; None for the baseline.
    oracle_ns
        Mean all-atom MD including seed data, ns.
    others
        Further results of the test, means over seeds.
    """

    arm: str
    seeds: tuple[int, ...]
    mean: Mapping[str, Estimate]
    reduction: Mapping[str, Estimate] | None
    oracle_ns: float
    others: Mapping[str, float | None]


def summarise(
    results: Sequence[Mapping[str, Any]], baseline: str, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, ArmSummary]:
    """Summarise each arm; return arm → summary, in the order of the results.

    Intervals include the spread between seeds and the sampling error of each result. Seeds are resampled in
    pairs, because a seed has the same start in each arm, together with the block-bootstrap replicates of each
    result, whose reference blocks are the same in all results. ``k − 1`` of ``k`` seeds are drawn and
    quantiles are widened by Student's factor, as in :mod:`cgal_plugin.analysis`.

    Parameters
    ----------
    results
        Result of :func:`cgal_plugin.benchmark.run.read_results`.
    baseline
        Arm to compare with.

    Raises
    ------
    AnalysisError
        The baseline has no result, or lacks a seed of another arm.
    """
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in results:
        by_arm.setdefault(row["arm"], {})[int(row["seed"])] = row
    if baseline not in by_arm:
        raise AnalysisError(f"no result of the baseline {baseline!r} yet; arms: {', '.join(sorted(by_arm))}")
    base = by_arm[baseline]
    found = {}
    for arm, rows in by_arm.items():
        missing = sorted(set(rows) - set(base))
        if missing:
            raise AnalysisError(f"arm {arm!r} has seeds {missing} that the baseline {baseline!r} lacks")
        seeds = sorted(rows)
        found[arm] = ArmSummary(
            arm=arm,
            seeds=tuple(seeds),
            mean={m: _mean([rows[s] for s in seeds], m, confidence, seed) for m in METRICS},
            reduction=None
            if arm == baseline
            else {
                m: reduction([base[s] for s in seeds], [rows[s] for s in seeds], m, confidence, seed)
                for m in METRICS
            },
            oracle_ns=float(np.mean([rows[s]["oracle_ns"] for s in seeds])),
            others=_others([rows[s] for s in seeds]),
        )
    return found


def reduction(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    metric: str,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Compute 1 − mean(after) / mean(before) of results paired by seed; the interval ends at 1 at most.

    Raises
    ------
    AnalysisError
        The lists differ in length, or the mean before is not positive.
    """
    mean = np.mean([_value(r, metric) for r in before]) if before else 0.0
    if len(before) == len(after) and not mean > 0:
        raise AnalysisError(f"the mean {metric} before is {mean}; a relative reduction needs a positive one")
    found = _paired(before, after, metric, lambda a, b: 1.0 - b / a, confidence, seed)
    if found.interval is None:
        return found
    return Estimate(found.value, (found.interval[0], min(1.0, found.interval[1])), found.n_seeds)


def difference(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    metric: str,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Compute mean(first) − mean(second) of results paired by seed.

    Raises
    ------
    AnalysisError
        The lists differ in length.
    """
    return _paired(first, second, metric, lambda a, b: a - b, confidence, seed)


def mean_floor(results: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Return the mean floor of the results; None if no result has one."""
    values = [r["test"][metric]["floor"] for r in results if r["test"][metric]["floor"] is not None]
    return float(np.mean(values)) if values else None


def _paired(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    metric: str,
    combine: Callable[[Any, Any], Any],
    confidence: float,
    seed: int,
) -> Estimate:
    if len(first) != len(second) or not first:
        raise AnalysisError(f"{len(first)} and {len(second)} results cannot be paired")
    (a, ra), (b, rb) = _values(first, metric), _values(second, metric)
    value = float(combine(a.mean(), b.mean()))
    draws, columns = _draws(len(a), min(ra.shape[1], rb.shape[1]), seed)
    if draws is None:
        return Estimate(value, None, len(a))
    replicates = combine(_drawn(ra, draws, columns), _drawn(rb, draws, columns))
    return Estimate(value, centred_interval(value, replicates, confidence, len(a)), len(a))


def _mean(rows: Sequence[Mapping[str, Any]], metric: str, confidence: float, seed: int) -> Estimate:
    values, replicates = _values(rows, metric)
    value = float(values.mean())
    draws, columns = _draws(len(values), replicates.shape[1], seed)
    if draws is None:
        return Estimate(value, None, len(values))
    low, high = centred_interval(value, _drawn(replicates, draws, columns), confidence, len(values))
    return Estimate(value, (max(0.0, low), high), len(values))


def _value(row: Mapping[str, Any], metric: str) -> float:
    return float(row["test"][metric]["value"])


def _values(
    rows: Sequence[Mapping[str, Any]], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(n_seeds,)`` values and ``(n_seeds, n)`` replicates about them; without replicates n is 1."""
    values = np.array([_value(r, metric) for r in rows])
    lists = [list(r["test"][metric].get("replicates") or []) for r in rows]
    n = min(len(x) for x in lists)
    if n == 0:
        return values, values[:, None]
    replicates = np.array([x[:n] for x in lists])
    # resampling adds the sampling bias a second time: use only the deviations from the replicates' mean
    return values, values[:, None] + replicates - replicates.mean(axis=1, keepdims=True)


def _draws(n_seeds: int, n_columns: int, seed: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    rng = np.random.default_rng(derive_seed(seed, "arms", n_seeds))
    columns = rng.integers(0, n_columns, size=_RESAMPLES)
    if n_seeds < 2:
        return None, columns
    return rng.integers(0, n_seeds, size=(_RESAMPLES, n_seeds - 1)), columns


def _drawn(
    replicates: NDArray[np.float64], draws: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.asarray(replicates[draws, columns[:, None]].mean(axis=1))


def _observable(name: str, test: Mapping[str, Any]) -> float | None:
    found = test["observables"].get(name)  # a molecule may lack it
    return None if found is None else float(found["w1"])


def _others(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    def mean(pick: Any) -> float | None:
        values = [pick(r["test"]) for r in rows]
        known = [float(v) for v in values if v is not None]
        return float(np.mean(known)) if known else None

    steps = sum(r["test"]["steps"] for r in rows)
    return {
        "jsd_tic": mean(lambda t: (t["jsd_tic"] or {}).get("value")),
        "states_visited": mean(lambda t: t["states_visited"]),
        "rmsd_to_folded": mean(lambda t: (t["rmsd_to_folded"] or {}).get("w1")),
        **{name: mean(partial(_observable, name)) for name in ("rg", "bond", "angle", "dihedral")},
        "contact_rmsd": mean(lambda t: t["contact_rmsd"]),
        "force_rmse": mean(lambda t: t["force_rmse"]),
        "noise_floor": mean(lambda t: t["noise_floor"]),
        "blow_ups_per_million": 1e6 * sum(r["test"]["blow_ups"] for r in rows) / steps if steps else None,
        "minutes": float(np.mean([r["seconds"] for r in rows])) / 60,
    }
