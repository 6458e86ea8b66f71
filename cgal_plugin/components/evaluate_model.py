"""The test of a final model: equilibrium CG dynamics from common starts, compared with the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.protocols import OracleSeedSource, SeedSource, StructureSource
from cgal_plugin.components.resources import BACKEND, PLATFORM
from cgal_plugin.components.sampler import dynamics_threads
from cgal_plugin.config import Config
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.models import Simulation
from cgal_plugin.data import DataStore
from cgal_plugin.data.arrays import load_numpy
from cgal_plugin.errors import ConfigError, DataError, DynamicsError
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import StageOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.components.build import Components
    from cgal_plugin.dynamics import SimulationResult
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.selector.committee import ForceFunction

#: cells per side of the TIC 1–2 histogram for the plot, and its range in standard deviations
FES_CELLS, FES_RANGE = 50, 5.0
#: lags (ps) at which the noise of mapped forces has decayed but systematic errors of a model have not
_SLOW_LAGS_PS = (0.2, 0.6)


def common_starts(oracle: StructureSource, n: int) -> NDArray[np.floating]:
    """Return ``(n, n_beads, 3)`` Å: the folded and the stretched chain in turn."""
    both = np.stack([oracle.native_positions(), oracle.extended_positions()])
    starts: NDArray[np.floating] = oracle.mapping.map_positions(both)[np.arange(n) % 2]
    return starts


def run_model_test(
    config: Config,
    directory: RunDirectory,
    components: Components,
    test: ModelTest,
    reference_forces: Path | None,
) -> dict[str, Any]:
    """Simulate the final model of a run and compare it with the reference, as a stage of the run.

    Returns
    -------
    JSON-ready results: those of :func:`cgal_plugin.analysis.evaluate`, and ``states`` (share of the
    reference's k-means states visited), ``rmsd_to_folded``, ``force_rmse`` and ``noise_floor``
    (kcal/mol/Å), ``blow_ups``, ``steps``, ``histogram``.

    Raises
    ------
    ConfigError
        The seed source has no oracle that provides start structures.
    DynamicsError
        No replica has a frame left after the equilibration.
    """
    seed = derive_seed(config.seed, "test")
    topology = components.seed_source.topology

    def compute(folder: Path, progress: Progress) -> StageOutput:
        checkpoint = directory.root / "model.ckpt"
        start = common_starts(_structures(components.seed_source), test.n_replicas)
        potential = folder / f"potential_x{test.n_replicas}.pt"
        from cgal_plugin.export import export_potential

        if not potential.exists():
            export_potential(
                checkpoint, topology, potential, n_replicas=test.n_replicas,
                temperature=config.system.temperature, config_hash=config.hash,
            )  # fmt: skip
        result = _sample(
            config, test, potential, topology, start, seed, folder, components.resources.platforms
        )
        trajectories = result.load()
        usable = [t[round(test.discard * len(t)) :] for t in trajectories]
        usable = [t for t in usable if len(t)]
        if not usable:
            raise DynamicsError(f"{folder}: every replica blew up during the equilibration of the test")
        evaluator = ReferenceEvaluator(config, topology)
        results = compare(config, evaluator, usable, start[0], test.n_bootstrap)
        from cgal_plugin.selector.committee import force_function
        from cgal_plugin.training import load_model

        predict = force_function(load_model(checkpoint), np.asarray(topology.types))
        results |= _forces(predict, evaluator, reference_forces, test.force_frames)
        floor = noise_floor(_seed_residuals(predict, directory), config.seed_data.save_ps)
        steps = result.steps_done * test.n_replicas
        results |= {"noise_floor": floor, "blow_ups": len(result.events), "steps": int(steps)}
        return StageOutput(results, result.trajectories)

    inputs = {"test": test.model_dump(mode="json")}
    return directory.stage("test").run(compute, title="model test", inputs=inputs, seeds={"test": seed})


def _structures(source: SeedSource) -> StructureSource:
    oracle: object = source.oracle if isinstance(source, OracleSeedSource) else None
    if not isinstance(oracle, StructureSource):
        raise ConfigError(
            "the model test starts from the folded and the stretched chain, which the seed source does not "
            "provide: run a benchmark with all-atom seed data (without seed_data.store)"
        )
    return oracle


def _sample(
    config: Config,
    test: ModelTest,
    potential: Path,
    topology: CGTopology,
    start: NDArray[np.floating],
    seed: int,
    folder: Path,
    used: Mapping[str, str],
) -> SimulationResult:
    from cgal_plugin.dynamics import simulate
    from cgal_plugin.dynamics.backends import choose_backend

    settings = config.simulation
    if not isinstance(settings, Simulation):
        raise ConfigError("the model test needs the settings of simulation.kind openmm")
    out_dir, platform = folder / "dynamics", used[PLATFORM]
    backend = choose_backend(used[BACKEND], potential, len(start), platform, out_dir)
    return simulate(
        potential,
        topology,
        start,
        steps=test.steps,
        timestep_fs=settings.timestep_fs,
        temperature=config.system.temperature,
        friction=settings.friction,
        seed=seed,
        out_dir=out_dir,
        report_interval=test.report_interval,
        backend=backend,
        platform=platform,
        n_threads=dynamics_threads(config.executor.training_threads, backend),
    )


def compare(
    config: Config,
    evaluator: ReferenceEvaluator,
    trajectories: list[NDArray[np.floating]],
    folded: NDArray[np.floating],
    n_bootstrap: int,
) -> dict[str, Any]:
    """Compare equilibrated ``trajectories`` (Å) with the reference; ``folded`` is ``(n_beads, 3)`` Å."""
    from scipy.stats import wasserstein_distance

    from cgal_plugin.analysis.markov_states import ReferenceStates
    from cgal_plugin.analysis.observables import rmsd_to_structure

    # one seed for all arms, so that their bootstraps draw the same reference blocks and can be paired
    results = evaluator.compare(trajectories, seed=0, n_bootstrap=n_bootstrap)
    assert evaluator.tica is not None
    tics = evaluator.tica.transform(evaluator.reference)
    states = ReferenceStates.fit(tics, seed=0)
    points = np.concatenate(evaluator.tica.transform(trajectories))
    weights = None if evaluator.reweighting is None else evaluator.reweighting.weights
    reference_weights = None if weights is None else np.concatenate(weights)
    sets = (np.concatenate(trajectories), np.concatenate(evaluator.reference))
    rmsd = [rmsd_to_structure(frames, folded) for frames in sets]
    results["states_visited"] = states.visited(points)
    results["rmsd_to_folded"] = {
        "unit": "Å",
        "w1": float(wasserstein_distance(*rmsd, v_weights=reference_weights)),
        "model_mean": float(rmsd[0].mean()),
        "reference_mean": float(np.average(rmsd[1], weights=reference_weights)),
    }
    results["histogram"] = tic_histogram(points, np.concatenate(tics), None)
    results["reference_histogram"] = tic_histogram(
        np.concatenate(tics), np.concatenate(tics), reference_weights
    )
    return results


def tic_histogram(
    points: NDArray[np.floating], reference: NDArray[np.floating], weights: NDArray[np.floating] | None
) -> list[list[int]]:
    """Return the histogram (times 1e6) of TIC 1–2, scaled to mean 0 and deviation 1 of the reference."""
    scaled = (points[:, :2] - reference[:, :2].mean(axis=0)) / reference[:, :2].std(axis=0)
    edges = np.linspace(-FES_RANGE, FES_RANGE, FES_CELLS + 1)
    inside = np.clip(scaled, -FES_RANGE, FES_RANGE)
    counts = np.histogram2d(inside[:, 0], inside[:, 1], bins=(edges, edges), weights=weights)[0]
    rounded: list[list[int]] = np.round(1e6 * counts / counts.sum()).astype(int).tolist()
    return rounded


def _forces(
    predict: ForceFunction, evaluator: ReferenceEvaluator, path: Path | None, n: int
) -> dict[str, float | None]:
    """Return the root mean square error per component of the forces on frames of the reference."""
    if path is None or n == 0:
        return {"force_rmse": None}
    forces = np.concatenate([array for _, array in load_numpy(path, role="forces")])
    frames = np.concatenate(evaluator.reference)
    if forces.shape != frames.shape:
        raise DataError(f"{path} has forces of shape {forces.shape}; the reference has {frames.shape}")
    rows = np.unique(np.linspace(0, len(frames) - 1, min(n, len(frames))).round().astype(int))
    return {"force_rmse": float(np.sqrt(np.square(_residual(predict, frames[rows], forces[rows])).mean()))}


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


def _seed_residuals(predict: ForceFunction, directory: RunDirectory) -> list[NDArray[np.floating]]:
    store = DataStore(directory.root / "data")
    seeds = [store.load(n) for n in store.names() if store.record(n)["source"] == "seed"]
    return [_residual(predict, s.positions, s.forces) for s in seeds]
