"""The whole loop, for real and tiny: it runs, it resumes, it says what went wrong."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.components.protocols import SampledFrames
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.driver import RunResult, run
from cgal_plugin.errors import ConfigError, DataError, DynamicsError, OracleError, SelectionError, StateError
from cgal_plugin.priors import PriorSet
from cgal_plugin.runs.layout import shard_round
from cgal_plugin.selector import Selection
from cgal_plugin.training import load_model
from tests.driver.tiny import TINY


class Log:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.skips: list[str] = []
        self.rows: list[Any] = []
        self.messages: list[str] = []

    def stage(self, title: str) -> Any:
        from contextlib import nullcontext

        self.stages.append(title)
        return nullcontext(lambda done, total: None)

    def skipped(self, title: str) -> None:
        self.skips.append(title)

    def round(self, row: Any) -> None:
        self.rows.append(row)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Log]:
    log = Log()
    return run(parse_config(TINY), tmp_path_factory.mktemp("loop") / "run", reporter=log), log


def _labels(root: Path) -> dict[str, str]:
    store = DataStore(root / "data")
    return {n: store.record(n)["sha256"] for n in store.names()}


def test_the_loop_ends_with_model_potential_and_report(finished: tuple[RunResult, Log]) -> None:
    result, log = finished
    assert [r["round"] for r in result.rounds] == [0, 1, 2]
    assert result.rounds[-1]["stop"] is not None
    assert [r.get("n_labelled", 0) + r.get("n_quarantined", 0) for r in result.rounds] == [3, 3, 0]
    frames = [r["n_frames"] for r in result.rounds]
    assert frames[0] == 400
    assert frames[1] == frames[0] + result.rounds[0]["n_new_frames"]
    assert frames[2] == frames[1] + result.rounds[1]["n_new_frames"]
    assert log.rows == list(result.rounds)
    html = result.report.read_text()
    assert "tiny &lt;b&gt;run&lt;/b&gt;" in html
    assert "<b>run</b>" not in html
    assert result.checkpoint.is_file()
    assert result.potential.is_file()


def test_every_stage_says_what_it_came_from(finished: tuple[RunResult, Log]) -> None:
    manifests = sorted(finished[0].out_dir.rglob("manifest.json"))
    assert len(manifests) == 2 + 2 * 5 + 3
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["inputs_hash"]
        assert manifest["versions"]["openmm"]


def test_the_backend_of_the_dynamics_is_recorded(finished: tuple[RunResult, Log]) -> None:
    from cgal_plugin.export.fast import fast_available

    for path in finished[0].out_dir.glob("rounds/*/simulate/manifest.json"):
        backend = json.loads(path.read_text())["results"]["backend"]
        assert backend == json.loads((path.parent / "simulation.json").read_text())["inputs"]["backend"]
        assert (backend == "fast") == fast_available()


def test_labels_stay_near_the_frames_that_were_selected(finished: tuple[RunResult, Log]) -> None:
    root = finished[0].out_dir
    store = DataStore(root / "data")
    for name in (n for n in store.names() if shard_round(n) == 0):
        with np.load(root / "rounds" / "round_000" / "select" / "selected.npz") as selected:
            target = selected["positions"][int(name[-4:])]
        from cgal_plugin.selector import nearest_rmsd

        assert nearest_rmsd(store.load(name).positions[:1], target[None])[0][0] < 2.0


def test_the_same_call_again_runs_nothing(finished: tuple[RunResult, Log]) -> None:
    result, _ = finished
    before = _labels(result.out_dir)
    log = Log()
    again = run(parse_config(TINY), result.out_dir, reporter=log)
    assert log.stages == ["report"]
    assert again.rounds == result.rounds
    assert _labels(result.out_dir) == before


def test_more_rounds_go_on_from_the_end(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "run"
    shutil.copytree(finished[0].out_dir, root)
    config = copy.deepcopy(TINY)
    config["stopping"]["rounds"] = 3
    log = Log()
    result = run(parse_config(config), root, reporter=log)
    assert len(result.rounds) == 4
    assert "round 1: label" in log.skips
    assert "round 2: label" in log.stages


def test_changed_settings_are_refused(finished: tuple[RunResult, Log]) -> None:
    config = copy.deepcopy(TINY)
    config["training"]["epochs"] = 4
    with pytest.raises(StateError, match=r"training\.epochs: 3 -> 4"):
        run(parse_config(config), finished[0].out_dir)


def _start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    code = "from cgal_plugin.cli.main import main; main()"
    command = [sys.executable, "-c", code, "run", str(config), "--out", str(out)]
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _kill_when(process: subprocess.Popen[bytes], log: Path, happened: Any) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_runs_end_with_the_same_labels(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(TINY))
    moments = [
        lambda: any((out / "seed").glob("trajectory_000.npz")),
        lambda: any(out.glob("rounds/round_000/train/model_000/*.ckpt")),
        lambda: (
            (out / "data" / "shards" / "r000_f0000.json").exists()
            or (out / "data" / "shards" / "r000_f0001.json").exists()
        ),
    ]
    kept: dict[Path, int] = {}
    for moment in moments:
        _kill_when(_start(config, out), tmp_path / "log", moment)
        for path, stamp in kept.items():
            assert path.stat().st_mtime_ns == stamp, f"{path} was computed again"
        done = [*out.glob("data/shards/*"), *out.glob("seed/trajectory_*.npz"), *out.rglob("manifest.json")]
        kept = {p: p.stat().st_mtime_ns for p in done if not p.name.startswith(".")}
    last = _start(config, out)
    assert last.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    for path, stamp in kept.items():
        assert path.stat().st_mtime_ns == stamp, f"{path} was computed again"
    assert _labels(out) == _labels(finished[0].out_dir)


# ---------------------------------------------------------------------- parts of the user's own


class EveryTenth:
    def fit(self, reference: Any) -> EveryTenth:
        return self

    def select(self, candidates: Any) -> Selection:
        indices = np.arange(0, len(candidates), 10)
        return Selection(indices, np.full(len(indices), np.nan), np.full(len(candidates), np.nan))


class Springs:
    def label(self, frames: Any) -> LabelledFrames:
        index = np.arange(len(frames))
        forces = -0.1 * (frames - frames.mean(axis=1, keepdims=True))
        return LabelledFrames(frames, forces, index, np.zeros(len(frames), dtype=int), np.zeros(len(frames)))


class Noise:
    n_replicas = 4

    def sample(
        self,
        potential: Path,
        topology: Any,
        start_positions: Any,
        *,
        temperature: float,
        seed: int,
        out_dir: Path,
        progress: Any = None,
    ) -> SampledFrames:
        noise = np.random.default_rng(seed).normal(scale=0.3, size=(4, 5, topology.n_beads, 3))
        return SampledFrames(list(start_positions[:, None] + noise))


class Refuses:
    def label(self, frames: Any) -> LabelledFrames:
        from cgal_plugin.data import Quarantined

        empty = np.zeros((0, frames.shape[1], 3))
        none = np.zeros(0, dtype=int)
        failed = [Quarantined(i, "refused on principle", "none") for i in range(len(frames))]
        return LabelledFrames(empty, empty, none, none, np.zeros(0), failed)


def _stored(finished: tuple[RunResult, Log], **changes: Any) -> dict[str, Any]:
    """The tiny run on the finished run's data, so that no all-atom MD is needed."""
    config = copy.deepcopy(TINY)
    config["seed_data"] = {"store": str(finished[0].out_dir / "data")}
    config["stopping"] = {"rounds": 1}
    config["executor"] = {"workers": 0}
    return config | changes


