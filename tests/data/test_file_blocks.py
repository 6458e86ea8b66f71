"""Correlated blocks of trajectory files: by time, with gaps, without times."""

from __future__ import annotations

import numpy as np

from cgal_plugin.data.file_blocks import file_blocks


def test_few_files_are_cut_so_that_there_are_twenty_blocks() -> None:
    times, rows = np.arange(100) * 2.0, np.arange(100)
    one = file_blocks(times, rows, "a.xtc", 1, None)
    assert len(np.unique(one.block)) == 20
    assert (np.diff(one.block) >= 0).all()
    assert not one.segment.any()
    assert one.interval_ps == 2.0
    assert len(np.unique(file_blocks(times, rows, "a.xtc", 7, None).block)) == 3
    assert len(np.unique(file_blocks(times, rows, "a.xtc", 500, None).block)) == 1


def test_a_length_in_ps_is_followed() -> None:
    found = file_blocks(np.arange(100) * 2.0, np.arange(100), "a.xtc", 1, 50.0)
    assert np.unique(found.block, return_counts=True)[1].tolist() == [25] * 4


def test_single_precision_times_are_even() -> None:
    times = (1e6 + np.arange(200) * 0.1).astype(np.float32).astype(np.float64)
    assert not file_blocks(times, np.arange(200), "a.xtc", 1, None).segment.any()


def test_a_gap_in_time_ends_a_block_and_a_continuous_piece() -> None:
    times = np.concatenate([np.arange(10) * 1.0, 50 + np.arange(10) * 1.0, np.arange(5) * 1.0])
    found = file_blocks(times, np.arange(25), "a.xtc", 500, None)
    assert found.segment.tolist() == [0] * 10 + [1] * 10 + [2] * 5
    assert found.block.tolist() == found.segment.tolist()
    assert "3 continuous pieces" in found.notes[0]
    assert found.interval_ps == 1.0


def test_without_times_blocks_have_equal_numbers_of_frames() -> None:
    found = file_blocks(np.full(40, np.nan), np.arange(40) * 5, "a.dcd", 1, None)
    assert len(np.unique(found.block)) == 20
    assert found.interval_ps is None
    assert "no times" in found.notes[0]
    one = file_blocks(np.full(1, np.nan), np.zeros(1, dtype=int), "a.dcd", 1, None)
    assert one.block.tolist() == [0]
