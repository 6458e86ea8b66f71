"""The test of a model: equilibrium CG dynamics from fixed starts, compared with the reference.

The exploration of a round is no test: it is short, and starts from frames of the training data. The starts of
the test are the same for all rounds, and no model is trained on them; the seed is the same as well, so that
rounds can be compared in pairs. What the trajectories keep of the starts is reported beside W1
(:mod:`cgal_plugin.analysis.drift`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.model_forces import force_results
from cgal_plugin.components.protocols import ExtendableSampler, TrainedModel
from cgal_plugin.components.sampler import OpenMMSampler
from cgal_plugin.components.sampling import sample
from cgal_plugin.components.starts import StartSet, find_starts
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import Config
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.data import DataStore
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import derive_seed, hash_array, hash_object
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import REFINEMENT
from cgal_plugin.runs.log import Progress, StageReporter
from cgal_plugin.runs.stage import Dependencies, Stage, StageOutput
from cgal_plugin.runs.w1_text import test_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.components.build import Components
    from cgal_plugin.components.protocols import Sampler

#: version of the test; results of different versions are not compared. 1: up to release 0.1, only of
#: benchmarks, with W1 of the exploration as that of a round; 2: plain dynamics by default, now tempered
TEST_VERSION = 3
#: folder of the stage with the starts of the test
STARTS = "test_starts"
#: cells per side of the TIC 1–2 histogram for the plot, and its range in standard deviations
FES_CELLS, FES_RANGE = 50, 5.0
#: results that are too large for the log
_BULKY = (
    "histogram",
    "reference_histogram",
    "trajectories",
    "events",
    "steps",
    "blow_ups",
    "reference_read",
    "tempering",
)


def run_model_test(
    config: Config,
    directory: RunDirectory,
    components: Components,
    store: DataStore,
    model: TrainedModel,
    stage: Stage,
    *,
    title: str,
    depends: Dependencies,
    reporter: StageReporter,
) -> dict[str, Any]:
    """Simulate a model from the starts of the run and compare it with the reference, as a stage.

    The results of the stage are JSON-ready: those of :func:`cgal_plugin.analysis.evaluate` (``w1``,
    ``w1_ucsc``, ...; None with its reason in ``not_evaluated`` if it cannot be computed); ``states_visited``
    (share of the reference's k-means states), ``rmsd_to_folded`` (None without a structure), ``force_rmse``
    and ``noise_floor`` (kcal/mol/Å; None without ``test.reference_forces``), ``blow_ups``, ``steps``,
    ``histogram``, ``reference_histogram``; ``starts`` and ``halves`` (W1 and upper limit ``expected`` by
    chance), ``drifts``, ``drift_text``.

    Parameters
    ----------
    store
        Data of the run; its topology is that of the model.
    depends
        Content on which the model depends.

    Returns
    -------
    The results for the user: without histograms, and with the number of blow-ups as ``n_test_blow_ups``.
    """
    test = config.test
    assert test is not None  # the caller tests only if the configuration has a test
    seed = derive_seed(config.seed, "test")
    starts, digest = _starts(config, directory, components, store, reporter)

    def compute(folder: Path, progress: Progress) -> StageOutput:
        sampler, potential = _dynamics(components, config, model, store, folder)
        ours = isinstance(sampler, OpenMMSampler)
        start, kind = starts.replicas(test.n_replicas if ours else components.n_replicas)
        sampled, output = sample(
            sampler,
            potential,
            store.topology,
            np.repeat(start, test.rungs, axis=0) if ours else start,
            temperature=config.system.temperature,
            seed=seed,
            folder=folder,
            out_dir=folder / "dynamics",
            progress=progress,
        )
        results = compare(components.evaluate, sampled, start, kind, starts, test, seed)
        results |= force_results(config, components, model, store)
        events = len(output.results["events"])
        return StageOutput({**output.results, **results, "blow_ups": events}, output.files)

    sections = {"test": test, "evaluation": config.evaluation}
    inputs: dict[str, Any] = {key: value.model_dump(mode="json") for key, value in sections.items()}
    inputs["version"] = TEST_VERSION
    # all rounds are tested alike: with other settings, complete tests are made again
    content = {**depends.digests, "starts": digest, "settings": hash_object(inputs)}
    inputs["reference"] = components.evaluate.files

    def usable(manifest: Mapping[str, Any]) -> bool:
        same = components.evaluate.is_that_of(manifest)
        if not same:  # its dynamics are kept
            reporter.event("message", text=f"{title}: the reference has changed: W1 is computed again")
        return same

    results = stage.run(
        compute,
        title=f"{title}: test",
        inputs=inputs,
        seeds={"test": seed},
        depends=Dependencies(content),
        reporter=reporter,
        usable=usable,
    )
    row = {k: v for k, v in results.items() if k not in _BULKY} | {"n_test_blow_ups": results["blow_ups"]}
    if stage.name.startswith(REFINEMENT):  # those of a round are in its line
        reporter.event("message", text=f"{title}: {test_text(row)}")
    return row


def _starts(
    config: Config,
    directory: RunDirectory,
    components: Components,
    store: DataStore,
    reporter: StageReporter,
) -> tuple[StartSet, str]:
    """Find the starts once in a run; return them and their digest."""
    if components.starts is not None:
        return components.starts
    stage, seed = directory.stage(STARTS), derive_seed(config.seed, STARTS)

    def compute(folder: Path, progress: Progress) -> StageOutput:
        found, facts = find_starts(components.structures, store, seed)
        for text in facts["notes"]:
            reporter.event("message", text=text)
        return StageOutput(facts, [found.save(folder / "starts.npz")])

    stage.run(compute, title="starts of the test", inputs={}, seeds={STARTS: seed}, reporter=reporter)
    components.starts = StartSet.load(stage.folder / "starts.npz"), stage.digest()
    return components.starts


def _dynamics(
    components: Components, config: Config, model: TrainedModel, store: DataStore, folder: Path
) -> tuple[Sampler, Path]:
    """Return the sampler of the test, and the exported potential, which a resumed test uses again."""
    sampler, trainer, test = components.sampler, components.trainer, config.test
    assert test is not None
    if isinstance(sampler, OpenMMSampler):
        sampler, n = sampler.for_test(test, config.system.temperature), test.n_walkers
        portable = isinstance(trainer, TorchMDNetTrainer) and sampler.settings.backend != "torchforce"
    else:
        n, portable = components.packed_replicas, False
        if isinstance(sampler, ExtendableSampler):
            sampler = sampler.with_steps(test.steps)
    potential = folder / ("potential.npz" if portable else f"potential_x{n}.pt")
    if not potential.exists():
        trainer.export(model, store.topology, potential, n)
    return sampler, potential


def compare(
    evaluator: ReferenceEvaluator,
    sampled: Sequence[NDArray[np.floating]],
    start: NDArray[np.floating],
    kind: NDArray[np.int64],
    starts: StartSet,
    test: ModelTest,
    seed: int,
) -> dict[str, Any]:
    """Compare the trajectories of a test ``(n, n_beads, 3)`` Å with the reference, without equilibration.

    ``start`` ``(n_replicas, n_beads, 3)`` Å and ``kind`` ``(n_replicas,)`` are those of the replicas. What
    cannot be computed is None, with its reason in ``not_evaluated``.
    """
    used = [t[round(test.discard * len(t)) :] for t in sampled]
    filled = [i for i, t in enumerate(used) if len(t)]
    results: dict[str, Any] = {"w1": None, "w1_ucsc": None, "starts": _no_check(), "halves": _no_check()}
    results |= {"drifts": False, "drift_text": "", "histogram": None, "start_id": _start_id(starts)}
    if not filled:
        reason = "every replica blew up during the equilibration of the test"
        return results | {"not_evaluated": {"W1": reason}}
    frames, failures = [used[i] for i in filled], dict[str, str]()
    try:
        # one seed for all rounds and arms: their bootstraps draw the same reference blocks and can be paired
        results |= evaluator.compare(frames, seed=0, n_bootstrap=test.n_bootstrap, on_failure="record")
    except AnalysisError as error:
        failures["W1"] = str(error)
    try:
        same = len(sampled) == len(start)
        names, groups = _groups(evaluator, start[filled], kind[filled], starts) if same else (None, None)
        results |= _in_tics(evaluator, frames, starts, names, groups, seed)
    except AnalysisError as error:
        failures["drift"] = str(error)
    if failures:
        results["not_evaluated"] = {**results.get("not_evaluated", {}), **failures}
    return results


def _no_check() -> dict[str, Any]:
    return {"w1": None, "expected": None, "typical": None, "groups": []}


def _start_id(starts: StartSet) -> str:
    """Return a name of the starts; tests can be compared if it is the same."""
    others = [n for n in starts.kinds if n not in ("structure", "stretched")]
    digest = hash_array(*(starts.frames[n] for n in others))[:12] if others else ""
    return ", ".join([*starts.kinds, *([digest] if digest else [])])


def _groups(
    evaluator: ReferenceEvaluator, start: NDArray[np.floating], kind: NDArray[np.int64], starts: StartSet
) -> tuple[list[str] | None, NDArray[np.int64] | None]:
    """Return two groups of starts: their kinds; of one kind, those with lower and higher TIC 1."""
    if len(starts.kinds) > 1:
        return starts.kinds, kind
    if len(starts.frames[starts.kinds[0]]) < 2:
        return None, None
    assert evaluator.tica is not None
    tic = np.asarray(evaluator.tica.transform(start))[:, 0]
    found = [f"{starts.kinds[0]}, {name} TIC 1" for name in ("low", "high")]
    return found, (tic > np.median(tic)).astype(np.int64)


def _in_tics(
    evaluator: ReferenceEvaluator,
    frames: list[NDArray[np.floating]],
    starts: StartSet,
    names: list[str] | None,
    groups: NDArray[np.int64] | None,
    seed: int,
) -> dict[str, Any]:
    from cgal_plugin.analysis.drift import drift

    assert evaluator.tica is not None
    tics = evaluator.tica.transform(frames)
    points, reference = np.concatenate(tics), np.concatenate(evaluator.reference_tics)
    weights = evaluator.frame_weights
    found = drift(tics, reference, weights, groups=None if groups is None else groups.tolist(), seed=seed)
    results = found.to_dict()
    results["starts"]["groups"] = [] if names is None else names
    results["states_visited"] = evaluator.states.visited(points)
    results["rmsd_to_folded"] = _rmsd(evaluator, frames, starts.fold)
    results["histogram"] = tic_histogram(points, reference, None)
    results["reference_histogram"] = tic_histogram(reference, reference, weights)
    return results


def _rmsd(
    evaluator: ReferenceEvaluator, frames: list[NDArray[np.floating]], folded: NDArray[np.floating] | None
) -> Mapping[str, Any] | None:
    from scipy.stats import wasserstein_distance

    from cgal_plugin.analysis.observables import rmsd_to_structure

    if folded is None:
        return None
    weights = evaluator.frame_weights
    rmsd = [rmsd_to_structure(np.concatenate(f), folded) for f in (frames, evaluator.reference)]
    return {
        "unit": "Å",
        "w1": float(wasserstein_distance(*rmsd, v_weights=weights)),
        "model_mean": float(rmsd[0].mean()),
        "reference_mean": float(np.average(rmsd[1], weights=weights)),
    }


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
