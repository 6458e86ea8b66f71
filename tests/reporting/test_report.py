from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from cgal_plugin.analysis import W1Result
from cgal_plugin.data import Quarantined
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.errors import AnalysisError
from cgal_plugin.reporting import ReportInput, RoundSummary, SelectedFrames, write_report
from cgal_plugin.reporting.formatting import number, prior_image
from cgal_plugin.reporting.page import headline_cards, render_report

NASTY = "</script><script>alert('x')</script>&<b>"
VOID = {"meta", "img", "br", "input", "link", "hr"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def w1_result(value: float, **changes) -> W1Result:
    rng = np.random.default_rng(int(1000 * value))
    defaults = {
        "metric": "w1", "value": value, "interval": (value - 0.1, value + 0.1), "floor": 0.2,
        "floor_range": (0.15, 0.25), "unit": "standard deviations of the reference", "model_blocks": 10,
        "reference_blocks": 10, "replicates": tuple(value + 0.05 * rng.normal(size=40)),
    }  # fmt: skip
    return W1Result(**{**defaults, **changes})


def summaries() -> list[RoundSummary]:
    rng = np.random.default_rng(0)
    return [
        RoundSummary(
            index=i,
            coverage=np.append(rng.gamma(4 - i, 0.4, 100), np.nan),
            reference_coverage=rng.gamma(3, 0.3, 50),
            w1=w1_result(0.9 - 0.4 * i),
            w1_ucsc=w1_result(0.8 - 0.4 * i, metric="w1_ucsc", unit="kinetic-map TIC units"),
            n_selected=8, n_labelled=7, n_quarantined=1, n_frames=100 * (i + 1), n_new_frames=100,
            blow_ups=[BlowUp(1, 500, "bond", NASTY)], cg_steps=10_000, oracle_ns=0.1,
            training=[{"epoch": e, "train_loss": 10.0 / (e + 1), "val_loss": float("nan")} for e in range(3)],
            timings={"train": 10.0, "label": 5.0},
        )
        for i in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def full(reference, good, stiff, topology) -> ReportInput:
    selected = np.concatenate([stiff[0][::10], [np.full((8, 3), np.nan)]])
    return ReportInput(
        title=f"Toy {NASTY}", topology=topology, temperature=400.0, reference=reference,
        before=stiff, after=good, training_frames=reference[0], lag_frames=5, rounds=summaries(),
        prior_table=[{"term": "bonds", "types": ("CA_TYR", NASTY), "parameters": {"k": 100.0}, "n": 12}],
        prior_plot=PNG,
        selected=SelectedFrames(
            selected, np.array([1.0, np.nan, 2.0, 3.0, 1.0]), np.array([0, 0, 1, 1, 1]), [NASTY] * 5
        ),
        quarantine={1: [Quarantined(3, NASTY)]},
        provenance={"seed": 1, "nested": {"value": float("nan"), "array": np.arange(3)}, NASTY: NASTY},
        notes=[NASTY],
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(full) -> str:
    return render_report(full)


class Checker(HTMLParser):
    """Tags are balanced; collects ids, links, sources, scripts and text."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.images_without_alt = 0
        self.words = ""

    def handle_starttag(self, tag, attrs) -> None:
        attributes = dict(attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.references += [attributes[k] for k in ("href", "src") if k in attributes]
        if tag == "script":
            self.scripts.append("")
        if tag == "img" and not attributes.get("alt"):
            self.images_without_alt += 1

    def handle_endtag(self, tag) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words += data


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.stack == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.images_without_alt == 0
    for reference in checker.references:
        assert reference.startswith(("data:image/", "#")), reference[:80]
        if reference.startswith("#"):
            assert reference[1:] in checker.ids
    return checker


def test_page_is_complete_well_formed_and_loads_nothing(page) -> None:
    checker = check(page)
    assert re.search(r"url\(|@import|https?://", re.sub(r"data:image/[^\"]+", "", page)) is None
    assert "default-src 'none'" in page
    for section in ("summary", "surfaces", "distances", "structure", "priors", "selected", "quarantine",
                    "training", "dynamics", "timings", "provenance"):  # fmt: skip
        assert section in checker.ids
    assert len([r for r in checker.references if r.startswith("data:")]) == 10


def test_every_string_is_escaped(page) -> None:
    checker = check(page)
    assert NASTY not in page
    assert len(checker.scripts) == 2
    assert checker.words.count("alert('x')") >= 6
    data = json.loads(checker.scripts[0])
    assert data["info"][0]["label"] == NASTY
    assert len(data["frames"]) == 4
    assert data["info"][1]["rmsd"] is None
    assert "1 frames have coordinates that are not finite" in page


def test_gain_comes_with_interval_and_floor(full) -> None:
    card = headline_cards(full)[0]
    assert card["value"] == "0.90 → 0.50"
    assert re.search(r"44.% lower, 95.% interval \[\d+,.\d+\].% · floor 0\.20", card["small"])


@pytest.mark.parametrize(
    "changes", [{"interval": None, "replicates": ()}, {"floor": None, "floor_range": None}]
)
def test_no_gain_without_them(topology, changes) -> None:
    rounds = [RoundSummary(index=0, w1=w1_result(0.9)), RoundSummary(index=1, w1=w1_result(0.5, **changes))]
    report = ReportInput(title="t", topology=topology, temperature=300, rounds=rounds)
    assert "not stated" in headline_cards(report)[0]["small"]
    html = render_report(report)
    assert "% lower" not in html
    check(html)


def test_worse_is_called_higher(topology) -> None:
    rounds = [RoundSummary(index=i, w1=w1_result(v).to_dict()) for i, v in enumerate((0.5, 0.9))]
    card = headline_cards(ReportInput(title="t", topology=topology, temperature=300, rounds=rounds))[0]
    assert "80\u00a0% higher" in card["small"]


def test_nothing_but_the_essentials(topology, tmp_path) -> None:
    path = write_report(
        tmp_path / "deep" / "report.html", ReportInput(title="t", topology=topology, temperature=300)
    )
    words = check(path.read_text()).words
    for sentence in ("No reference trajectory", "No frame was quarantined", "No rounds were recorded",
                     "No frames were selected", "No blow-up was recorded", "No timings",
                     "W1 was not computed", "No free-energy surface", "No training curves"):  # fmt: skip
        assert sentence in words, sentence


def test_without_reference_the_basis_is_named(good, topology) -> None:
    report = ReportInput(
        title="t", topology=topology, temperature=300, after=[*good, good[0][:0]], seed_trajectories=good,
        training_frames=good[0], lag_frames=5, rounds=[RoundSummary(index=0, coverage=np.full(4, np.nan))],
    )  # fmt: skip
    words = check(render_report(report)).words
    assert "TICs are fitted to the all-atom seed runs" in words
    assert "One round only" in words
    assert "not Boltzmann-distributed" in words


def test_unusable_pieces_become_notes(good, topology, tmp_path) -> None:
    broken = [good[0].copy()]
    broken[0][0] = np.nan
    report = ReportInput(
        title="t", topology=topology, temperature=300, reference=broken, before=[np.zeros((4, 5, 3))],
        after=good, lag_frames=1000, prior_plot=tmp_path / "absent.png",
    )  # fmt: skip
    words = check(render_report(report)).words
    for sentence in ("reference is not shown", "before is not shown", "TICs could not be fitted",
                     "could not be read"):  # fmt: skip
        assert sentence in words, sentence


def test_small_pieces(tmp_path) -> None:
    assert [number(v) for v in (None, float("nan"), 1234567, 0.00001, 2.345, True)] == [
        "–", "–", "1\u202f234\u202f567", "1.00e-05", "2.35", "True"
    ]  # fmt: skip
    assert prior_image(b"GIF89a")[1].endswith("neither PNG nor SVG.")
    assert prior_image(PNG)[0].startswith("data:image/png;base64,")
    with pytest.raises(AnalysisError, match="one per frame"):
        SelectedFrames(np.zeros((2, 3, 3)), np.zeros(3), np.zeros(2))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_viewer_runs_in_a_browser(full, tmp_path) -> None:
    path = write_report(tmp_path / "report.html", full)
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "frame 1 of 4 · round 0 · nearest RMSD 1.00 Å" in done.stdout
