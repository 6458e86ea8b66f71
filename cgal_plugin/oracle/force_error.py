"""Statistical error of mapped forces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_FRAMES = 10
_N_BLOCKS = 5


def frame_noise(mapped: NDArray[np.floating]) -> float:
    """Return the noise of the mapped force of one frame, rms over components; NaN below 10 frames.

    Parameters
    ----------
    mapped
        ``(n, n_beads, 3)`` kcal/mol/Å, a dense series of mapped forces. The result has the same unit.

    Notes
    -----
    Square root of half the mean squared successive difference (von Neumann et al. 1941). The mean force
    hardly changes between frames 0.02 to 0.1 ps apart, and the noise of such frames is uncorrelated. The
    differences therefore contain the noise and not the signal.
    """
    if len(mapped) < _MIN_FRAMES:
        return float("nan")
    return float(np.sqrt(0.5 * np.mean(np.diff(np.asarray(mapped, dtype=np.float64), axis=0) ** 2)))


def mean_and_error(series: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.float64], float]:
    """Return the mean force of a frame over its starts and its standard error (rms over components).

    Parameters
    ----------
    series
        One ``(n, n_beads, 3)`` series of mapped forces per start, kcal/mol/Å.

    Returns
    -------
    ``(n_beads, 3)`` mean of the starts' means, and their standard deviation / √n_starts. This error
    includes slow side-chain states, which a single start does not show. With one start, five block means
    are used instead (the error is then usually too small), and it is NaN below ten frames.
    """
    means = np.stack([np.mean(s, axis=0, dtype=np.float64) for s in series])
    if len(series) == 1:
        if len(series[0]) < _MIN_FRAMES:
            return means[0], float("nan")
        blocks = np.array_split(np.asarray(series[0], dtype=np.float64), _N_BLOCKS)
        samples = np.stack([b.mean(axis=0) for b in blocks])
    else:
        samples = means
    variance = samples.var(axis=0, ddof=1) / len(samples)
    return means.mean(axis=0), float(np.sqrt(variance.mean()))
