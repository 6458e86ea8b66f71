"""The first screen of the report says whether a run improved the model, and on what evidence."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.analysis.distributions import free_energy_surface, surface_of_histogram
from cgal_plugin.benchmark.run import read_results
from cgal_plugin.errors import AnalysisError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.reporting import ReportInput, RoundSummary, write_report
from cgal_plugin.reporting.first_screen import cost_cards, first_screen
from cgal_plugin.reporting.outcome import outcome
from cgal_plugin.reporting.page import render_report
from cgal_plugin.reporting.sections import collect_frames, explored_surfaces, projection
from cgal_plugin.reporting.surfaces import free_energy_panels, histogram_surfaces, visited_limits
from tests.reporting.test_report import check, w1_result

STORED = Path(__file__).parents[2] / "examples/chignolin/benchmark_1"


@pytest.fixture(scope="module")
def chignolin() -> CGTopology:
    return CGTopology.from_sequence("YYDPETGTWY", mapping="CA")


@pytest.fixture(scope="module")
def tests_of_seed_1() -> list[dict[str, Any]]:
    """Results of real tests: of a static model, and of a refined model after active learning."""
    rows = {r["arm"]: r["test"] for r in read_results(STORED) if r["seed"] == 1}
    return [rows["static"], rows["rmsd_release_refined"]]


def row(index: int, test: dict[str, Any], **changes: Any) -> RoundSummary:
    found = {k: test[k] for k in ("w1", "w1_ucsc", "histogram")}
    timings = {"train": 20.0, "label": 40.0, "test": 12.0}
    return RoundSummary(
        index=index, **{"timings": timings, "oracle_ns": 0.42, "n_labelled": 12, **found, **changes}
    )


@pytest.fixture(scope="module")
def won(chignolin: CGTopology, tests_of_seed_1: list[dict[str, Any]]) -> ReportInput:
    rng = np.random.default_rng(0)
    rounds = [row(i, test, coverage=rng.gamma(4 - 2 * i, 0.4, 200)) for i, test in enumerate(tests_of_seed_1)]
    return ReportInput(
        title="Chignolin", topology=chignolin, temperature=400.0, rounds=rounds, seed_ns=0.024,
        reference_histogram=tests_of_seed_1[0]["reference_histogram"], preparation={"seed": 10.0},
    )  # fmt: skip


def simple(chignolin: CGTopology, values: list[float], **changes: Any) -> ReportInput:
    rounds = [RoundSummary(index=i, w1=w1_result(v)) for i, v in enumerate(values)]
    return ReportInput(title="t", topology=chignolin, temperature=300, **{"rounds": rounds, **changes})


# ---------------------------------------------------------------------- the sentence


def test_a_run_that_won_says_by_how_much_and_names_the_floor(won: ReportInput) -> None:
    found = outcome(won)
    assert found.kind == "better"
    before, after = (r.w1 for r in won.rounds)
    assert before is not None
    assert after is not None
    assert re.match(
        rf"W1 fell from {before.value:.2f} \(round 0\) to {after.value:.2f} \(final model\): \d+ % lower "
        rf"\(95 % interval \d+ to \d+ %\)\. The floor of this reference is {after.floor:.2f}: two halves of "
        r"the reference differ by that much\.$",
        found.sentence,
    )
    assert found.remarks == ()


def test_a_change_within_its_interval_is_not_a_gain(chignolin: CGTopology) -> None:
    noisy = {"replicates": tuple(0.7 + 0.2 * np.random.default_rng(1).normal(size=60))}
    noisy |= {"interval": (0.3, 1.1)}
    rounds = [RoundSummary(index=0, w1=w1_result(0.71)), RoundSummary(index=1, w1=w1_result(0.69, **noisy))]
    found = outcome(simple(chignolin, [], rounds=rounds))
    assert found.kind == "unresolved"
    assert found.sentence.startswith("No change is shown: W1 went from 0.71 (round 0) to 0.69 (final model)")
    assert re.search(r"\d+ % higher to \d+ % lower\) contains 0", found.sentence)


def test_a_worse_model_is_called_worse(chignolin: CGTopology) -> None:
    found = outcome(simple(chignolin, [0.5, 0.9]))
    assert found.kind == "worse"
    assert re.match(r"W1 rose from 0\.50 \(round 0\) to 0\.90 \(final model\): 80 % higher", found.sentence)


@pytest.mark.parametrize(
    "changes", [{"interval": None, "replicates": ()}, {"floor": None, "floor_range": None}]
)
def test_without_interval_or_floor_nothing_is_claimed(chignolin: CGTopology, changes: dict[str, Any]) -> None:
    rounds = [RoundSummary(index=0, w1=w1_result(0.9)), RoundSummary(index=1, w1=w1_result(0.3, **changes))]
    found = outcome(simple(chignolin, [], rounds=rounds))
    assert found.kind == "unresolved"
    assert "Whether this is a change is not known" in found.sentence


def test_a_drift_as_large_as_the_change_leaves_no_claim(chignolin: CGTopology) -> None:
    text = "starts still differ: 0.60, by chance up to 0.20"
    for left, kind in ((0.6, "unresolved"), (0.3, "better")):
        last = RoundSummary(index=1, w1=w1_result(0.5), drift=text, drift_w1=left)
        report = simple(chignolin, [], rounds=[RoundSummary(index=0, w1=w1_result(1.0)), last])
        found = outcome(report)
        assert found.kind == kind
        assert any(text in remark for remark in found.remarks)
        words = check(render_report(report)).words
        assert words.count(text) >= 2  # first screen and notes
        assert "still drifts" in words  # table


def test_the_floor_reached_is_said(chignolin: CGTopology) -> None:
    assert "It is reached" in outcome(simple(chignolin, [0.9, 0.19])).sentence


def test_one_model_has_nothing_to_compare_with(chignolin: CGTopology) -> None:
    found = outcome(simple(chignolin, [1.3]))
    assert found.kind == "unknown"
    assert found.sentence.startswith(
        "W1 of the only model is 1.30 (95 % interval 1.20 to 1.40). There is no other"
    )


def test_an_incomplete_run_says_so_first(chignolin: CGTopology) -> None:
    found = outcome(simple(chignolin, [0.9, 0.4], incomplete="The run is not complete (round 1 of 4)."))
    assert found.sentence.startswith("So far, W1 fell from 0.90 (round 0) to 0.40 (round 1)")
    assert found.remarks == ("The run is not complete (round 1 of 4).",)


def test_a_model_without_a_test_is_named(chignolin: CGTopology) -> None:
    rounds = [RoundSummary(index=i, w1=w1_result(v)) for i, v in enumerate((0.9, 0.4))]
    rounds.append(RoundSummary(index=2, name="refined model"))
    found = outcome(simple(chignolin, [], rounds=rounds))
    assert "to 0.40 (round 1)" in found.sentence
    assert found.remarks == ("There is no W1 of refined model: the values end with round 1.",)


def test_the_published_recipe_that_disagrees_is_named(chignolin: CGTopology) -> None:
    def both(index: int, value: float, published: float) -> RoundSummary:
        other = w1_result(published, metric="w1_ucsc")
        return RoundSummary(index=index, w1=w1_result(value), w1_ucsc=other)

    agreeing = outcome(simple(chignolin, [], rounds=[both(0, 0.9, 0.9), both(1, 0.4, 0.4)]))
    assert agreeing.remarks == ()
    opposed = outcome(simple(chignolin, [], rounds=[both(0, 0.9, 0.5), both(1, 0.4, 0.8)]))
    assert opposed.remarks == ("The published recipe of W1 (0.50 to 0.80) does not show this change.",)


def test_without_reference_or_test_there_is_no_verdict(chignolin: CGTopology) -> None:
    rounds = [RoundSummary(index=i, coverage=np.full(20, 3.0 - i)) for i in range(2)]
    none = outcome(simple(chignolin, [], rounds=rounds))
    assert none.kind == "unknown"
    assert "there is no reference" in none.sentence
    assert "went from 3.00 to 2.00 Å" in none.remarks[0]
    off = outcome(simple(chignolin, [], rounds=rounds, no_w1="the test of models is off (test: null)"))
    assert off.sentence == "W1 is not known: the test of models is off (test: null)."
    assert "nothing" not in off.sentence


def test_exploration_is_not_a_test(chignolin: CGTopology) -> None:
    """Runs of versions without a test: W1 of the sampling that keeps its starts."""
    report = simple(chignolin, [0.9, 0.4], measured="exploration")
    found = outcome(report)
    assert found.kind == "unknown"
    assert found.sentence.startswith("W1 of the exploration fell from 0.90")
    assert "flatters" in found.remarks[0]
    words = check(render_report(report)).words
    assert "W1 (exploration), robust" in words
    assert "W1 (test)" not in words


# ---------------------------------------------------------------------- the page


def test_the_first_screen_is_first_and_complete(won: ReportInput) -> None:
    page = render_report(won)
    words = check(page).words
    assert page.index('id="result"') < page.index("<nav") < page.index('id="summary"')
    assert words.index("W1 fell from") < words.index("What was read")
    before, after = (r.w1 for r in won.rounds)
    alt = re.search(r'alt="Free-energy surfaces over TIC 1 and TIC 2, panels: ([^"]+)"', page)
    assert alt is not None
    assert before is not None
    assert after is not None
    panels = alt.group(1).split("; ")
    assert [p.split(",")[0] for p in panels] == [
        "Before: model of round 0",
        "After: final model",
        "Reference (all-atom)",
    ]
    for panel, result in zip(panels, (before, after), strict=False):
        assert f"W1 {result.value:.2f} [{result.interval[0]:.2f}, {result.interval[1]:.2f}]" in panel
    assert panels[2].endswith(f"floor of W1: {after.floor:.2f}")
    assert 'alt="W1 and coverage by round"' in page
    assert 'class="outcome better"' in page


def test_without_tests_the_surfaces_are_of_the_exploration(good, stiff, topology) -> None:
    rounds = [RoundSummary(index=i) for i in range(2)]
    report = ReportInput(
        title="t", topology=topology, temperature=300, before=stiff, after=good, lag_frames=5, rounds=rounds
    )
    frames = collect_frames(report)
    screen = first_screen(report, explored_surfaces(report, frames, projection(report, frames)))
    assert screen.surfaces.alt.endswith("Before: exploration of round 0, ; After: exploration of round 1, ")
    assert "this is not a test" in screen.caption


def test_a_damaged_histogram_does_not_cost_the_report(won: ReportInput) -> None:
    rounds = [
        row(i, {"w1": w1_result(v), "w1_ucsc": None, "histogram": [[-1]]}) for i, v in enumerate((1.0, 0.5))
    ]
    report = ReportInput(
        title="t", topology=won.topology, temperature=300, rounds=rounds, reference_histogram=[[1]]
    )
    screen = first_screen(report, {})
    assert "no trajectories" in screen.surfaces.missing
    assert screen.outcome.kind == "better"


def test_the_cost_is_all_of_it(won: ReportInput) -> None:
    md, time = cost_cards(won)
    assert md["value"] == "0.86 ns"
    assert md["small"] == "0.02 ns of seed data, 0.84 ns for 24 labels"
    assert time["value"] == "2.6 min"  # 10 s of seed data and two rounds of 72 s
    assert time["small"].startswith("label 52 %, train 26 %")
    assert cost_cards(simple(won.topology, [1.0])) == []


# ---------------------------------------------------------------------- surfaces


def test_one_free_energy_from_points_or_from_their_histogram() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 2))
    edges = np.linspace(-5, 5, 51)
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))[0]
    for smooth in (0.0, 0.8):
        expected = free_energy_surface(points, (edges, edges), 400.0, smooth=smooth)
        found = histogram_surfaces({"a": counts.astype(int).tolist()}, 5.0, 400.0, smooth=smooth)["a"]
        np.testing.assert_array_equal(found.energy, expected.energy)
    assert found.outside == 0.0


def test_frames_beyond_the_range_are_counted_and_do_not_set_the_axes() -> None:
    counts = np.zeros((50, 50))
    counts[20:30, 22:28] = 1.0
    counts[49, 25] = 20.0  # clipped frames
    surface = histogram_surfaces({"a": counts}, 5.0, 400.0)["a"]
    assert surface.outside == pytest.approx(20 / 80)
    np.testing.assert_allclose(visited_limits([surface]), [(-1.2, 1.2), (-0.8, 0.8)])
    axes = free_energy_panels({"a": surface}).axes
    assert any("25.0 % outside" in t.get_text() for t in axes[0].texts)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((4, 4)), "no point"),
        (-np.ones((4, 4)), "negative"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.ones((4, 5)), "shape"),
        (np.ones(4), "shape"),
    ],
)
def test_a_histogram_that_is_none_is_refused(counts: np.ndarray, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        histogram_surfaces({"a": counts}, 5.0, 400.0)
    with pytest.raises(AnalysisError, match="temperature"):
        surface_of_histogram(np.ones((2, 2)), (np.arange(3.0), np.arange(3.0)), 0.0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("drifts", [0.0, 0.1, 1.0])
def test_it_fits_a_screen_of_1280_by_800(won: ReportInput, tmp_path: Path, drifts: float) -> None:
    """Also with the longest sentences: both tests drift, and by more than the change."""
    left = {"drift": "starts still differ: 0.41, by chance up to 0.22", "drift_w1": drifts} if drifts else {}
    rounds = [RoundSummary(**{**vars(r), **left}) for r in won.rounds]
    report = ReportInput(**{**vars(won), "rounds": rounds})
    path = write_report(tmp_path / "report.html", report)
    measure = (
        "<script>addEventListener('load', () => document.body.setAttribute('data-bottom', "
        "document.querySelector('.progress').getBoundingClientRect().bottom))</script></body>"
    )
    path.write_text(path.read_text().replace("</body>", measure))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
         "--window-size=1280,800", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    bottom = re.search(r'data-bottom="([\d.]+)"', done.stdout)
    assert bottom is not None
    assert float(bottom.group(1)) <= 800
