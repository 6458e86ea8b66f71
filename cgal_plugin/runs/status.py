"""State of a run, read from its files: while it runs, after a kill, or on a read-only disk."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgal_plugin.errors import StateError
from cgal_plugin.file_lock import holder as holder_of
from cgal_plugin.provenance import read_sealed
from cgal_plugin.runs.directory import LOCK, RunDirectory
from cgal_plugin.runs.layout import REFINEMENT, STAGES, WORK
from cgal_plugin.runs.log import LOG, read_log
from cgal_plugin.runs.quarantine import Quarantine
from cgal_plugin.runs.stage import MANIFEST

_TROUBLE = ("worker lost", "timeout", "straggler", "stall", "damage", "error", "interrupted")
_RESULTS = (
    "n_frames",
    "tempering",
    "coverage",
    "covered",
    "n_selected",
    "n_labelled",
    "n_quarantined",
    "oracle_ns",
    "steps",
)
#: results of a test; earlier versions have some of these names in the stage evaluate, of the exploration
_TESTED = ("w1", "w1_ucsc", "drifts", "drift_text", "not_evaluated")
_RECENT = 20  # progress events from which a rate is computed


def run_status(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state of a run as JSON-ready values; nothing is written.

    Returns
    -------
    dict
        ``state`` (``running``, ``finished``, ``interrupted``, ``failed``, ``killed``, ``not started``),
        ``holder``, ``stopped`` (why there are no further rounds, or None), ``rounds`` (one dict per round:
        seconds of each completed stage, results), ``refined`` (test of the refined model, or None),
        ``current`` (stage, done, total, per_hour, seconds_left), ``queue`` (numbers of labels),
        ``throughput`` (rates of the last completed stages), ``failures``, ``seconds_left`` (of the run; None
        if unknown).

    Raises
    ------
    StateError
        The folder is not a run directory, or its configuration is damaged.
    """
    root = Path(run_dir)
    config = RunDirectory(root).read_config()
    events = read_log(root / LOG)
    rounds = [_round(folder) for folder in sorted((root / "rounds").glob("round_*")) if folder.is_dir()]
    now = _now(root, events)
    planned = int(config.get("stopping", {}).get("rounds", 0))
    tested = config.get("test") is not None and bool(config.get("evaluation", {}).get("reference"))
    refined = bool(config.get("refinement"))
    return {
        "name": config.get("name", ""),
        "run_dir": str(root),
        **now,
        "rounds_planned": planned,
        "rounds": rounds,
        "refined": _refined(root) if refined else None,
        "queue": _queue(root, rounds, working=now["holder"] is not None),
        "throughput": _throughput(rounds),
        "failures": _failures(root, events),
        "seconds_left": _seconds_left(rounds, planned, now["current"], events, tested, refined),
    }


def run_state(root: Path) -> dict[str, Any]:
    """Return what log and lock tell: the keys state, holder, last_sign, last_error, stopped and current."""
    return _now(root, read_log(root / LOG))


