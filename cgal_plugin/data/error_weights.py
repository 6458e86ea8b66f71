"""Weights of labelled frames from the errors of their forces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.frames import StoredFrames

# smaller ratios may come from two estimates of the same noise
_LEAST = 2.0
#: upper bound of a weight: larger ones make epochs long and let the error of the model dominate the noise
MOST = 100.0


def source_weights(frames: StoredFrames) -> dict[str, float]:
    """Return the weight of a frame of each source relative to the noisiest one; weights of 1 are omitted.

    Inverse variances (Aitken, Proc. R. Soc. Edinb. 55, 42 (1935)): an averaged force of mode ``mean_force``
    has a few per cent of the variance of a single-frame force and counts accordingly in a fit. The variance
    is the mean over the frames of a source, because the variance of one frame comes from few starts.
    Ratios below 2 count as 1, ratios above 100 as 100. Errors that are NaN or 0 are unknown; a source
    without known errors has weight 1.
    """
    square = np.asarray(frames.force_error, dtype=np.float64) ** 2
    variance = {}
    for name, own in _rows(frames).items():
        errors = square[own]
        known = errors[np.isfinite(errors) & (errors > 0)]
        if len(known):
            variance[name] = float(known.mean())
    noisiest = max(variance.values(), default=0.0)
    ratios = {s: noisiest / v for s, v in variance.items()}
    return {s: round(min(r, MOST), 1) for s, r in ratios.items() if r >= _LEAST}


def frame_weights(frames: StoredFrames) -> NDArray[np.float64]:
    """Return the weight of each frame, ``(n,)``, 1 or more; see :func:`source_weights`."""
    by_source = source_weights(frames)
    weights = np.ones(len(frames))
    if by_source:
        rows = _rows(frames)
        for name, weight in by_source.items():
            weights[rows[name]] = weight
    return weights


def _rows(frames: StoredFrames) -> dict[str, NDArray[np.bool_]]:
    """Return source → mask ``(n,)`` of its frames."""
    of_shard = np.array(frames.sources)
    return {name: (of_shard == name)[frames.shard] for name in sorted(set(frames.sources))}
