"""Read the tests of a run's models for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cgal_plugin.config import Config
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import sampled_trajectories, test_stages
from cgal_plugin.runs.stage import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cgal_plugin.components.evaluator import ReferenceEvaluator

#: label of the refined model's test in :func:`cgal_plugin.runs.layout.test_stages`
REFINED = "refined"


@dataclass(frozen=True)
class TestRecord:
    """A complete test of a model: its stage, results, wall time (s), and manifest."""

    stage: Stage
    results: Mapping[str, Any]
    seconds: float
    manifest: Mapping[str, Any]


#: label of a model → its test, in order
Tests = Mapping[str, TestRecord]


def read_tests(directory: RunDirectory) -> dict[str, TestRecord]:
    """Return label (``"round 0"``, ..., ``"refined"``) → record of each complete test."""
    found = {}
    for label, stage in test_stages(directory):
        manifest = stage.manifest()
        found[label] = TestRecord(stage, manifest["results"], float(manifest["seconds"]), manifest)
    return found


def tested_frames(tests: Tests, discard: float) -> list[list[NDArray[np.floating]]]:
    """Return the trajectories of the first and of the last test, without their equilibration; or nothing.

    ``discard`` is the share of each replica that is equilibration. Each trajectory is ``(n, n_beads, 3)`` Å.
    """
    found = []
    for record in list(tests.values())[:: max(1, len(tests) - 1)][:2]:
        used = [t[round(discard * len(t)) :] for t in sampled_trajectories(record.stage)]
        found.append([t for t in used if len(t)])
    return [found[0], found[-1]] if found else []


def measured_by(tests: Tests, evaluated: Sequence[Mapping[str, Any]]) -> Literal["test", "exploration"]:
    """Return what W1 is taken from; the two are never mixed in one report.

    Runs of versions without a test have W1 of their exploration, in the results of ``evaluate``.
    """
    return "exploration" if not tests and any(e.get("w1") for e in evaluated) else "test"


def tested(record: TestRecord | None) -> dict[str, Any]:
    """Return the attributes of a ``RoundSummary`` that a test gives; none without a test."""
    if record is None:
        return {}
    results = record.results
    drifts = bool(results.get("drifts"))
    return {
        "w1": results.get("w1") or None,
        "w1_ucsc": results.get("w1_ucsc") or None,
        "histogram": results.get("histogram"),
        "drift": (results.get("drift_text") or "it still drifts") if drifts else "",
        "drift_w1": _left(results) if drifts else 0.0,
    }


def explored(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a ``RoundSummary`` from the exploration of a run without tests."""
    return {name: results.get(name) or None for name in ("w1", "w1_ucsc")}


def _left(results: Mapping[str, Any]) -> float:
    """Return the largest W1 between parts of a test that chance does not explain."""
    found = [results.get(key) or {} for key in ("starts", "halves")]
    known = [f for f in found if f.get("w1") is not None and f.get("expected") is not None]
    return max((f["w1"] for f in known if f["w1"] > f["expected"]), default=0.0)


def reference_histogram(tests: Tests) -> Any:
    """Return the histogram of the reference, on the cells of the models' histograms; None without a test."""
    found = (r.results.get("reference_histogram") for r in reversed(list(tests.values())))
    return next((h for h in found if h is not None), None)


def why_no_w1(config: Config, tests: Tests, evaluated: Sequence[Mapping[str, Any]]) -> str:
    """Return why no model has a W1; empty if one has, or if there is no reference."""
    results = [r.results for r in tests.values()]
    if not config.evaluation.reference or any(r.get("w1") for r in [*results, *evaluated]):
        return ""
    for r in [*results, *evaluated]:
        for name, reason in (r.get("not_evaluated") or {}).items():
            return f"{name} could not be computed ({reason})"
    if config.test is None:
        return "the test of models is off (test: null)"
    return "no test of a model is complete yet"


def notes_on_tests(tests: Tests, reference: ReferenceEvaluator) -> list[str]:
    """Say what limits the tests, and which were made with another content of the reference."""
    notes = []
    other = [label for label, record in tests.items() if not reference.is_that_of(record.manifest)]
    if other:
        notes.append(
            f"The reference has changed since the test of {', '.join(other)}: W1 is that to the earlier one, "
            "figures show the present one. Repeat `cgal run` to compare the models with the present one."
        )
    for label, record in tests.items():
        results = record.results
        if results.get("blow_ups"):
            notes.append(
                f"Test of the model of {label}: {results['blow_ups']} blow-ups in {results['steps']:,} "
                "replica-steps; the frames before a blow-up count."
            )
        for name, reason in (results.get("not_evaluated") or {}).items():
            notes.append(f"Test of the model of {label}: {name} could not be computed: {reason}.")
    return notes
