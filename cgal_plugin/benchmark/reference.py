"""Reference ensembles: all-atom trajectories from diverse starts, their weights and convergence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.analysis.markov_states import ReferenceStates, Reweighting, implied_timescales, reweight
from cgal_plugin.analysis.results import W1Result
from cgal_plugin.analysis.tica import TICAModel, feature_beads
from cgal_plugin.analysis.ucsc import w1_ucsc
from cgal_plugin.analysis.wasserstein import w1
from cgal_plugin.benchmark.reference_figure import reference_figure
from cgal_plugin.components.seed_store import seed_store
from cgal_plugin.config import Config
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.provenance import derive_seed, hash_array, hash_file, versions, write_json

_LAGS_PS = (2, 5, 10, 20, 50, 100, 200, 400)
_SPLITS = 20


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A reference with its projection, states and weights.

    Attributes
    ----------
    trajectories
        ``(n, n_beads, 3)`` Å each.
    tica, states, reweighting
        Projection, discrete states in it, and weights from a Markov state model.
    """

    trajectories: list[np.ndarray]
    tica: TICAModel
    states: ReferenceStates
    reweighting: Reweighting

    @classmethod
    def analyse(
        cls,
        trajectories: list[np.ndarray],
        *,
        lag_frames: int,
        msm_lag_frames: int,
        seed: int,
        beads: Sequence[int] = (),
    ) -> Ensemble:
        """Fit TICs to distances of ``beads`` (empty: all), cluster them, and compute MSM weights."""
        tica = TICAModel.fit(trajectories, lag_frames, beads=beads)
        states = ReferenceStates.fit(tica.transform(trajectories), seed=seed)
        return cls(trajectories, tica, states, reweight(states, lag_frames=msm_lag_frames))


def build_reference(config: Config, out_dir: str | os.PathLike[str], *, interval_ps: float = 2.0) -> Path:
    """Run the trajectories of ``config.seed_data`` and write a reference ensemble.

    A second call resumes an interrupted one; completed trajectories are kept.

    Files in ``out_dir``: the data store of all frames with forces; ``reference.npz`` and
    ``reference_forces.npz`` with one frame per ``interval_ps`` and one array per trajectory;
    ``reference.json`` with provenance and convergence; ``reference.png``.

    Returns
    -------
    Path
        ``reference.npz``.

    Raises
    ------
    CGALError
        The configuration is wrong, the dynamics failed, or there are too few frames for TICA.
    """
    store = seed_store(config, out_dir)
    out = Path(out_dir)
    stride = max(1, round(interval_ps / config.seed_data.save_ps))
    frames = [store.load(name) for name in store.names()]
    positions = [f.positions[::stride].astype(np.float32) for f in frames]
    forces = [f.forces[::stride].astype(np.float32) for f in frames]
    save_trajectories(out / "reference.npz", positions)
    save_trajectories(out / "reference_forces.npz", forces)
    interval = stride * config.seed_data.save_ps
    evaluation = config.evaluation
    ensemble = Ensemble.analyse(
        positions,
        lag_frames=max(1, round(evaluation.lag_ps / interval)),
        msm_lag_frames=max(1, round(evaluation.msm_lag_ps / interval)),
        seed=derive_seed(config.seed, "states"),
        beads=feature_beads(store.topology),
    )
    facts = convergence(ensemble, interval, seed=derive_seed(config.seed, "reference"))
    write_json(
        out / "reference.json",
        {
            "name": config.name,
            "config": config.resolved(),
            "config_hash": config.hash,
            "versions": versions(),
            "topology": store.topology.to_dict(),
            "temperature": store.temperature,
            "force_map_hash": store.force_map_hash,
            "interval_ps": interval,
            "n_frames": [len(p) for p in positions],
            "sha256": {n: hash_file(out / n) for n in ("reference.npz", "reference_forces.npz")},
            "positions_sha256": hash_array(*positions),
            "units": {"positions": "angstrom", "forces": "kcal/mol/angstrom"},
            **facts,
        },
    )
    figure = reference_figure(
        ensemble.trajectories,
        ensemble.tica,
        ensemble.reweighting.weights,
        interval_ps=interval,
        facts=facts,
        temperature=store.temperature,
    )
    figure.savefig(out / "reference.png", dpi=130)
    return out / "reference.npz"


def convergence(ensemble: Ensemble, interval_ps: float, *, seed: int) -> dict[str, Any]:
    """Return JSON-ready results: W1 between halves, implied timescales, and the reweighting."""
    weights = ensemble.reweighting.weights
    lags = sorted({max(1, round(lag / interval_ps)) for lag in _LAGS_PS})

    def halves(function: Any, weights: Any) -> dict[str, Any]:
        # the value (distance of the set to itself) is 0: only the floor is needed
        result: W1Result = function(
            ensemble.trajectories, ensemble.trajectories, tica=ensemble.tica, reference_weights=weights,
            n_bootstrap=0, n_splits=_SPLITS, seed=seed,
        )  # fmt: skip
        return {"mean": result.floor, "range": result.floor_range, "splits": _SPLITS}

    return {
        "reweighting": {
            "weighted": weights is not None,
            "connected": ensemble.reweighting.connected,
            "note": ensemble.reweighting.note,
            "n_states": ensemble.reweighting.n_states,
            "lag_ps": ensemble.reweighting.lag_frames * interval_ps,
        },
        "split_halves": {
            "w1": halves(w1, weights),
            "w1_ucsc": halves(w1_ucsc, weights),
            "w1_unweighted": halves(w1, None),
            "w1_ucsc_unweighted": halves(w1_ucsc, None),
        },
        "tica_timescales_ps": [float(t) * interval_ps for t in ensemble.tica.timescales],
        "implied_timescales_ps": {
            f"{lag * interval_ps:g}": [t * interval_ps for t in found]
            for lag, found in implied_timescales(ensemble.states, lags).items()
        },
    }
