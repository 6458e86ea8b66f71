"""Text about the W1 of a model test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def test_text(row: Mapping[str, Any]) -> str:
    """Return the W1 of a test with interval, floor and what still drifts, on one line."""
    parts = [
        w1_text(label, row[key])
        for key, label in (("w1", "W1"), ("w1_ucsc", "W1 (ucsc)"))
        if row.get(key) is not None
    ]
    if row.get("drift_text"):
        parts.append(f"W1 drifts: {row['drift_text']}")
    if row.get("n_test_blow_ups"):
        parts.append(f"{row['n_test_blow_ups']} blow-ups in the test")
    return " | ".join(parts)


def w1_text(label: str, result: Mapping[str, Any]) -> str:
    """Return a W1 estimate with its interval and floor."""
    interval, floor = result.get("interval"), result.get("floor")
    between = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "(no interval)"
    return f"{label} {result['value']:.3f} {between} " + (f"floor {floor:.3f}" if floor else "no floor")


def short_text(row: Mapping[str, Any]) -> str:
    """Return the W1 of a test with its floor and what still drifts, without interval."""
    floor, drift = row["w1"].get("floor"), row.get("drift_text")
    facts = [f"floor {floor:.3f}" if floor else "no floor", *([drift] if drift else [])]
    return f"W1 {row['w1']['value']:.3f} ({'; '.join(facts)})"
