"""Oracle work on files: backmapping over processes, labels with their quarantine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.components.label_files import backmap_frames, label_file
from cgal_plugin.data import DataStore
from cgal_plugin.errors import CGALWarning
from cgal_plugin.oracle import AllAtomModel


@pytest.fixture(scope="module")
def model() -> AllAtomModel:
    return AllAtomModel.create("AGA", "CA")


def test_backmapping_is_the_same_over_processes(model: AllAtomModel) -> None:
    own = model.mapping.map_positions(np.array(model.positions)[None])[0]
    frames = own + np.random.default_rng(0).normal(scale=0.05, size=(3, 3, 3))
    one, two = (backmap_frames(frames, model, seed=4, workers=workers) for workers in (0, 2))
    assert [r.ok for r in one] == [True] * 3
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_frames_of_a_file_that_fail_have_records_and_are_tried_again(
    model: AllAtomModel, tmp_path: Path
) -> None:
    own = model.mapping.map_positions(np.array(model.positions)[None])[0]
    np.save(tmp_path / "frames.npy", np.stack([own, 0.01 * own, own]))
    options = {"temperature": 400.0, "mode": "free", "production_ps": 0.2, "methods": ("library",)}
    for _ in range(2):
        with pytest.warns(
            CGALWarning, match=r"1 of 3 frames have impossible bonds \(first: frame 1, bond CA_ALA1"
        ):
            done, failed = label_file(tmp_path / "frames.npy", "AGA", tmp_path / "out", workers=1, **options)
        assert done == 2  # the same frame twice
        assert [i for i, _ in failed] == [1]
        [record] = (tmp_path / "out" / "quarantine").iterdir()
        content = json.loads(record.read_text())
        assert content["inputs"]["row"] == 1
        np.testing.assert_allclose(content["inputs"]["positions_angstrom"], 0.01 * own, rtol=1e-6)
    assert len(DataStore(tmp_path / "out").names()) == 1
