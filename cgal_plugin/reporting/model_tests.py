"""Read the tests of a run's models for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cgal_plugin.config import Config
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import test_stages

#: label of the refined model's test in :func:`cgal_plugin.runs.layout.test_stages`
REFINED = "refined"


def read_tests(directory: RunDirectory) -> dict[str, Mapping[str, Any]]:
    """Return label (``"round 0"``, ..., ``"refined"``) → manifest of each complete test."""
    return {label: stage.manifest() for label, stage in test_stages(directory)}


def measured_by(
    tests: Mapping[str, Mapping[str, Any]], evaluated: Sequence[Mapping[str, Any]]
) -> Literal["test", "exploration"]:
    """Return what W1 is taken from; the two are never mixed in one report.

    Runs of versions without a test have W1 of their exploration, in the results of ``evaluate``.
    """
    return "exploration" if not tests and any(e.get("w1") for e in evaluated) else "test"


def tested(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the attributes of a ``RoundSummary`` that a test gives; none without a test."""
    if manifest is None:
        return {}
    results = manifest["results"]
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


def reference_histogram(tests: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the histogram of the reference, on the cells of the models' histograms; None without a test."""
    found = (m["results"].get("reference_histogram") for m in reversed(list(tests.values())))
    return next((h for h in found if h is not None), None)


def why_no_w1(
    config: Config, tests: Mapping[str, Mapping[str, Any]], evaluated: Sequence[Mapping[str, Any]]
) -> str:
    """Return why no model has a W1; empty if one has, or if there is no reference."""
    results = [m["results"] for m in tests.values()]
    if not config.evaluation.reference or any(r.get("w1") for r in [*results, *evaluated]):
        return ""
    for r in [*results, *evaluated]:
        for name, reason in (r.get("not_evaluated") or {}).items():
            return f"{name} could not be computed ({reason})"
    if getattr(config, "test", True) is None:
        return "the test of models is off (test: null)"
    return "no test of a model is complete yet"


def notes_on_tests(tests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what limits the tests."""
    notes = []
    for label, manifest in tests.items():
        results = manifest["results"]
        if results.get("blow_ups"):
            notes.append(
                f"Test of the model of {label}: {results['blow_ups']} blow-ups in {results['steps']:,} "
                "replica-steps; the frames before a blow-up count."
            )
        for name, reason in (results.get("not_evaluated") or {}).items():
            notes.append(f"Test of the model of {label}: {name} could not be computed: {reason}.")
    return notes