def test_parts_of_the_users_own(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    result = run(
        parse_config(_stored(finished)),
        tmp_path / "run",
        selector=EveryTenth(),
        oracle=Springs(),
        sampler=Noise(),
    )
    assert result.rounds[0]["n_labelled"] == 2


def test_priors_by_forces_anew_each_round(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    terms = ["bonds", "angles", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching", "refit": True}
    training = {**TINY["training"], "mode": "scratch", "priors": priors}
    config = parse_config(_stored(finished, training=training))
    result = run(config, tmp_path / "run", selector=EveryTenth(), oracle=Springs(), sampler=Noise())
    folders = [result.out_dir / "priors", *sorted(result.out_dir.glob("rounds/round_*/train"))]
    fits = [PriorSet.load(folder / "priors.yaml") for folder in folders]
    assert [f.n_frames for f in fits] == [fits[0].n_frames, fits[0].n_frames, fits[0].n_frames + 2]
    assert fits[0].hash == fits[1].hash != fits[2].hash
    model = load_model(result.checkpoint)
    assert [p.get_init_args() for p in model.prior_model] == [fits[2].arguments(t) for t in terms]
    # a second call does nothing again
    again = run(config, tmp_path / "run", selector=EveryTenth(), oracle=Springs(), sampler=Noise())
    assert again.rounds == result.rounds


def test_parts_named_in_the_configuration(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    config = _stored(finished)
    for section, name in (("selector", "EveryTenth"), ("oracle", "Springs"), ("simulation", "Noise")):
        config[section] = {"kind": "custom", "class": f"{__name__}:{name}"}
    assert run(parse_config(config), tmp_path / "run").rounds[0]["n_labelled"] == 2
    config["oracle"]["class"] = f"{__name__}:Nobody"
    with pytest.raises(ConfigError, match="cannot be imported"):
        run(parse_config(config), tmp_path / "other")


def test_no_label_is_an_error_that_keeps_everything(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    parts = {"oracle": Refuses(), "sampler": Noise()}
    with pytest.raises(OracleError, match=r"(?s)none of the 3 selected frames.*refused on principle"):
        run(parse_config(_stored(finished)), tmp_path / "run", **parts)
    assert (tmp_path / "run" / "rounds" / "round_000" / "select" / "manifest.json").is_file()


def test_no_selected_frame_is_an_error(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    config = _stored(finished, selector={"min_rmsd": 50.0, "max_rmsd": 60.0})
    with pytest.raises(SelectionError, match="no frame selected"):
        run(parse_config(config), tmp_path / "run", sampler=Noise())


class LateFrames:
    """A sampler whose first replicas have no frame: both of them, or the first one."""

    n_replicas = 2

    def __init__(self, n_empty: int) -> None:
        self.n_empty = n_empty

    def sample(self, potential: Path, topology: Any, start_positions: np.ndarray, **_: Any) -> SampledFrames:
        frames = [np.repeat(s[None], 5, axis=0) for s in start_positions]
        event = {"replica": 0, "step": 1, "kind": "energy", "detail": "too hot"}
        return SampledFrames([f[:0] if i < self.n_empty else f for i, f in enumerate(frames)], [event])


def test_replicas_that_all_blow_up_at_once_are_an_error(
    finished: tuple[RunResult, Log], tmp_path: Path
) -> None:
    config = parse_config(_stored(finished))
    with pytest.raises(DynamicsError, match=r"blew up before its first frame \(energy: too hot"):
        run(config, tmp_path / "run", sampler=LateFrames(2))
    assert not (tmp_path / "run/rounds/round_000/simulate/manifest.json").exists()


def test_a_replica_without_frames_does_not_shift_the_others(
    finished: tuple[RunResult, Log], tmp_path: Path
) -> None:
    result = run(parse_config(_stored(finished)), tmp_path / "run", sampler=LateFrames(1), oracle=Springs())
    with np.load(result.out_dir / "rounds/round_000/select/selected.npz") as arrays:
        assert set(arrays["replica"].tolist()) == {1}


def test_seed_data_of_another_molecule_or_temperature(
    finished: tuple[RunResult, Log], tmp_path: Path
) -> None:
    other = _stored(finished, system={"sequence": "AAAAA", "temperature": 400.0})
    with pytest.raises(DataError, match="system says"):
        run(parse_config(other), tmp_path / "a")
    colder = _stored(finished, system={"sequence": "GYGAG", "temperature": 300.0})
    with pytest.raises(DataError, match="400"):
        run(parse_config(colder), tmp_path / "b")


def test_oracle_budget_stops_the_run(finished: tuple[RunResult, Log], tmp_path: Path) -> None:
    config = _stored(finished, stopping={"rounds": 5, "oracle_ns": 1e-5})
    result = run(parse_config(config), tmp_path / "run", sampler=Noise())
    assert len(result.rounds) == 1
    assert "budget" in result.rounds[0]["stop"]


def test_unknown_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown components"):
        run(parse_config(TINY), tmp_path / "run", orcale=Springs())
