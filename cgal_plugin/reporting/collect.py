"""The report of a run directory, finished or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cgal_plugin.analysis.results import W1Result
from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.errors import StateError
from cgal_plugin.provenance import read_json
from cgal_plugin.reporting.page import write_report
from cgal_plugin.reporting.records import (
    QuarantineRecord,
    ReportInput,
    RoundSummary,
    SelectedFrames,
)
from cgal_plugin.runs.directory import RunDirectory, Stage
from cgal_plugin.runs.layout import (
    STAGES,
    refined_stages,
    sampled_trajectories,
    shard_round,
    without_equilibration,
)


def report_run(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a run; returns its path.

    Raises
    ------
    StateError
        The folder is no run directory, or no round has been simulated yet.
    """
    directory = RunDirectory(run_dir)
    config = directory.config()
    rounds = [r for r in directory.round_folders() if (r / "simulate" / "manifest.json").is_file()]
    if not rounds:
        raise StateError(f"{run_dir}: no round has been simulated yet, so there is nothing to report")
    store = DataStore(directory.root / "data")
    evaluator = ReferenceEvaluator(config, store.topology)
    summaries = [_summary(directory, i, folder.name) for i, folder in enumerate(rounds)]
    after = sampled_trajectories(directory.stage("rounds", rounds[-1].name, "simulate"))
    refined = refined_stages(directory) if config.refinement is not None else []
    if refined:
        after = without_equilibration(sampled_trajectories(refined[-1]))
        summaries.append(_refined_summary(len(rounds), refined))
    table, plot = _priors(directory.root / "priors")
    report = ReportInput(
        title=config.name,
        topology=store.topology,
        temperature=config.system.temperature,
        reference=evaluator.reference or None,
        reference_weights=None if evaluator.reweighting is None else evaluator.reweighting.weights,
        before=sampled_trajectories(directory.stage("rounds", rounds[0].name, "simulate")),
        after=after,
        training_frames=store.load_all().positions,
        seed_trajectories=[store.load(n).positions for n in store.names() if shard_round(n) < 0],
        tica=evaluator.tica,
        lag_frames=evaluator.lag_frames if evaluator.reference else _seed_lag(config),
        frame_interval_ps=_interval(config),
        rounds=summaries,
        prior_table=table,
        prior_plot=plot,
        selected=_selected(directory, rounds),
        quarantine=_quarantine(directory, rounds),
        provenance=_provenance(directory, config),
        facts=_facts(config),
        notes=_notes(directory, evaluator) + _refinement_notes(len(rounds), refined),
    )
    path = directory.root / "report.html"
    write_report(path, report)
    return path


def _summary(directory: RunDirectory, index: int, name: str) -> RoundSummary:
    def results(stage: str) -> dict[str, Any]:
        found = directory.stage("rounds", name, stage)
        return found.results() if found.done else {}

    # results() checks the files of each stage
    train, simulate, evaluate, _, label = (results(s) for s in STAGES)
    coverage_file = directory.root / "rounds" / name / "evaluate" / "coverage.npz"
    coverage = None
    if coverage_file.exists():
        with np.load(coverage_file, allow_pickle=False) as data:
            coverage = data["values"]
    manifests = {s: directory.root / "rounds" / name / s / "manifest.json" for s in STAGES}
    return RoundSummary(
        index=index,
        coverage=coverage,
        w1=W1Result.from_dict(evaluate["w1"]) if evaluate.get("w1") else None,
        w1_ucsc=W1Result.from_dict(evaluate["w1_ucsc"]) if evaluate.get("w1_ucsc") else None,
        n_selected=label.get("n_selected"),
        n_labelled=label.get("n_labelled"),
        n_quarantined=label.get("n_quarantined"),
        n_frames=train.get("n_frames"),
        n_new_frames=label.get("n_new_frames"),
        blow_ups=[BlowUp(**e) for e in simulate.get("events", [])],
        cg_steps=simulate.get("steps"),
        oracle_ns=label.get("oracle_ns"),
        training=train.get("metrics", []),
        timings={s: read_json(p)["seconds"] for s, p in manifests.items() if p.exists()},
    )


