"""check_selector, check_sampler and check_trainer accept what runs in a loop, and name what breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cgal_plugin.components.protocols import Progress, SampledFrames, TrainedModel, Trainer, TrainRequest
from cgal_plugin.data import DataStore
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.mapping import CGTopology
from cgal_plugin.selector import RMSDSelector, Selection
from cgal_plugin.testing import check_sampler, check_selector, check_trainer
from tests.driver.stand_ins import TOPOLOGY, Untrained, made_store

START = np.random.default_rng(3).normal(size=(2, 5, 3))


# ---------------------------------------------------------------------- selector


class EveryTenth:
    """Decides on the number of frames itself, and does without a reference."""

    def fit(self, reference: NDArray[np.floating]) -> EveryTenth:
        return self

    def select(self, candidates: NDArray[np.floating]) -> Selection:
        indices = np.arange(0, len(candidates), 10)
        unknown = np.full(len(candidates), np.nan)
        return Selection(indices, unknown[indices], unknown)


def test_a_selector_without_abilities() -> None:
    check_selector(EveryTenth, np.zeros((30, 4, 3)), np.zeros((2, 4, 3)), n_select=None)


class Greedy(EveryTenth):
    """Takes more frames than it is asked for."""

    def __init__(self, n: int) -> None:
        self.n = n


class Forgetful(EveryTenth):
    """Remembers earlier references."""

    def __init__(self) -> None:
        self.calls = 0

    def fit(self, reference: NDArray[np.floating]) -> Forgetful:
        self.calls += 1
        return self

    def select(self, candidates: NDArray[np.floating]) -> Selection:
        return super().select(candidates[: 20 + 10 * self.calls])


class Returns(EveryTenth):
    """Its fit returns nothing."""

    def fit(self, reference: NDArray[np.floating]) -> Any:
        return None


class Ability(EveryTenth):
    """Chooses otherwise where distances are given."""

    def select_with(self, candidates: NDArray[np.floating], distances: NDArray[np.floating]) -> Selection:
        return self.select(candidates[:5])


@pytest.mark.parametrize(
    ("make", "n_select", "match"),
    [
        (Greedy, 2, "5 frames chosen; expected at most 2"),
        (Forgetful, None, "depends on an earlier reference"),
        (Returns, None, "does its fit return self"),
        (Ability, None, "select_with chose other frames"),
    ],
)
def test_a_selector_that_breaks_the_contract(make: Any, n_select: int | None, match: str) -> None:
    frames = np.random.default_rng(0).normal(size=(50, 4, 3))
    with pytest.raises(AssertionError, match=match):
        check_selector(make, frames, frames[:3], n_select=n_select)


def test_a_selector_that_uses_given_distances() -> None:
    class Farthest(EveryTenth):
        def fit(self, reference: NDArray[np.floating]) -> Farthest:
            self.own = RMSDSelector(1).fit(reference)
            return self

        def select(self, candidates: NDArray[np.floating]) -> Selection:
            return self.own.select(candidates)

        def select_with(self, candidates: NDArray[np.floating], distances: NDArray[np.floating]) -> Selection:
            first = np.array([np.argmax(distances)])
            return Selection(first, distances[first], distances)

    frames = np.random.default_rng(1).normal(size=(20, 4, 3))
    check_selector(Farthest, frames, frames[:3] + 0.1, n_select=None)


# ---------------------------------------------------------------------- sampler


class Noise:
    """Noise about the start frames."""

    def trajectories(self, start: NDArray[np.floating], seed: int) -> list[NDArray[np.floating]]:
        noise = np.random.default_rng(seed).normal(size=(len(start), 5, *start.shape[1:]))
        return list(start[:, None] + noise)

    def sample(
        self,
        potential: Path,
        topology: CGTopology,
        start_positions: NDArray[np.floating],
        *,
        temperature: float,
        seed: int,
        out_dir: Path,
        progress: Progress | None = None,
    ) -> SampledFrames:
        return SampledFrames(self.trajectories(start_positions, seed), self.events, 10)

    events: Any = (BlowUp(0, 3, "energy"), {"replica": 1, "step": 4, "kind": "bond", "detail": "long"})


class Unseeded(Noise):
    def trajectories(self, start: NDArray[np.floating], seed: int) -> list[NDArray[np.floating]]:
        return [t + np.random.default_rng().normal() for t in super().trajectories(start, seed)]


class Exploded(Noise):
    def trajectories(self, start: NDArray[np.floating], seed: int) -> list[NDArray[np.floating]]:
        return [np.append(t, t[:1] * np.inf, axis=0) for t in super().trajectories(start, seed)]


class Empty(Noise):
    def trajectories(self, start: NDArray[np.floating], seed: int) -> list[NDArray[np.floating]]:
        return [t[:0] for t in super().trajectories(start, seed)]


class Moves(Noise):
    def trajectories(self, start: NDArray[np.floating], seed: int) -> list[NDArray[np.floating]]:
        start += 1.0
        return super().trajectories(start, seed)


class Elsewhere(Noise):
    events = (BlowUp(7, 3, "energy"),)


class Unnamed(Noise):
    events = ({"replica": 1, "when": 4},)


class NoSeed:
    def sample(self, potential: Path, topology: CGTopology, start_positions: Any, *, out_dir: Path) -> None:
        """Takes too few arguments."""


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (Unseeded(), "the same seed gave other frames"),
        (Exploded(), "not finite"),
        (Empty(), "no trajectory has a frame"),
        (Moves(), "changed the start positions"),
        (Elsewhere(), r"events name replicas \[7\] of 2"),
        (Unnamed(), "events that are not blow-ups"),
        (NoSeed(), "unexpected keyword argument 'temperature'"),
    ],
)
def test_a_sampler_that_breaks_the_contract(sampler: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=match):
        check_sampler(sampler, tmp_path / "potential.pt", TOPOLOGY, START.copy(), tmp_path)


def test_a_sampler_that_keeps_the_contract(tmp_path: Path) -> None:
    check_sampler(Noise(), tmp_path / "potential.pt", TOPOLOGY, START, tmp_path)


# ---------------------------------------------------------------------- trainer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    return DataStore(made_store(tmp_path_factory.mktemp("trainer") / "store"))


def test_a_trainer_that_keeps_the_contract(store: DataStore, tmp_path: Path) -> None:
    assert isinstance(Untrained(), Trainer)
    check_trainer(Untrained(), store, tmp_path)


class NothingWritten(Untrained):
    def train(self, request: TrainRequest, progress: Any = None) -> TrainedModel:
        return TrainedModel(request.out_dir / "model.ckpt")


class WrongFolder(Untrained):
    def train(self, request: TrainRequest, progress: Any = None) -> TrainedModel:
        path = request.out_dir.parent / "model.ckpt"
        path.touch()
        return TrainedModel(path)


class NotExported(Untrained):
    def export(self, model: TrainedModel, topology: Any, path: Path, n_replicas: int) -> None:
        """Writes nothing."""


class Measured(Untrained):
    def train(self, request: TrainRequest, progress: Any = None) -> TrainedModel:
        return TrainedModel(super().train(request).checkpoint, metrics=[{"loss": np.zeros(3)}])


class Refinable(Untrained):
    def priors(self, train_folder: Path) -> Any:
        return None

    def with_priors(self, model: TrainedModel, priors: Any, path: Path) -> TrainedModel:
        return TrainedModel(path)


@pytest.mark.parametrize(
    ("trainer", "match"),
    [
        (NothingWritten(), "model.ckpt, which does not exist"),
        (WrongFolder(), "expected a file in"),
        (NotExported(), "did not write .*potential_x1.pt"),
        (Measured(), "metrics cannot be written as JSON"),
        (Refinable(), "with_priors did not write"),
    ],
)
def test_a_trainer_that_breaks_the_contract(
    trainer: Any, match: str, store: DataStore, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=match):
        check_trainer(trainer, store, tmp_path)
