"""Collect the records of a run directory, complete or not, and write its report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.model_test import FES_RANGE, STARTS
from cgal_plugin.components.seed_data import STRUCTURE
from cgal_plugin.config import Config
from cgal_plugin.config.models import ExternalComponent
from cgal_plugin.data import DataStore, Quarantined
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.dynamics.tempering_report import short_text
from cgal_plugin.errors import StateError
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.priors import PriorSet
from cgal_plugin.priors.outliers import outlier_text
from cgal_plugin.provenance import read_json
from cgal_plugin.reporting.model_tests import (
    REFINED,
    Tests,
    explored,
    measured_by,
    notes_on_tests,
    read_tests,
    reference_histogram,
    tested,
    tested_frames,
    why_no_w1,
)
from cgal_plugin.reporting.page import write_report
from cgal_plugin.reporting.records import ReportInput, RoundSummary, SelectedFrames
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import (
    STAGES,
    refined_stages,
    sampled_trajectories,
    shard_round,
    without_equilibration,
)
from cgal_plugin.runs.stage import Stage
from cgal_plugin.runs.summary import load_arrays


def report_run(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a run; return its path.

    Raises
    ------
    StateError
        The folder is not a run directory, or no simulation stage is complete yet.
    """
    directory = RunDirectory(run_dir)
    config = directory.config()
    rounds = [_Round(directory, folder.name) for folder in directory.round_folders()]
    rounds = [r for r in rounds if "simulate" in r.seconds]
    if not rounds:
        raise StateError(f"{run_dir}: no simulation stage is complete yet, so there is nothing to report")
    store = DataStore(directory.root / "data")
    evaluator = ReferenceEvaluator(config, store.topology)
    refined = refined_stages(directory) if config.refinement is not None else []
    results = [s.results() for s in refined]
    left_out = [f"The model is not refined: {r['failed']}." for r in results if "failed" in r]
    refined = [] if left_out else refined
    tests = read_tests(directory)
    evaluated = [*(r.results["evaluate"] for r in rounds), *(results if refined else ())]
    measured = measured_by(tests, evaluated)
    summaries = [_summary(i, r, tests, measured) for i, r in enumerate(rounds)]
    if refined:
        summaries.append(_refined_summary(len(rounds), refined, tests, measured))
    from_tests = tested_frames(tests, config.test.discard) if config.test is not None else []
    frames = from_tests or _explored_frames(rounds, refined)
    preparation, seed_ns = _preparation(directory)
    table, plot = _priors(directory.root / "priors")
    report = ReportInput(
        title=config.name,
        topology=store.topology,
        temperature=config.system.temperature,
        reference=evaluator.reference or None,
        reference_weights=None if evaluator.reweighting is None else evaluator.reweighting.weights,
        before=frames[0],
        after=frames[-1],
        sampled_by="test" if from_tests else "exploration",
        training_frames=store.positions(),
        seed_trajectories=[store.load(n).positions for n in store.names() if shard_round(n) < 0],
        tica=evaluator.tica,
        lag_frames=evaluator.lag_frames if evaluator.reference else _seed_lag(config),
        frame_interval_ps=evaluator.interval.ps if evaluator.reference else config.seed_data.save_ps,
        rounds=summaries,
        prior_table=table,
        prior_plot=plot,
        selected=_selected(rounds),
        quarantine={i: r.failures for i, r in enumerate(rounds) if r.failures},
        provenance=_provenance(directory, config),
        measured=measured,
        reference_histogram=reference_histogram(tests),
        histogram_range=FES_RANGE,
        no_w1=why_no_w1(config, tests, evaluated if measured == "exploration" else ()),
        incomplete=_incomplete(directory, config, len(rounds)),
        remarks=left_out,
        seed_ns=seed_ns,
        preparation=preparation,
        structure=_structure(directory.root / "seed" / STRUCTURE),
        facts=_facts(config),
        notes=[
            *_notes(directory, evaluator),
            *_round_notes(rounds),
            *notes_on_tests(tests, evaluator),
            *_refinement_notes(refined),
        ],
    )
    return write_report(directory.root / "report.html", report)