def _refined_summary(index: int, stages: list[Stage]) -> RoundSummary:
    """The refined model, as if it were a round more."""
    results = [s.results() for s in stages]
    last = results[-1]
    return RoundSummary(
        index=index,
        w1=W1Result.from_dict(last["w1"]) if last.get("w1") else None,
        w1_ucsc=W1Result.from_dict(last["w1_ucsc"]) if last.get("w1_ucsc") else None,
        blow_ups=[BlowUp(**e) for r in results for e in r["events"]],
        cg_steps=sum(r["steps"] for r in results),
        timings={"refine": sum(s.manifest()["seconds"] for s in stages)},
    )


def _refinement_notes(index: int, stages: list[Stage]) -> list[str]:
    if not stages:
        return []
    found = ", ".join(f"{s.results()['divergence']:.2f}" for s in stages)
    return [
        f"Round {index} is the last round's model with its populations refined; their divergence from those "
        f"of the all-atom dynamics before each correction, and after the last: {found}."
    ]


def _selected(directory: RunDirectory, rounds: list[Path]) -> SelectedFrames | None:
    positions, distances, numbers, labels = [], [], [], []
    for index, folder in enumerate(rounds):
        path = folder / "select" / "selected.npz"
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as data:
            positions.append(data["positions"])
            distances.append(data["distances"])
            numbers += [index] * len(data["positions"])
        failed = {f["frame"]: f["reason"] for f in _failures(directory, folder.name)}
        labels += [failed.get(i, "labelled") for i in range(len(positions[-1]))]
    if not positions:
        return None
    return SelectedFrames(np.concatenate(positions), np.concatenate(distances), np.array(numbers), labels)


def _failures(directory: RunDirectory, name: str) -> list[dict[str, Any]]:
    stage = directory.stage("rounds", name, "label")
    return stage.results()["quarantined"] if stage.done else []


def _quarantine(directory: RunDirectory, rounds: list[Path]) -> list[QuarantineRecord]:
    return [
        QuarantineRecord(index, f["frame"], f["reason"], f.get("method", ""))
        for index, folder in enumerate(rounds)
        for f in _failures(directory, folder.name)
    ]


def _priors(folder: Path) -> tuple[list[dict[str, Any]], Path | None]:
    if not (folder / "priors.yaml").exists():
        return [], None
    from cgal_plugin.priors import PriorSet

    plot = folder / "priors.png"
    return PriorSet.load(folder / "priors.yaml").table(), plot if plot.exists() else None


def _provenance(directory: RunDirectory, config: Config) -> dict[str, Any]:
    run = read_json(directory.root / "run.json")
    changes = directory.root / "config_changes.json"
    return {
        "configuration hash": run["config_hash"],
        "seed": run["seed"],
        "versions": run["versions"],
        "configuration": yaml.safe_dump(config.resolved(), sort_keys=False),
        **({"configuration changes": read_json(changes)} if changes.exists() else {}),
    }


def _notes(directory: RunDirectory, evaluator: ReferenceEvaluator) -> list[str]:
    notes = [] if (directory.root / "model.ckpt").exists() else ["The run is not finished."]
    if evaluator.reweighting is not None:
        notes.append(f"Reference: {evaluator.reweighting.note}.")
    return notes


def _facts(config: Config) -> dict[str, str]:
    oracle = config.oracle
    text = (
        oracle.target
        if oracle.kind == "custom"
        else f"{oracle.solvent}, {oracle.mode}, {oracle.production_ps:g} ps a label"
    )
    return {"Oracle": text, "Selector": config.selector.kind}


def _interval(config: Config) -> float:
    evaluation = config.evaluation
    return evaluation.reference_interval_ps if evaluation.reference else config.seed_data.save_ps


def _seed_lag(config: Config) -> int:
    """The lag in frames of the seed trajectories, at most a fifth of one."""
    data = config.seed_data
    frames = int(data.picoseconds / data.save_ps)
    return max(1, min(round(config.evaluation.lag_ps / data.save_ps), frames // 5))
