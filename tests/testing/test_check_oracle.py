"""check_oracle accepts oracles that keep the contract, and names what others break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cgal_plugin.components.protocols import Oracle
from cgal_plugin.data import LabelledFrames, Quarantined
from cgal_plugin.errors import OracleError
from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.testing import check_oracle

FRAMES = np.random.default_rng(0).normal(size=(4, 3, 3))
NOT_FINITE = np.full((2, 3, 3), np.nan)


class Springs:
    """Exact forces of springs between neighbouring beads."""

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        good = np.flatnonzero(np.isfinite(frames).all(axis=(1, 2)))
        bonds = np.diff(frames[good], axis=1)
        pull = 10.0 * (1.0 - 3.8 / np.linalg.norm(bonds, axis=2, keepdims=True)) * bonds
        forces = np.zeros_like(frames[good])
        forces[:, :-1] += pull
        forces[:, 1:] -= pull
        bad = sorted(set(range(len(frames))) - set(good.tolist()))
        refused = [Quarantined(i, "not finite") for i in bad]
        return LabelledFrames(frames[good], forces, good, np.zeros_like(good), np.zeros(len(good)), refused)


def test_an_oracle_that_keeps_the_contract() -> None:
    assert isinstance(Springs(), Oracle)
    check_oracle(Springs(), FRAMES, refused=NOT_FINITE)


def test_the_openmm_oracle_keeps_it() -> None:
    oracle = OpenMMOracle(
        "GAG",
        temperature=350.0,
        mode="free",
        production_ps=0.2,
        relax_ps=0.2,
        save_ps=0.04,
        methods=("library",),
    )
    native = oracle.mapping.map_positions(oracle.native_positions())
    torn = native + np.array([[0.0, 0, 0], [0, 0, 0], [40, 0, 0]])
    check_oracle(oracle, np.stack([native, native[::-1]]), refused=np.stack([torn, NOT_FINITE[0]]))


class Noisy(Springs):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        labels = super().label(frames)
        return replace(labels, forces=labels.forces + self.rng.normal(size=labels.forces.shape))


class Company(Springs):
    """Forces that depend on the batch."""

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        labels = super().label(frames)
        return replace(labels, forces=labels.forces - labels.forces.sum(axis=0))


class Raising(Springs):
    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        if not np.isfinite(frames).all():
            raise OracleError("not finite")
        return super().label(frames)


class Losing(Springs):
    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        labels = super().label(frames)
        kept = labels.frame_index != 1
        return LabelledFrames(
            labels.positions[kept],
            labels.forces[kept],
            labels.frame_index[kept],
            labels.start_index[kept],
            labels.force_error[kept],
        )


class Guessing(Springs):
    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        return super().label(np.nan_to_num(frames, nan=1.0) + np.arange(3)[:, None])


class Changing(Springs):
    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        frames -= frames.mean(axis=1, keepdims=True)
        return super().label(frames)


class Described(Springs):
    def __init__(self, **metadata: Any) -> None:
        self.metadata = metadata

    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        return replace(super().label(frames), metadata=self.metadata)


class Offset(Springs):
    def label(self, frames: NDArray[np.floating]) -> LabelledFrames:
        labels = super().label(frames)
        return replace(labels, frame_index=labels.frame_index + 1)


class Priced(Springs):
    def cost_estimate(self, n_frames: int) -> Mapping[str, float]:
        return {"oracle_ns": float("nan")}


class Silent:
    def label(self, frames: NDArray[np.floating]) -> None:
        return None


class Keyword:
    def label(self, *, frames: NDArray[np.floating]) -> LabelledFrames:
        return Springs().label(frames)


@pytest.mark.parametrize(
    ("oracle", "match"),
    [
        (Noisy(), "depend on what else"),
        (Company(), "depend on what else"),
        (Raising(), "must be quarantined"),
        (Losing(), "neither labelled nor quarantined"),
        (Guessing(), "were labelled, and should be quarantined"),
        (Changing(), "changed the frames"),
        (Described(temperature="warm"), "metadata.'temperature'. is 'warm'"),
        (Described(mode=FRAMES), "metadata cannot be written as JSON"),
        (Offset(), r"frame_index \[4\]"),
        (Priced(), "oracle_ns'. is nan"),
        (Silent(), "returned NoneType"),
        (Keyword(), r"which the loop calls as label\(frames\)"),
        (object(), "has no method label"),
    ],
)
def test_a_broken_contract_is_named(oracle: Any, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_oracle(oracle, FRAMES.copy(), refused=NOT_FINITE)


def test_a_random_oracle_passes_when_that_is_allowed() -> None:
    check_oracle(Noisy(), FRAMES, deterministic=False)


def test_frames_that_are_not_finite_are_no_part_of_the_contract() -> None:
    check_oracle(Raising(), FRAMES)


def test_metadata_of_a_run_is_accepted() -> None:
    metadata = {"temperature": 300, "mode": "springs", "force_map_hash": "exact", "ps_per_frame": 0.0}
    check_oracle(Described(**metadata), FRAMES)
