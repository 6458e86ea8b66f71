"""check_oracle accepts oracles that keep the contract and says what others do wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.protocols import Oracle
from cgal_plugin.data import LabelledFrames, Quarantined
from cgal_plugin.errors import OracleError
from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.testing import check_oracle

FRAMES = np.random.default_rng(0).normal(size=(4, 3, 3))


class Springs:
    """Exact forces of springs between neighbouring beads: a user's own oracle."""

    def label(self, frames: np.ndarray) -> LabelledFrames:
        good = np.flatnonzero(np.isfinite(frames).all(axis=(1, 2)))
        bonds = np.diff(frames[good], axis=1)
        pull = 10.0 * (1.0 - 3.8 / np.linalg.norm(bonds, axis=2, keepdims=True)) * bonds
        forces = np.zeros_like(frames[good])
        forces[:, :-1] += pull
        forces[:, 1:] -= pull
        bad = sorted(set(range(len(frames))) - set(good.tolist()))
        return LabelledFrames(
            frames[good],
            forces,
            good,
            np.zeros_like(good),
            np.zeros(len(good)),
            [Quarantined(i, "not finite") for i in bad],
            {"temperature": 300.0, "mode": "springs", "force_map_hash": "exact"},
        )


def test_oracles_that_keep_the_contract() -> None:
    assert isinstance(Springs(), Oracle)
    check_oracle(Springs(), FRAMES)


def test_the_openmm_oracle_keeps_it() -> None:
    oracle = OpenMMOracle("GAG", temperature=350.0, production_ps=0.2, relax_ps=0.2, methods=("library",))
    native = oracle.mapping.map_positions(oracle.native_positions())
    torn = native + np.array([[0.0, 0, 0], [0, 0, 0], [40, 0, 0]])
    check_oracle(oracle, np.stack([native, torn]))


class Noisy(Springs):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def label(self, frames: np.ndarray) -> LabelledFrames:
        labels = super().label(frames)
        return replace(labels, forces=labels.forces + self.rng.normal(size=labels.forces.shape))


class Raising(Springs):
    def label(self, frames: np.ndarray) -> LabelledFrames:
        if not np.isfinite(frames).all():
            raise OracleError("not finite")
        return super().label(frames)


class Losing(Springs):
    def label(self, frames: np.ndarray) -> LabelledFrames:
        return replace(super().label(frames), quarantined=())


class Changing(Springs):
    def label(self, frames: np.ndarray) -> LabelledFrames:
        frames -= frames.mean(axis=1, keepdims=True)
        return super().label(frames)


class Bare(Springs):
    def label(self, frames: np.ndarray) -> LabelledFrames:
        return replace(super().label(frames), metadata={"mode": "springs"})


class Offset(Springs):
    def label(self, frames: np.ndarray) -> LabelledFrames:
        labels = super().label(frames)
        return replace(labels, frame_index=labels.frame_index + 1)


@pytest.mark.parametrize(
    ("oracle", "match"),
    [
        (Noisy(), "depend on what else"),
        (Raising(), "must be quarantined"),
        (Losing(), "neither labelled nor quarantined"),
        (Changing(), "changed the frames"),
        (Bare(), "metadata lacks force_map_hash, temperature"),
        (Offset(), r"frame_index \[4\]"),
    ],
)
def test_what_breaks_the_contract_is_said(oracle: Any, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_oracle(oracle, FRAMES.copy())


def test_a_random_oracle_passes_when_that_is_allowed() -> None:
    check_oracle(Noisy(), FRAMES, deterministic=False)
