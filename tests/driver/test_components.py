"""Components of the user's own in the loop: they are used, and what they return wrongly is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.protocols import SampledFrames
from cgal_plugin.config import parse_config
from cgal_plugin.data import LabelledFrames, Quarantined
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError, DataError, DynamicsError, OracleError, SelectionError, StateError
from cgal_plugin.selector import Selection
from tests.driver import stand_ins
from tests.driver.cheap import Log, cheap_run
from tests.driver.tiny import TINY

pytestmark = pytest.mark.usefixtures("without_figures")


class EveryTenth:
    def fit(self, reference: Any) -> EveryTenth:
        return self

    def select(self, candidates: Any) -> Selection:
        indices = np.arange(0, len(candidates), 10)
        return Selection(indices, np.full(len(indices), np.nan), np.full(len(candidates), np.nan))


class Refuses:
    def label(self, frames: Any) -> LabelledFrames:
        empty, none = np.zeros((0, frames.shape[1], 3)), np.zeros(0, dtype=int)
        failed = [Quarantined(i, "refused on principle", "none") for i in range(len(frames))]
        return LabelledFrames(empty, empty, none, none, np.zeros(0), failed)


def test_a_selector_object_is_used(tmp_path: Path) -> None:
    result = cheap_run(tmp_path / "run", stand_ins.config(tmp_path), selector=EveryTenth())
    assert result.rounds[0]["n_labelled"] == 2
    with np.load(tmp_path / "run/rounds/round_000/select/selected.npz") as arrays:
        assert arrays["candidate"].tolist() == [0, 10]


def test_components_named_in_the_configuration_are_used(tmp_path: Path) -> None:
    classes = {
        "selector": f"{__name__}:EveryTenth",
        "oracle": "tests.driver.stand_ins:Springs",
        "simulation": "tests.driver.stand_ins:Noise",
    }
    sections = {section: {"kind": "custom", "class": name} for section, name in classes.items()}
    result = run(stand_ins.config(tmp_path, **sections), tmp_path / "run", trainer=stand_ins.Untrained())
    assert result.rounds[0]["n_labelled"] == 2


def test_a_class_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    config = stand_ins.config(tmp_path, oracle={"kind": "custom", "class": f"{__name__}:Nobody"})
    with pytest.raises(ConfigError, match="cannot be imported"):
        run(config, tmp_path / "run", **stand_ins.cheap())


def test_no_label_is_an_error_that_keeps_everything(tmp_path: Path) -> None:
    config = stand_ins.config(tmp_path, oracle={"max_failure_rate": 1.0})
    with pytest.raises(OracleError, match=r"(?s)none of the 10 selected frames.*refused on principle"):
        cheap_run(tmp_path / "run", config, oracle=Refuses())
    assert (tmp_path / "run/rounds/round_000/select/manifest.json").is_file()


def test_frames_that_are_all_too_far_away_are_an_error(tmp_path: Path) -> None:
    config = stand_ins.config(tmp_path, selector={"max_rmsd": 1e-6})
    with pytest.raises(SelectionError, match=r"no frame selected.*widen the cuts"):
        cheap_run(tmp_path / "run", config)


class LateFrames:
    """A sampler whose first replicas have no frame: both of them, or the first one."""

    n_replicas = 2

    def __init__(self, n_empty: int) -> None:
        self.n_empty = n_empty

    def sample(self, potential: Path, topology: Any, start_positions: np.ndarray, **_: Any) -> SampledFrames:
        frames = [np.repeat(s[None], 5, axis=0) for s in start_positions]
        event = BlowUp(replica=0, step=1, kind="energy", detail="too hot")
        return SampledFrames([f[:0] if i < self.n_empty else f for i, f in enumerate(frames)], [event])


def test_replicas_that_all_blow_up_at_once_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DynamicsError, match=r"blew up before its first frame \(energy: too hot"):
        cheap_run(tmp_path / "run", stand_ins.config(tmp_path), sampler=LateFrames(2))
    assert not (tmp_path / "run/rounds/round_000/simulate/manifest.json").exists()


def test_a_replica_without_frames_does_not_shift_the_others(tmp_path: Path) -> None:
    result = cheap_run(
        tmp_path / "run",
        stand_ins.config(tmp_path, selector={"kind": "random", "n_select": 2, "max_rmsd": None}),
        sampler=LateFrames(1),
    )
    assert result.rounds[0]["n_blow_ups"] == 1
    with np.load(tmp_path / "run/rounds/round_000/select/selected.npz") as arrays:
        assert arrays["replica"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"sequence": "AAAAA", "temperature": 400.0}, "GYGAG.*; system is .*AAAAA"),
        ({"sequence": "GYGAG", "temperature": 300.0}, r"system\.temperature is 300"),
    ],
    ids=["molecule", "temperature"],
)
def test_seed_data_of_another_system_are_refused(
    system: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        cheap_run(tmp_path / "run", stand_ins.config(tmp_path, system=system))


def test_an_unknown_component_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown components"):
        run(parse_config(TINY), tmp_path / "run", orcale=stand_ins.Springs())


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run(stand_ins.config(tmp_path), tmp_path / "run", oracle=object())
    assert not (tmp_path / "run").exists()


def test_a_trainer_that_exports_nothing_is_an_error(tmp_path: Path) -> None:
    class Forgetful(stand_ins.Untrained):
        def export(self, model: Any, topology: Any, path: Path, n_replicas: int) -> None:
            """Write nothing."""

    with pytest.raises(StateError, match=r"trainer .*Forgetful wrote no file .*potential"):
        cheap_run(tmp_path / "run", stand_ins.config(tmp_path), trainer=Forgetful())


def test_more_rounds_continue_from_the_end(tmp_path: Path) -> None:
    cheap_run(tmp_path / "run", stand_ins.config(tmp_path))
    log = Log()
    result = cheap_run(tmp_path / "run", stand_ins.config(tmp_path, stopping={"rounds": 2}), reporter=log)
    assert len(result.rounds) == 3
    assert "round 0: label" in log.skips
    assert "round 1: evaluate" in log.skips
    assert [t for t in log.stages if t.startswith("round")] == [
        "round 1: select",
        "round 1: label",
        "round 2: train",
        "round 2: simulate",
        "round 2: evaluate",
    ]