@dataclass
class _Round:
    """Results and wall times of the completed stages of a round, read and verified once."""

    directory: RunDirectory
    name: str
    stages: dict[str, Stage] = field(init=False)
    results: dict[str, Mapping[str, Any]] = field(init=False)
    seconds: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.stages = {s: self.directory.stage("rounds", self.name, s) for s in STAGES}
        manifests = {s: stage.manifest() for s, stage in self.stages.items() if stage.done}
        self.results = {s: manifests[s]["results"] if s in manifests else {} for s in STAGES}
        self.seconds = {s: float(m["seconds"]) for s, m in manifests.items()}

    @property
    def failures(self) -> list[Quarantined]:
        """Selected frames without a label."""
        found = self.results["label"].get("quarantined", ())
        return [Quarantined(f["frame"], f["reason"], f.get("method", "")) for f in found]

    def arrays(self, stage: str, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a file of a stage; empty if the stage did not write the file."""
        path = self.stages[stage].file(name)
        return load_arrays(path) if path.exists() else {}


def _summary(index: int, found: _Round, tests: Tests, measured: str) -> RoundSummary:
    train, simulate, evaluate, label = (found.results[s] for s in ("train", "simulate", "evaluate", "label"))
    test = tests.get(f"round {index}")
    return RoundSummary(
        index=index,
        coverage=found.arrays("evaluate", "coverage.npz").get("values"),
        **(tested(test) if measured == "test" else explored(evaluate)),
        n_selected=label.get("n_selected"),
        n_labelled=label.get("n_labelled"),
        n_quarantined=label.get("n_quarantined"),
        n_frames=train.get("n_frames"),
        n_new_frames=label.get("n_new_frames"),
        blow_ups=[BlowUp(**e) for e in simulate.get("events", [])],
        cg_steps=simulate.get("steps"),
        oracle_ns=label.get("oracle_ns"),
        training=train.get("metrics", []),
        timings=found.seconds,
    )


def _explored_frames(rounds: Sequence[_Round], refined: Sequence[Stage]) -> list[list[NDArray[np.floating]]]:
    """Return the trajectories that the first and the last model sampled for the run itself."""
    before, last = (sampled_trajectories(r.stages["simulate"]) for r in (rounds[0], rounds[-1]))
    return [before, without_equilibration(sampled_trajectories(refined[-1])) if refined else last]


def _refined_summary(index: int, stages: Sequence[Stage], tests: Tests, measured: str) -> RoundSummary:
    """Summarise the refined model as one more round."""
    results = [s.results() for s in stages]
    test = tests.get(REFINED)
    timings = {"refine": sum(float(s.manifest()["seconds"]) for s in stages)}
    if test is not None:
        timings["test"] = test.seconds
    return RoundSummary(
        index=index,
        name="refined model",
        **(tested(test) if measured == "test" else explored(results[-1])),
        blow_ups=[BlowUp(**e) for r in results for e in r["events"]],
        cg_steps=sum(r["steps"] for r in results),
        timings=timings,
    )


def _refinement_notes(stages: Sequence[Stage]) -> list[str]:
    if not stages:
        return []
    found = ", ".join(f"{s.results()['divergence']:.2f}" for s in stages)
    return [
        "The refined model is that of the last round with corrected populations. Kullback–Leibler "
        "divergence from the populations of the all-atom dynamics, before each correction and after the "
        f"last: {found}.",
        *(t for k, s in enumerate(stages) for t in _tempering(f"Refinement, iteration {k}", s.results())),
    ]


def _tempering(where: str, results: Mapping[str, Any]) -> list[str]:
    """Return what is to say of the parallel tempering of a stage."""
    found = results.get("tempering", [])
    notes = [f"{where}, parallel tempering: {short_text(found)}."] if found else []
    return notes + [f"{where}: {text}." for each in found for text in each["warnings"]]


def _selected(rounds: Sequence[_Round]) -> SelectedFrames | None:
    positions, distances, numbers = [], [], []
    labels: list[str] = []
    for index, found in enumerate(rounds):
        arrays = found.arrays("select", "selected.npz")
        if not arrays or not len(arrays["positions"]):
            continue
        n = len(arrays["positions"])
        positions.append(arrays["positions"])
        distances.append(arrays["distances"])
        numbers += [index] * n
        failed = {f.frame_index: f.reason for f in found.failures}
        labels += [failed.get(i, "labelled") for i in range(n)]
    if not positions:
        return None
    return SelectedFrames(np.concatenate(positions), np.concatenate(distances), np.array(numbers), labels)


def _priors(folder: Path) -> tuple[list[dict[str, Any]], Path | None]:
    if not (folder / "priors.yaml").exists():
        return [], None
    plot = folder / "priors.png"
    return PriorSet.load(folder / "priors.yaml").table(), plot if plot.exists() else None


def _provenance(directory: RunDirectory, config: Config) -> dict[str, Any]:
    run = directory.facts()
    changes = directory.root / "config_changes.json"
    return {
        "configuration hash": run["config_hash"],
        "seed": run["seed"],
        "versions": run["versions"],
        "configuration": yaml.safe_dump(config.resolved(), sort_keys=False),
        **({"configuration changes": read_json(changes)} if changes.exists() else {}),
    }


def _notes(directory: RunDirectory, evaluator: ReferenceEvaluator) -> list[str]:
    notes = [f"Reference, {note}." for note in evaluator.notes]
    priors = directory.root / "priors" / "priors.yaml"
    if priors.exists() and (rejected := PriorSet.load(priors).rejected):
        notes.append(f"Priors: {outlier_text(list(rejected))}.")
    if evaluator.reweighting is not None:
        notes.append(f"Reference: {evaluator.reweighting.note}.")
    return notes


def _incomplete(directory: RunDirectory, config: Config, n_rounds: int) -> str:
    if (directory.root / "model.ckpt").exists():
        return ""
    return (
        f"The run is not complete (round {n_rounds - 1} of {config.stopping.rounds}): the same command "
        "resumes it."
    )


def _preparation(directory: RunDirectory) -> tuple[dict[str, float], float | None]:
    """Return the wall times before the first round, s, and the all-atom MD of the seed data, ns."""
    stages = {name: directory.stage(name) for name in ("seed", STARTS, "priors")}
    manifests = {name: stage.manifest() for name, stage in stages.items() if stage.done}
    seed_ns = manifests["seed"]["results"].get("oracle_ns") if "seed" in manifests else None
    return {name: float(m["seconds"]) for name, m in manifests.items()}, seed_ns


def _structure(path: Path) -> list[tuple[str, str]]:
    return StructureRecord.from_dict(read_json(path)).rows() if path.exists() else []


def _round_notes(rounds: Sequence[_Round]) -> list[str]:
    """Say what could not be computed, and whether the run converged."""
    notes = []
    for index, found in enumerate(rounds):
        notes += _tempering(f"Round {index}", found.results["simulate"])
        if not found.results["test"] and "w1" in found.results["evaluate"]:
            notes.append(
                f"Round {index} has no test: an earlier version measured W1 on the round's own exploration, "
                "which keeps its starts. Run `cgal run` again to test the model."
            )
        if found.results["select"].get("covered"):
            notes.append(
                f"The run converged in round {index}: nothing is left to label "
                f"({found.results['select']['covered']})."
            )
    return notes


def _facts(config: Config) -> dict[str, str]:
    oracle = config.oracle
    text = (
        oracle.name
        if isinstance(oracle, ExternalComponent)
        else f"{oracle.solvent}, {oracle.mode}, {oracle.production_ps:g} ps per label"
    )
    return {"Oracle": text, "Selector": config.selector.kind}


def _seed_lag(config: Config) -> int:
    """Return the lag in frames of the seed trajectories, at most a fifth of their length."""
    data = config.seed_data
    frames = int(data.picoseconds / data.save_ps)
    return int(max(1, min(round(config.evaluation.lag_ps / data.save_ps), frames // 5)))
