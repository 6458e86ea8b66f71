"""The report of a run with several systems: held-out systems first, what each system got, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.analysis.results import centred_interval
from cgal_plugin.errors import StateError
from cgal_plugin.provenance import atomic_write, read_sealed, versions
from cgal_plugin.reporting.formatting import printable
from cgal_plugin.reporting.page import environment
from cgal_plugin.reporting.plots import CYCLE, data_uri, new_figure, tidy
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import round_name, test_stages
from cgal_plugin.systems.directory import read_systems, system_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLES = 4000
#: roles in the order of the report
_ROLES = ("test", "train")


def report_systems(root: Path) -> Path:
    """Write ``report.html`` and ``summary.json`` of a run, complete or not; return the first path.

    Raises
    ------
    StateError
        The folder is no run with several systems, or no round is complete.
    """
    record = read_systems(root)
    systems = [_System(root, s) for s in record["systems"]]
    systems.sort(key=lambda s: _ROLES.index(s.role))
    if not any(s.rounds for s in systems):
        raise StateError(f"{root}: no round is complete yet, so there is nothing to report")
    means = {role: mean_w1([s.w1 for s in systems if s.role == role and s.w1]) for role in _ROLES}
    shares = [_shares(root, k) for k in range(max(len(s.rounds) for s in systems))]
    facts = {"systems": [s.facts() for s in systems], "means": means, "shares": shares}
    with atomic_write(root / "summary.json", "w") as handle:
        json.dump(printable(facts), handle, indent=1)
    page = (
        environment()
        .get_template("systems.html")
        .render(
            title=record["name"],
            share=record["share"],
            systems=[s.facts() for s in systems],
            means=means,
            figure=data_uri(_figure(systems, shares)),
            notes=[note for s in systems for note in s.notes],
            provenance=json.dumps(printable({"systems": record, "versions": versions()}), indent=1),
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    with atomic_write(root / "report.html", "w") as handle:
        handle.write(page)
    return root / "report.html"


def mean_w1(curves: Sequence[Sequence[float]], *, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Return the mean W1 of some systems at the start and at the end, and the reduction, with intervals.

    Intervals are for other systems of the same kind: systems are resampled.

    Parameters
    ----------
    curves
        W1 by round, of each system.

    Returns
    -------
    ``n``, ``first``, ``last``, ``reduction`` (1 - last / first), ``interval`` of the last mean and
    ``reduction_interval`` (None for fewer than two systems); empty without systems.
    """
    if not curves:
        return {}
    first, last = np.array([c[0] for c in curves]), np.array([c[-1] for c in curves])
    found: dict[str, Any] = {
        "n": len(curves),
        "first": float(first.mean()),
        "last": float(last.mean()),
        "reduction": float(1.0 - last.mean() / first.mean()),
        "interval": None,
        "reduction_interval": None,
    }
    if len(curves) > 1:
        rows = np.random.default_rng(seed).integers(0, len(curves), size=(_RESAMPLES, len(curves) - 1))
        replicates = last[rows].mean(axis=1)
        n = len(curves)
        low, high = centred_interval(found["last"], replicates, confidence, n)
        found["interval"] = [max(0.0, low), high]
        ratios = 1.0 - replicates / first[rows].mean(axis=1)
        low, high = centred_interval(found["reduction"], ratios, confidence, n)
        found["reduction_interval"] = [low, min(1.0, high)]
    return found


