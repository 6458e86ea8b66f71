"""examples/scaling: it measures, and its model adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "scaling"
KEYS = (
    "md_seconds_per_ps",
    "backmap_seconds",
    "train_seconds_per_frame",
    "cg_seconds_per_step",
    "pair_seconds",
)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    import plan as module

    yield module
    sys.modules.pop("plan")


def test_the_model_adds_up(plan) -> None:
    rows = [{"residues": n, **{key: 1e-3 * n**2 for key in KEYS}} for n in (10, 20, 40)]
    assert plan.power_law(rows, KEYS[0]) == pytest.approx((1e-3, 2.0))
    chosen = plan.options(["x", "--proteins", "3", "--residues", "10", "--frames", "100", "--workers", "48"])
    parts = {p.name: p for p in plan.round_parts({"rows": rows}, chosen)}
    assert parts["labels"].seconds == pytest.approx(3 * 16 * 6.0 * 0.1)
    assert parts["labels"].wall(48) == pytest.approx(6.0 * 0.1)
    assert parts["selection"].seconds == pytest.approx(3 * 1600 * 100 * 0.1)
    assert parts["training"].wall(48) == pytest.approx(15 * 100 * 0.1)
    text = plan.report({"rows": rows}, chosen)
    assert "bottleneck: dynamics. simulation.blocks" in text


@pytest.mark.slow
def test_the_measurement_runs(tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    measure = [
        sys.executable,
        str(EXAMPLE / "measure.py"),
        "-o",
        str(rates),
        "--residues",
        "5",
        "8",
        "--short",
    ]
    subprocess.run(measure, check=True)
    assert all(row[key] > 0 for row in json.loads(rates.read_text())["rows"] for key in KEYS)
    report = [sys.executable, str(EXAMPLE / "plan.py"), str(rates), "--proteins", "1000", "--residues", "60"]
    out = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    assert "bottleneck:" in out
