"""Errors of a model's forces: on the reference, and the share that is noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.components.protocols import TrainedModel
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.runs.layout import seed_shards

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.components.build import Components
    from cgal_plugin.selector.committee import ForceFunction

#: lags (ps) at which the noise of mapped forces has decayed but systematic errors of a model have not
_SLOW_LAGS_PS = (0.2, 0.6)


def force_results(
    config: Config, components: Components, model: TrainedModel, store: DataStore
) -> dict[str, float | None]:
    """Return ``force_rmse`` and ``noise_floor``, kcal/mol/Å per component.

    None without forces of the reference, and for models of another trainer, whose files only it can read.
    """
    test, forces = config.test, components.evaluate.forces
    if test is None or forces is None or not isinstance(components.trainer, TorchMDNetTrainer):
        return {"force_rmse": None, "noise_floor": None}
    from cgal_plugin.selector.committee import force_function
    from cgal_plugin.training import load_model

    predict = force_function(load_model(model.checkpoint), np.asarray(store.topology.types))
    series = [store.load(name) for name in seed_shards(store)]
    floor = noise_floor([_residual(predict, s.positions, s.forces) for s in series], config.seed_data.save_ps)
    frames = np.concatenate(components.evaluate.reference)
    return {"force_rmse": _rmse(predict, frames, forces, test.force_frames), "noise_floor": floor}


def _rmse(
    predict: ForceFunction, frames: NDArray[np.floating], forces: NDArray[np.floating], n: int
) -> float:
    """Return the root mean square error per component of the forces on ``n`` frames of the reference."""
    rows = np.unique(np.linspace(0, len(frames) - 1, min(n, len(frames))).round().astype(int))
    return float(np.sqrt(np.square(_residual(predict, frames[rows], forces[rows])).mean()))


def _residual(
    predict: ForceFunction, frames: NDArray[np.floating], forces: NDArray[np.floating]
) -> NDArray[np.floating]:
    parts = np.array_split(np.arange(len(frames)), -(-len(frames) // 256))
    return np.concatenate([forces[p] - np.asarray(predict(frames[p].astype(np.float32))) for p in parts])


def noise_floor(series: list[NDArray[np.floating]], save_ps: float) -> float | None:
    """Estimate the force error per component (kcal/mol/Å) of a perfect model.

    The residual of a dense series is fast noise plus the systematic error of the model. The error changes
    slowly, so its variance is the autocovariance at lags at which the noise has decayed (0.1 ps).

    Parameters
    ----------
    series
        Residual forces of each trajectory, ``(n, n_beads, 3)`` kcal/mol/Å.
    save_ps
        Time between frames, ps.

    Returns
    -------
    The estimate; None if every series is shorter than twice the longest lag.
    """
    first, last = (max(1, round(lag / save_ps)) for lag in _SLOW_LAGS_PS)
    usable = [r for r in series if len(r) > 2 * last]
    if not usable:
        return None
    total = np.mean([np.square(r).mean() for r in usable])
    slow = np.mean([(r[lag:] * r[:-lag]).mean() for r in usable for lag in range(first, last + 1)])
    return float(np.sqrt(max(0.0, total - max(0.0, slow))))
