"""HDF5 trajectories of mdtraj are read without running what a file names."""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import numpy as np
import pytest
import tables
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.data.frame_files import FrameFiles
from cgal_plugin.data.mdtraj_files import count_atoms, count_frames, iterate_mdtraj, load_mdtraj
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.errors import CGALError, DataError, MappingError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.files import load_structure

SEQUENCE = "GYGAG"


class Runs:
    """Pickled, an object whose reading creates ``mark`` and gives the text ``nanometers``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return eval, (f"__import__('pathlib').Path({str(self.mark)!r}).touch() or 'nanometers'",)


def _title(file: Any, runs: Runs) -> None:
    file.root._v_attrs.title = runs


def _foreign(file: Any, runs: Runs) -> None:
    file.root.coordinates.attrs.anything = runs


def _units(file: Any, runs: Runs) -> None:
    file.root.coordinates.attrs.units = runs


def _filters(file: Any, runs: Runs) -> None:
    name = file.filename
    file.close()
    with h5py.File(name, "a") as bare:  # read when PyTables opens the file
        bare.attrs["FILTERS"] = np.bytes_(pickle.dumps(runs, 0))


def _topology(file: Any, runs: Runs) -> None:
    text = file.root.topology[0]
    file.remove_node("/", "topology")
    array = file.create_vlarray("/", "topology", tables.ObjectAtom())
    array.append(runs)
    array.append(text)


def _time(file: Any, runs: Runs) -> None:
    file.root.time.attrs.units = runs


ATTACKS: list[Callable[[Any, Runs], None]] = [_title, _foreign, _units, _filters, _topology, _time]


@pytest.fixture
def trajectory() -> mdtraj.Trajectory:
    topology = CGTopology.from_sequence(SEQUENCE)
    rng = np.random.default_rng(3)
    line = np.cumsum(np.tile([3.8, 0.0, 0.0], (topology.n_beads, 1)), axis=0)
    xyz = (line + rng.normal(0, 0.2, (7, *line.shape))) / 10
    return mdtraj.Trajectory(
        xyz.astype(np.float32),
        topology.to_mdtraj(),
        time=np.arange(7) * 2.5,
        unitcell_lengths=np.full((7, 3), 9.0),
        unitcell_angles=np.full((7, 3), 90.0),
    )


def _attacked(
    trajectory: mdtraj.Trajectory, path: Path, attack: Callable[[Any, Runs], None], mark: Path
) -> None:
    trajectory.save_hdf5(str(path))
    with tables.open_file(str(path), "a") as file:
        attack(file, Runs(mark))
    mark.unlink(missing_ok=True)  # PyTables reads attributes that it writes


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_in_a_file_does_not_run(
    trajectory: mdtraj.Trajectory, tmp_path: Path, attack: Callable[[Any, Runs], None]
) -> None:
    path, mark, topology = tmp_path / "t.h5", tmp_path / "mark", CGTopology.from_sequence(SEQUENCE)
    _attacked(trajectory, path, attack, mark)
    np.save(tmp_path / "ours.npy", trajectory.xyz * 10)
    command = ["evaluate", "-m", str(tmp_path / "ours.npy"), "--topology", SEQUENCE]
    readers: list[Callable[[], Any]] = [
        lambda: load_trajectories(path, topology),
        lambda: list(FrameFiles(path, topology)),
        lambda: load_structure(path),
        lambda: count_frames(path, None),
        lambda: count_atoms(path),
        lambda: CGTopology.from_file(path),
        lambda: CliRunner().invoke(app, [*command, "-r", str(path)]),
    ]
    for read in readers:
        with contextlib.suppress(CGALError):  # where the file lacks its units or its topology
            read()
        assert not mark.exists(), read


@pytest.mark.parametrize("attack", [_title, _foreign, _filters])
def test_coordinates_beside_a_pickle_are_read(
    trajectory: mdtraj.Trajectory, tmp_path: Path, attack: Callable[[Any, Runs], None]
) -> None:
    path = tmp_path / "t.h5"
    _attacked(trajectory, path, attack, tmp_path / "mark")
    (frames,) = load_trajectories(path, CGTopology.from_sequence(SEQUENCE))
    np.testing.assert_allclose(frames, trajectory.xyz * 10, atol=1e-5)


def test_as_mdtraj_reads_it(trajectory: mdtraj.Trajectory, tmp_path: Path) -> None:
    path = tmp_path / "a name with ü.H5"
    trajectory.save_hdf5(str(tmp_path / "t.h5"))
    (tmp_path / "t.h5").rename(path)
    whole = load_mdtraj(path, None)
    assert whole.topology == trajectory.topology
    for name in ("xyz", "time", "unitcell_lengths", "unitcell_angles"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(trajectory, name))
    pieces = list(iterate_mdtraj(path, None, 3, skip=1))
    assert [len(p) for p in pieces] == [3, 3]
    np.testing.assert_array_equal(np.concatenate([p.xyz for p in pieces]), trajectory.xyz[1:])
    assert count_frames(path, None) == 7
    assert load_structure(path).n_frames == 1


def test_all_atom_with_bonds(tmp_path: Path) -> None:
    from cgal_plugin.oracle import AllAtomModel

    atoms = AllAtomModel.create("GYG", "CA")
    made = mdtraj.Trajectory(np.array(atoms.positions)[None] / 10, atoms.mdtraj_topology)
    made.save_hdf5(str(tmp_path / "atoms.h5"))
    found = load_mdtraj(tmp_path / "atoms.h5", None)
    assert found.topology == made.topology
    assert {tuple(sorted((a.index, b.index))) for a, b in found.topology.bonds} == {
        tuple(sorted((a.index, b.index))) for a, b in made.topology.bonds
    }
    assert found.unitcell_lengths is None


def test_units_are_converted(trajectory: mdtraj.Trajectory, tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    trajectory.save_hdf5(str(path))
    with h5py.File(path, "a") as file:
        file["coordinates"][...] *= 10
        file["coordinates"].attrs["units"] = "angstroms"
        file["time"].attrs["units"] = np.bytes_("femtoseconds")
    found = load_mdtraj(path, None)
    np.testing.assert_allclose(found.xyz, trajectory.xyz, rtol=1e-6)
    np.testing.assert_allclose(found.time, trajectory.time / 1000)


def _linked(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["coordinates"]
        file["coordinates"] = h5py.ExternalLink(str(other), "/coordinates")


def _outside(path: Path, other: Path) -> None:
    other.write_bytes(b"\0" * (7 * 5 * 3 * 4))
    with h5py.File(path, "a") as file:
        del file["coordinates"]
        data = file.create_dataset("coordinates", (7, 5, 3), "<f4", external=[(str(other), 0, 420)])
        data.attrs["units"] = "nanometers"


def _no_units(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["coordinates"].attrs["units"]


def _unknown_units(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        file["coordinates"].attrs["units"] = "furlongs"


def _bond(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        text = file["topology"][0].replace(b'"bonds": [[0, 1]', b'"bonds": [[0, 99]')
        del file["topology"]
        file["topology"] = np.array([text])


def _no_topology(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["topology"]


def _few_times(path: Path, other: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["time"]
        file["time"] = np.zeros(3)
        file["time"].attrs["units"] = "ps"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_linked, "coordinates is a link"),
        (_outside, "in another file"),
        (_no_units, "units 'None'"),
        (_unknown_units, "'furlongs'; expected one of nanometer"),
        (_bond, "0 and 99"),
        (_no_topology, "no dataset 'topology'"),
        (_few_times, "time has shape"),
    ],
)
def test_another_layout_is_refused(
    trajectory: mdtraj.Trajectory, tmp_path: Path, harm: Callable[[Path, Path], None], message: str
) -> None:
    path, other = tmp_path / "t.h5", tmp_path / "other.h5"
    trajectory.save_hdf5(str(path))
    trajectory.save_hdf5(str(other))
    harm(path, other)
    with pytest.raises(DataError, match=message):
        load_trajectories(path)
    with pytest.raises(MappingError, match=message):
        load_structure(path)


def test_lh5_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "FILE.lh5"
    with tables.open_file(str(path), "w") as file:
        file.create_carray("/", "XYZList", obj=np.arange(45, dtype=np.int16).reshape(3, 5, 3))
        for name, values in {
            "AtomID": np.arange(5),
            "AtomNames": np.array(["CA"] * 5, dtype="S4"),
            "ChainID": np.array([""] * 5, dtype="S1"),
            "ResidueID": np.arange(5),
            "ResidueNames": np.array(["GLY"] * 5, dtype="S4"),
        }.items():
            file.create_array("/", name, obj=values)
    for read in (load_trajectories, load_structure):
        with pytest.raises((DataError, MappingError)) as error:
            read(path)
        found = re.search(r"(mdconvert) (FILE.lh5 -o FILE.h5)$", str(error.value).strip())
        assert found, error.value
    program = Path(sys.executable).parent / found[1]
    subprocess.run([program, *found[2].split()], cwd=tmp_path, check=True, capture_output=True)
    (frames,) = load_trajectories(tmp_path / "FILE.h5")
    np.testing.assert_allclose(frames, np.arange(45).reshape(3, 5, 3) / 100, atol=1e-6)


def test_the_working_directory_is_not_searched_for_modules(
    trajectory: mdtraj.Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trajectory.save_hdf5(str(tmp_path / "t.h5"))
    for name in ("h5py", "mdtraj", "numpy"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w').close()")
    monkeypatch.chdir(tmp_path)
    assert len(load_mdtraj(Path("t.h5"), None)) == 7
    assert not (tmp_path / "mark").exists()
