"""Format the state of a run for the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from cgal_plugin.dynamics.tempering_report import short_text
from cgal_plugin.plain_text import plain
from cgal_plugin.runs.w1_text import short_text as w1_short


def status_text(status: Mapping[str, Any]) -> str:
    """Format the result of :func:`cgal_plugin.runs.status.run_status`."""
    lines = _state_lines(status) + [_round_text(row) for row in status["rounds"]]
    if status.get("refined"):
        refined = status["refined"]
        found = [w1_short(refined)] if refined.get("w1") else []
        found += [not_evaluated_text(refined["not_evaluated"])] if refined.get("not_evaluated") else []
        lines.append("refined: " + " | ".join(found))
    if status["stopped"]:
        lines.append(f"stopped: {status['stopped']}")
    lines.append(f"rounds planned: {status['rounds_planned']}, then a final training")
    lines += _current_lines(status) + _queue_lines(status["queue"])
    if status["throughput"]:
        rates = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in status["throughput"].items())
        lines.append("throughput: " + ", ".join(rates))
    failures = status["failures"]
    lines += _quarantine_lines(failures)
    if failures["events"]:
        lines.append(
            "events: " + ", ".join(f"{count} x {name}" for name, count in failures["events"].items())
        )
    lines += _resume_lines(status)
    if status["seconds_left"]:
        lines.append(f"time left: about {_span(status['seconds_left'])}")
    return plain("\n".join(lines))


def systems_text(status: Mapping[str, Any]) -> str:
    """Format the result of :func:`cgal_plugin.systems.status.systems_status`."""
    lines = _state_lines(status)
    for number, seconds in enumerate(status["trainings"]):
        lines.append(f"training of round {number}: {_span(seconds)}")
    for name, own in status["systems"].items():
        lines.append(f"system {name}, {own['role']}:" + " not started" * (own["rounds"] is None))
        lines += [f"  {_round_text(row)}" for row in own["rounds"] or ()]
        lines += [f"  {text}" for text in _queue_lines(own["queue"])]
        if own["failures"] and own["failures"]["quarantined"]:
            lines += [f"  {text}" for text in _quarantine_lines(own["failures"])]
    if status["stopped"]:
        lines.append(f"stopped: {status['stopped']}")
    return plain("\n".join([*lines, *_current_lines(status), *_resume_lines(status)]))


def _state_lines(status: Mapping[str, Any]) -> list[str]:
    held = f" ({status['holder']})" if status["holder"] else ""
    lines = [f"{status['name']}: {status['state']}{held}, {status['run_dir']}"]
    if status["last_sign"] is not None:
        lines.append(f"last log entry {_span(time.time() - status['last_sign'])} ago")
    if status["state"] == "failed" and status["last_error"]:
        lines.append(f"error: {status['last_error']}")
    return lines


def _current_lines(status: Mapping[str, Any]) -> list[str]:
    current = status["current"]
    if current is None:
        return []
    text = f"now: {current['stage']}"
    if "done" in current:
        text += f", {current['done']} of {current['total']}"
    if "per_hour" in current:
        text += f", {current['per_hour']:.0f} per hour, about {_span(current['seconds_left'])} left"
    return [text]


def _queue_lines(queue: Mapping[str, int] | None) -> list[str]:
    return [] if queue is None else ["labels: " + ", ".join(f"{queue[k]} {k}" for k in queue)]


def _quarantine_lines(failures: Mapping[str, Any]) -> list[str]:
    reasons = [f"  {count} x {reason}" for reason, count in failures["reasons"].items()]
    return [f"failures: {failures['quarantined']} frames in quarantine", *reasons]


def _resume_lines(status: Mapping[str, Any]) -> list[str]:
    done = status["state"] in ("finished", "running")
    return [] if done else ["run the same `cgal run` command again to resume"]


def _round_text(row: Mapping[str, Any]) -> str:
    done = " ".join(f"{stage} {_span(seconds)}" for stage, seconds in row["seconds"].items())
    text = f"round {row['round']}: {done or 'started'}"
    if "n_frames" in row:
        text += f" | {row['n_frames']} frames"
    if row.get("tempering"):
        text += f" | {short_text(row['tempering'])}"
    if row.get("coverage"):
        text += f" | nearest RMSD {row['coverage']['mean']:.2f} Å"
    if row.get("w1"):
        text += f" | {w1_short(row)}"
    if "n_labelled" in row:
        text += f" | {row['n_labelled']} of {row['n_selected']} labelled"
    if row.get("not_evaluated"):
        text += f" | {not_evaluated_text(row['not_evaluated'])}"
    if row["damaged"]:
        text += f" | damaged: {', '.join(row['damaged'])}"
    return text


def not_evaluated_text(reasons: Mapping[str, str]) -> str:
    """Say what could not be computed, and why."""
    return "; ".join(f"{name} not computed: {reason}" for name, reason in reasons.items())


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
