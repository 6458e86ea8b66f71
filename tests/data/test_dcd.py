"""Trajectory files: exact, readable by others, and able to be cut back."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.data.dcd import append_dcd, create_dcd
from cgal_plugin.dynamics import read_dcd
from cgal_plugin.errors import DynamicsError, StateError
from cgal_plugin.mapping import CGTopology

WHEN = {"interval": 10, "timestep_ps": 0.004}


@settings(deadline=None, max_examples=25)
@given(
    n_beads=st.integers(1, 7),
    blocks=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    cut=st.integers(0, 100),
    seed=st.integers(0, 1000),
)
def test_frames_appended_after_a_cut_are_those_of_one_writing(tmp_path_factory, n_beads, blocks, cut, seed):
    folder = tmp_path_factory.mktemp("dcd")
    frames = np.random.default_rng(seed).normal(scale=20, size=(sum(blocks), n_beads, 3)).astype(np.float32)
    create_dcd(folder / "once.dcd", n_beads, **WHEN)
    append_dcd(folder / "once.dcd", frames, n_before=0, **WHEN)
    create_dcd(folder / "blocks.dcd", n_beads, **WHEN)
    done = 0
    for n in blocks:
        append_dcd(folder / "blocks.dcd", frames[done : done + n], n_before=done, **WHEN)
        done += n
    assert np.array_equal(read_dcd(folder / "blocks.dcd"), frames)
    keep = min(cut, len(frames))
    append_dcd(folder / "blocks.dcd", frames[keep:], n_before=keep, **WHEN)
    assert (folder / "blocks.dcd").read_bytes() == (folder / "once.dcd").read_bytes()


def test_mdtraj_reads_the_same_frames(tmp_path):
    frames = np.random.default_rng(1).normal(scale=20, size=(5, 10, 3)).astype(np.float32)
    create_dcd(tmp_path / "a.dcd", 10, **WHEN)
    append_dcd(tmp_path / "a.dcd", frames, n_before=0, **WHEN)
    read = mdtraj.load(str(tmp_path / "a.dcd"), top=CGTopology.from_sequence("YYDPETGTWY").to_mdtraj())
    assert read.unitcell_lengths is None
    np.testing.assert_allclose(read.xyz * 10, frames, atol=1e-5)


def test_a_file_shorter_than_its_checkpoint_is_an_error(tmp_path):
    create_dcd(tmp_path / "a.dcd", 2, **WHEN)
    with pytest.raises(StateError, match=r"3 frames of 2 beads"):
        append_dcd(tmp_path / "a.dcd", np.zeros((1, 2, 3)), n_before=3, **WHEN)
    with pytest.raises(DynamicsError, match="ends before its frame 4"):
        read_dcd(tmp_path / "a.dcd", 4)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "b.dcd").write_bytes(b"something else")
    with pytest.raises(DynamicsError, match="not a trajectory of cgal_plugin"):
        read_dcd(tmp_path / "b.dcd")
    with pytest.raises(DynamicsError, match="does not exist"):
        read_dcd(tmp_path / "c.dcd")