def _now(root: Path, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    holder = holder_of(root / LOCK)
    return {
        "state": _state(root, events, holder),
        "holder": holder,
        "last_sign": events[-1]["time"] if events else None,
        "last_error": next((e.get("text") for e in reversed(events) if e["event"] == "error"), None),
        "stopped": _stopped(events),
        "current": _current(events) if holder else None,
    }


def _state(root: Path, events: Sequence[Mapping[str, Any]], holder: str | None) -> str:
    if holder:
        return "running"
    last = next((e["event"] for e in reversed(events) if e["event"] in _ENDS), None)
    if last is not None:
        return _ENDS[last]
    if (root / "model.ckpt").is_file():  # run of a version without a log
        return "finished"
    return "killed" if (root / "rounds").is_dir() else "not started"


def _stopped(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why the last call ended its rounds; None if it did not."""
    for event in reversed(events):
        if event["event"] == "run started":
            return None
        if event["event"] == "round":
            stop = event.get("results", {}).get("stop")
            return None if stop is None else str(stop)
    return None


#: state of a run without holder, by the last of these events
_ENDS = {
    "run started": "killed",
    "run finished": "finished",
    "interrupted": "interrupted",
    "error": "failed",
}


def _round(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"round": int(folder.name.removeprefix("round_")), "seconds": {}, "damaged": []}
    for stage in STAGES:
        path = folder / stage / MANIFEST
        if not path.is_file():
            continue
        try:
            manifest = read_sealed(path)
            results = manifest["results"]
            row["seconds"][stage] = float(manifest["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            row["damaged"].append(stage)
            continue
        keys = _TESTED if stage == "test" else _RESULTS
        row |= {key: results[key] for key in keys if key in results}
        if stage == "train":
            row["epochs"] = len(results.get("metrics", ()))
    return row


def _refined(root: Path) -> dict[str, Any] | None:
    try:
        results = read_sealed(root / REFINEMENT / "test" / MANIFEST)["results"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {key: results[key] for key in _TESTED if key in results}


def _current(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the running stage, its progress and its rate."""
    started = None
    for number, event in enumerate(events):
        if event["event"] == "stage started":
            started = number
        elif event["event"] in ("stage finished", "run started"):
            started = None
    if started is None:
        return None
    lines = [e for e in events[started:] if e["event"] == "progress"]
    found: dict[str, Any] = {"stage": events[started]["stage"], "since": events[started]["time"]}
    if not lines:
        return found
    found |= {"done": lines[-1]["done"], "total": lines[-1]["total"]}
    first = lines[-_RECENT:][0]
    done, seconds = lines[-1]["done"] - first["done"], lines[-1]["time"] - first["time"]
    if done > 0 and seconds > 0:
        found["per_hour"] = 3600 * done / seconds
        # the work since the last event counts as well
        left = (found["total"] - found["done"]) * seconds / done - (time.time() - lines[-1]["time"])
        found["seconds_left"] = max(0.0, left)
    return found


def _queue(root: Path, rounds: Sequence[Mapping[str, Any]], *, working: bool) -> dict[str, int] | None:
    """Count the labels of a round whose labelling stage is not complete."""
    if not rounds or "select" not in rounds[-1]["seconds"] or "label" in rounds[-1]["seconds"]:
        return None
    number = rounds[-1]["round"]
    name = f"round_{number:03d}"
    try:
        selected = int(read_sealed(root / "rounds" / name / "select" / MANIFEST)["results"]["n_selected"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not selected:
        return None
    prefix = f"r{number:03d}_f"
    done = sum(1 for _ in (root / "data" / "shards").glob(f"{prefix}*.json"))
    failed = len(Quarantine(root / "rounds" / name / "label").names())
    # a log means that a task runs, if there is a process that runs it: a kill leaves logs behind
    logs = {p.stem for p in (root / WORK / "tasks").glob(f"{prefix}*.log")} if working else set()
    running = sum(
        not (root / "data" / "shards" / f"{n}.json").exists()
        and not (root / "rounds" / name / "label" / f"quarantined_{n}.json").exists()
        for n in logs
    )
    waiting = max(0, selected - done - failed - running)
    return {
        "selected": selected,
        "labelled": done,
        "quarantined": failed,
        "running": running,
        "waiting": waiting,
    }


def _throughput(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return rates from the last round that completed each stage."""
    found: dict[str, float] = {}
    for row in rounds:
        seconds = row["seconds"]
        if seconds.get("label") and "n_labelled" in row:
            found["labels_per_hour"] = 3600 * row["n_labelled"] / seconds["label"]
            found["oracle_ns_per_day"] = 86400 * row.get("oracle_ns", 0.0) / seconds["label"]
        if seconds.get("simulate") and "steps" in row:
            found["cg_steps_per_second"] = row["steps"] / seconds["simulate"]
        if seconds.get("train") and "n_frames" in row and row.get("epochs"):
            found["training_frames_per_second"] = row["n_frames"] * row.get("epochs", 0) / seconds["train"]
    return found


def _failures(root: Path, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    events_of: Counter[str] = Counter(e["event"] for e in events if e["event"] in _TROUBLE)
    reasons: Counter[str] = Counter()
    total = 0
    for folder in sorted((root / "rounds").glob("round_*/label")):
        book = Quarantine(folder)
        for name in book.names():
            total += 1
            try:
                failures = book.record(name)["failures"]
            except (StateError, KeyError):
                reasons["damaged record"] += 1
                continue
            reasons["; ".join(re.sub(r"\d+(\.\d+)?", "#", f["reason"]) for f in failures)] += 1
    return {"quarantined": total, "reasons": dict(reasons.most_common(5)), "events": dict(events_of)}


def _seconds_left(
    rounds: Sequence[Mapping[str, Any]],
    planned: int,
    current: Mapping[str, Any] | None,
    events: Sequence[Mapping[str, Any]],
    tested: bool,
    refined: bool,
) -> float | None:
    """Estimate the remaining time, s, from the mean time of each stage.

    None until each stage has been completed once, and always for a run with a refinement.
    """
    if events and events[-1]["event"] == "run finished":
        return 0.0
    if refined:
        return None
    means = {}
    stages = [stage for stage in STAGES if tested or stage != "test"]
    for stage in stages:
        times = [row["seconds"][stage] for row in rounds if stage in row["seconds"]]
        if not times:
            return None
        means[stage] = sum(times) / len(times)
    left = 0.0
    running = "" if current is None else current["stage"].rpartition(" ")[2]
    for number in range(planned + 1):
        done = rounds[number]["seconds"] if number < len(rounds) else {}
        for stage in stages:
            # the last round has no selection and no labels
            if stage in done or (number == planned and stage in ("select", "label")):
                continue
            here = number == len(rounds) - 1 and stage == running and current is not None
            left += current.get("seconds_left", means[stage]) if here and current else means[stage]
    return left
