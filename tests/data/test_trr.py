"""TRR files with forces: precision, missing sections, damage; compared with the writer of mdtraj."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mdtraj.formats import TRRTrajectoryFile

from cgal_plugin.data.trr import TRRFile
from cgal_plugin.errors import DataError
from tests.data.trr_files import trr_frame, write_trr

RNG = np.random.default_rng(1)
X, F = RNG.normal(size=(6, 5, 3)), RNG.normal(size=(6, 5, 3)) * 1000
BOX = np.tile(np.diag([3.0, 4.0, 5.0]), (6, 1, 1))


def test_a_file_of_mdtraj_is_read_with_its_forces(tmp_path: Path) -> None:
    path = tmp_path / "a.trr"
    x, f, box = (a.astype(np.float32) for a in (X, F, BOX))
    with TRRTrajectoryFile(str(path), "w") as handle:
        numbers = np.arange(6)
        times = (numbers * 0.5).astype(np.float32)
        handle._write(x, times, numbers.astype(np.int32), box, np.zeros(6, np.float32), forces=f)
    trr = TRRFile(path)
    assert len(trr) == 6
    assert trr.n_atoms == 5
    assert trr.has_forces.all()
    positions, boxes, forces = trr.read([1, 4])
    assert np.array_equal(positions, x[[1, 4]])
    assert np.array_equal(boxes, box[[1, 4]])
    assert forces is not None
    assert np.array_equal(forces, f[[1, 4]])
    assert np.array_equal(trr.times, times)


def test_double_precision_is_kept(tmp_path: Path) -> None:
    trr = TRRFile(write_trr(tmp_path / "d.trr", X, f=F, double=True))
    positions, boxes, forces = trr.read(range(6))
    assert positions.dtype == np.float64
    assert np.array_equal(positions, X)
    assert forces is not None
    assert np.array_equal(forces, F)
    assert not boxes.any()


def test_frames_without_positions_or_forces_are_known(tmp_path: Path) -> None:
    path = write_trr(tmp_path / "a.trr", X, f=F, box=BOX, without={0: "x", 2: "f", 3: "xf"})
    trr = TRRFile(path)
    assert trr.has_positions.tolist() == [False, True, True, False, True, True]
    assert trr.has_forces.tolist() == [True, True, False, False, True, True]
    assert np.allclose(trr.read([1, 5])[2], F[[1, 5]], rtol=1e-6)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no forces in frame 2"):
        trr.read([1, 2])


@pytest.mark.parametrize("missing", [10, 60, 90])
def test_an_incomplete_last_frame_does_not_count(tmp_path: Path, missing: int) -> None:
    path = write_trr(tmp_path / "a.trr", X, f=F)
    path.write_bytes(path.read_bytes()[:-missing])
    trr = TRRFile(path)
    assert (len(trr), trr.truncated) == (5, True)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.trr"
    path.write_bytes(b"no trajectory at all")
    with pytest.raises(DataError, match="not a TRR file"):
        TRRFile(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no complete frame"):
        TRRFile(path)
    path.write_bytes(trr_frame(0.0, 5, x=X[0]) + trr_frame(1.0, 4, x=X[0, :4]))
    with pytest.raises(DataError, match=r"5 atoms in its first frame and 4 in frame 1"):
        TRRFile(path)
    good = trr_frame(0.0, 5, x=X[0])
    path.write_bytes(good + good[:40] + b"\x7f" + good[41:])
    with pytest.raises(DataError, match="frame 1"):
        TRRFile(path)
    with pytest.raises(DataError, match="cannot be read"):
        TRRFile(tmp_path / "missing.trr")
