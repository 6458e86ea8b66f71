"""Weights of labelled frames from the errors of their forces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.frames import StoredFrames

# below it the difference is that of two estimates of one noise
_LEAST = 2.0
#: above it an epoch gets long, and what the model cannot represent counts for more than the noise
MOST = 100.0


def source_weights(frames: StoredFrames) -> dict[str, float]:
    """Source → how many frames of the noisiest source a frame of it is worth; sources worth one are absent.

    Inverse variances (Aitken, Proc. R. Soc. Edinb. 55, 42 (1935)): an averaged force of mode ``mean_force``
    has some percent of the variance of a single frame's, and counts accordingly in a fit. The variance is
    the mean over a source's frames, since that of one frame comes from a few starts. Ratios below 2
    are taken as 1, ratios above 100 as 100; errors that are NaN or 0 are unknown, and a source that has no
    other weighs 1.
    """
    of_row = _source_of_row(frames)
    square = np.asarray(frames.force_error, dtype=np.float64) ** 2
    variance = {}
    for name in sorted(set(frames.sources)):
        own = square[of_row == name]
        known = own[np.isfinite(own) & (own > 0)]
        if len(known):
            variance[name] = float(known.mean())
    noisiest = max(variance.values(), default=0.0)
    ratios = {s: noisiest / v for s, v in variance.items()}
    return {s: round(min(r, MOST), 1) for s, r in ratios.items() if r >= _LEAST}


def frame_weights(frames: StoredFrames) -> NDArray[np.float64]:
    """``(n,)`` weight of each frame, 1 or more; see :func:`source_weights`."""
    by_source = source_weights(frames)
    of_row = _source_of_row(frames)
    weights = np.ones(len(frames))
    for name, weight in by_source.items():
        weights[of_row == name] = weight
    return weights


def _source_of_row(frames: StoredFrames) -> NDArray[np.str_]:
    return np.array(frames.sources)[frames.shard]