class _System:
    """Results of one system, from the manifests of its stages."""

    def __init__(self, root: Path, record: Mapping[str, Any]) -> None:
        self.name, self.role, self.weight = record["name"], record["role"], record["weight"]
        directory = RunDirectory(system_folder(root, self.name))
        names = [f.name for f in directory.round_folders()]
        self.rounds = [r for r in names if directory.stage("rounds", r, "train").done]
        self.tests = [stage.results() for _, stage in test_stages(directory)]
        self.w1 = [float(t["w1"]["value"]) for t in self.tests if t.get("w1")]
        stages = {
            name: [directory.stage("rounds", r, name) for r in self.rounds]
            for name in ("evaluate", "label", "train")
        }
        self.results = {name: [s.results() for s in found if s.done] for name, found in stages.items()}
        self.sequence = _sequence(directory)
        self.report = "report.html" if (directory.root / "report.html").exists() else ""

    @property
    def notes(self) -> list[str]:
        """What the reader must know."""
        found = []
        if self.tests and self.tests[-1].get("drift_text"):
            found.append(f"{self.name}: W1 of the last model drifts: {self.tests[-1]['drift_text']}.")
        for reason in (self.tests[-1].get("not_evaluated") or {}).items() if self.tests else ():
            found.append(f"{self.name}: {reason[0]} is missing: {reason[1]}.")
        blow_ups = sum(int(t.get("blow_ups", 0)) for t in self.tests)
        if blow_ups:
            found.append(f"{self.name}: {blow_ups} blow-ups in the tests.")
        return found

    def facts(self) -> dict[str, Any]:
        """Return the row of the table."""
        last = self.tests[-1] if self.tests else {}
        coverage = [r["coverage"]["mean"] for r in self.results["evaluate"]]
        return {
            "name": self.name,
            "role": self.role,
            "weight": self.weight,
            "sequence": self.sequence,
            "w1": self.w1,
            "floor": (last.get("w1") or {}).get("floor"),
            "states_visited": last.get("states_visited"),
            "coverage": coverage,
            "n_labelled": sum(int(r.get("n_labelled", 0)) for r in self.results["label"]),
            "n_quarantined": sum(int(r.get("n_quarantined", 0)) for r in self.results["label"]),
            "oracle_ns": sum(float(r.get("oracle_ns", 0.0)) for r in self.results["label"]),
            "n_frames": self.results["train"][-1]["n_frames"] if self.results["train"] else None,
            "report": f"systems/{self.name}/{self.report}" if self.report else "",
        }


def _sequence(directory: RunDirectory) -> str:
    from cgal_plugin.data import DataStore

    path = directory.root / "data"
    return DataStore(path).topology.sequence if (path / "store.json").exists() else ""


def _shares(root: Path, index: int) -> dict[str, Any]:
    """Return what each system got in a round: ``n``, ``scale`` and largest ``relative`` distance."""
    stage = RunDirectory(root).stage("rounds", round_name(index), "share")
    if not stage.done:
        return {}
    systems = read_sealed(stage.folder / "manifest.json")["results"]["systems"]
    return {
        name: {
            "n": got["n"],
            "scale": got["scale"],
            "largest": max(got["relative"], default=None),
            "smallest": min(got["relative"], default=None),
        }
        for name, got in systems.items()
    }


def _figure(systems: Sequence[_System], shares: Sequence[Mapping[str, Any]]) -> Figure:
    figure = new_figure(11.0, 3.6)
    left, right = figure.subplots(1, 2)
    handles: dict[str, Any] = {}
    labelled = [k for k, got in enumerate(shares) if got]
    bottom = np.zeros(len(labelled))
    for k, s in enumerate(systems):
        colour = CYCLE[k % len(CYCLE)]
        if s.w1:
            line = "--" if s.role == "test" else "-"
            (handles[s.name],) = left.plot(range(len(s.w1)), s.w1, f"o{line}", ms=4, color=colour)
        counts = np.array([shares[i].get(s.name, {}).get("n", 0) for i in labelled], dtype=float)
        if counts.any():
            bars = right.bar(labelled, counts, bottom=bottom, color=colour, width=0.5)
            handles.setdefault(s.name, bars)
            bottom += counts
    rounds = range(max((len(s.w1) for s in systems), default=0) or len(shares))
    left.set_xticks(rounds)
    left.set_ylim(bottom=0)
    tidy(left, "round", "W1", "W1 by round (dashed: never labelled)")
    right.set_xticks(labelled)
    right.set_xlim(-0.5, max(len(labelled), 2) - 0.5)
    tidy(right, "round", "labels", "Labels by system")
    if handles:
        names = list(handles)
        figure.legend(
            [handles[n] for n in names], names, loc="outside right center", fontsize=9, frameon=False
        )
    return figure
