"""A component that breaks the contract is an error that names it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openmm
import pytest

from cgal_plugin.components.checks import (
    check_component,
    check_sampled,
    check_selection,
    check_trained,
    required_methods,
)
from cgal_plugin.components.protocols import SampledFrames, TrainedModel
from cgal_plugin.components.tasks import label_frame
from cgal_plugin.config import parse_config
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.driver import run
from cgal_plugin.errors import (
    CGALError,
    ConfigError,
    DataError,
    DynamicsError,
    OracleError,
    SelectionError,
    StateError,
)
from cgal_plugin.mapping import CGTopology
from tests.driver.tiny import TINY

TOPOLOGY = CGTopology.from_sequence("GYGAG")


class Mine:
    """Has no method of any role."""


@pytest.mark.parametrize(
    ("role", "methods"),
    [
        ("oracle", ("label",)),
        ("selector", ("fit", "select")),
        ("sampler", ("sample",)),
        ("trainer", ("prepare", "train", "export")),
        ("seed_source", ("prepare", "fill")),
    ],
)
def test_a_component_without_its_methods_is_named(role: str, methods: tuple[str, ...]) -> None:
    assert required_methods(role) == methods
    missing = f"has no method {' and no method '.join(methods)}; an? {role} needs {', '.join(methods)}"
    with pytest.raises(ConfigError, match=f"the {role} Mine {missing}"):
        check_component(role, Mine())


class Positional:
    def sample(self, potential: Any, topology: Any, start: Any, temperature: Any, seed: Any) -> None:
        """Takes neither a folder nor progress."""


class Swallows:
    def sample(self, *arguments: Any, **options: Any) -> None:
        """Takes anything."""


def test_a_method_that_does_not_take_the_arguments_is_refused_at_once() -> None:
    check_component("sampler", Swallows())
    call = r"sample\(potential, topology, start_positions, \*, temperature, seed, out_dir, progress\)"
    with pytest.raises(ConfigError, match=f"which the loop calls as {call}.*argument 'out_dir'"):
        check_component("sampler", Positional())


@pytest.mark.parametrize(
    ("trajectories", "message"),
    [
        ([np.zeros((4, 3, 3))], "trajectory 0 of shape"),
        ([np.zeros((4, 5, 3)), np.full((2, 5, 3), np.nan)], "trajectory 1 .*first in frame 0"),
        (None, "expected SampledFrames"),
    ],
)
def test_what_a_sampler_returns_is_checked(trajectories: Any, message: str) -> None:
    with pytest.raises(DynamicsError, match=f"the sampler Mine returned .*{message}"):
        check_sampled(trajectories and SampledFrames(trajectories), Mine(), TOPOLOGY)


def test_events_of_a_sampler_become_blow_ups() -> None:
    event = BlowUp(0, 7, "bond")
    given = SampledFrames([np.zeros((1, 5, 3))], [event, {"replica": 0, "step": 8, "kind": "energy"}])  # type: ignore[list-item]
    assert check_sampled(given, Mine(), TOPOLOGY).events == (event, BlowUp(0, 8, "energy"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": [{"replica": 0, "when": 8}]}, "events that are not blow-ups"),
        ({"events": ["at step 8"]}, "events that are not blow-ups"),
        ({"files": (Path("a"), Path("b"))}, "2 files for 1 trajectories"),
    ],
)
def test_events_and_files_of_a_sampler_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DynamicsError, match=message):
        check_sampled(SampledFrames([np.zeros((1, 5, 3))], **changes), Mine(), TOPOLOGY)


def test_a_checkpoint_must_be_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    model = TrainedModel(tmp_path / "a.ckpt", (tmp_path / "a.ckpt",))
    assert check_trained(model, Mine(), tmp_path) is model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "NoneType"),
        (TrainedModel(Path("nowhere.ckpt")), "which does not exist"),
        (TrainedModel(Path(__file__)), "expected a file in"),
    ],
)
def test_other_models_are_refused(model: TrainedModel | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=f"the trainer Mine returned .*{message}"):
        check_trained(model, Mine(), tmp_path)


@pytest.mark.parametrize(
    ("indices", "distances", "message"),
    [
        ([0, 10], [0.0, 0.0], "expected distinct ones from 0 to 9"),
        ([-1], [0.0], "expected distinct ones"),
        ([3, 3], [0.0, 0.0], "1 of 2 distinct"),
        ([True, False], [0.0, 0.0], "expected integers"),
        ([[1]], [[0.0]], "one dimension"),
        ([1, 2], [0.0], "distances for"),
        ([], [], "chose no frame of 10"),
    ],
)
def test_what_a_selector_returns_is_checked(indices: Any, distances: Any, message: str) -> None:
    chosen = SimpleNamespace(indices=indices, distances=distances)
    with pytest.raises(SelectionError, match=message):
        check_selection(chosen, Mine(), 10)


def test_a_selector_that_returns_nothing_is_named() -> None:
    with pytest.raises(SelectionError, match="the selector Mine returned NoneType"):
        check_selection(None, Mine(), 10)


def test_an_oracle_that_returns_nothing_is_named() -> None:
    oracle = SimpleNamespace(label=lambda frames: None)
    with pytest.raises(OracleError, match="returned NoneType; expected"):
        label_frame(oracle, np.zeros((5, 3)))


def test_a_reference_of_another_molecule_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros((50, 4, 3)))
    config = parse_config({**TINY, "evaluation": {"reference": ["other.npy"]}}, base=tmp_path)
    with pytest.raises(DataError, match="has 4 beads"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_priors_of_another_molecule_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "priors.yaml").write_text("rows: []")
    training = {**TINY["training"], "priors": {"file": "priors.yaml"}}
    config = parse_config({**TINY, "training": training}, base=tmp_path)
    with pytest.raises(CGALError, match=r"priors\.yaml"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "system": {"sequence": "GAG"},
                "training": {"priors": {"terms": ["bonds", "angles", "dihedrals", "repulsion"]}},
            },
            "no dihedrals, no repulsion",
        ),
        ({"training": {**TINY["training"], "torchmdnet": {"bogus": 1}}}, "bogus is not a TorchMD-Net key"),
    ],
)
def test_training_settings_that_cannot_work_are_refused_before_the_seed_data(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CGALError, match=message):
        run(parse_config({**TINY, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_seed_frames_for_the_force_map_are_refused_in_the_file() -> None:
    with pytest.raises(ConfigError, match="optimal needs 200 frames or more; this gives 160"):
        parse_config({"system": {"sequence": "GYG"}, "seed_data": {"picoseconds": 3.2}})


@pytest.mark.parametrize(
    ("simulation", "message"),
    [
        ({"platform": "OpenCL"}, "platform 'OpenCL' is not available; use one of Reference, CPU"),
        ({"backend": "pythontorch"}, "backend 'pythontorch'"),
    ],
)
def test_an_engine_that_is_not_there_is_refused_before_the_seed_data(
    simulation: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = openmm.Platform.getPlatformByName
    monkeypatch.setattr(
        openmm.Platform, "getPlatformByName", lambda name: there("none" if name == "OpenCL" else name)
    )
    config = {**TINY, "simulation": {**TINY["simulation"], **simulation}}
    with pytest.raises(ConfigError, match=message):
        run(parse_config(config, base=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run" / "seed").exists()


def test_the_fast_engine_on_a_gpu_is_refused_in_the_file() -> None:
    config = {**TINY, "simulation": {**TINY["simulation"], "platform": "CUDA", "backend": "fast"}}
    with pytest.raises(ConfigError, match="backend fast computes on the CPU"):
        parse_config(config)


@pytest.mark.parametrize("n_replicas", [0, "4", 2.0])
def test_a_sampler_with_no_number_of_replicas_is_named(n_replicas: Any) -> None:
    sampler = SimpleNamespace(sample=print, n_replicas=n_replicas)
    with pytest.raises(ConfigError, match="expected a whole number"):
        check_component("sampler", sampler)
