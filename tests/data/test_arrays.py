"""Names in npz files decide what is read; coordinate and force files are paired by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.data import CGDataset, FrameFiles
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")
X = walks(6)
F = walks(6, seed=9)


@pytest.mark.parametrize(
    "arrays",
    [
        {"coords": X, "forces": F},
        {"F": F, "R": X, "z": np.arange(10)},
        {"Positions": X, "FORCES": F, "box": np.eye(3), "energy": np.zeros(6)},
        {"xyz": X, "velocities": F},
        {"coordinates": X, "gradient": F, "time": np.arange(6.0)},
        {"cg_coords": X, "cg_forces": F},
        {"coords": X, "cg_forces": F},
        {"forces_protein": F, "positions_protein": X},
    ],
    ids=lambda arrays: "-".join(arrays),
)
def test_forces_are_never_positions(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    for found in (load_trajectories(tmp_path / "t.npz", TOPOLOGY), load_trajectories(tmp_path / "t.npz")):
        assert len(found) == 1
        np.testing.assert_array_equal(found[0], X)
    np.testing.assert_array_equal(np.concatenate(list(FrameFiles(tmp_path / "t.npz"))), X)


def test_numbered_arrays_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("coords_{}", "replica{}"):
        np.savez(tmp_path / "t.npz", **{name.format(k): X + k for k in (10, 9, 2)})
        found = load_trajectories(tmp_path / "t.npz", TOPOLOGY)
        assert [round(float((t - X).mean())) for t in found] == [2, 9, 10]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X, "forces": F}, r"arrays a \(6, 10, 3\), forces .*none is named as positions: name .*coords"),
        ({"coords": X, "positions": F}, "several arrays named as positions: coords, positions"),
        ({"coords": X, "other": F}, r"coords and also other of the same shape"),
        ({"coords": X, "ref_coords": X}, r"coords and also ref_coords of the same shape"),
        ({"forces": F}, "none is named as positions"),
        ({"data": X, "energy": np.zeros(6)}, r"energy \(6,\); none is named as positions"),
        ({"a": X, "b": X[:, :7]}, "none is named as positions"),
        ({"arr_0": X, "arr_1": 100 * F}, r"array 'arr_1'.*impossible bonds"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_doubtful_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_trajectories(tmp_path / "t.npz", TOPOLOGY)


def test_upper_case_extensions(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
    np.savez(tmp_path / "b.npz", coords=X, forces=F)
    (tmp_path / "b.npz").rename(tmp_path / "B.Npz")
    for name in ("a.NPY", "B.Npz"):
        [found] = load_trajectories(tmp_path / name, TOPOLOGY)
        np.testing.assert_array_equal(found, X)
    assert sum(map(len, FrameFiles(tmp_path, TOPOLOGY))) == 12


def test_words_of_names_decide_as_well(tmp_path: Path) -> None:
    names = {"b_coords": X + 1, "a_coords": X, "a_forces": F, "b_forces": F + 1}
    np.savez(tmp_path / "t.npz", **names)
    assert [round(float((t - X).mean())) for t in load_trajectories(tmp_path / "t.npz", TOPOLOGY)] == [0, 1]
    found = dataset(tmp_path, "t.npz", "t.npz")
    np.testing.assert_allclose(
        found.frames - found.forces, np.concatenate([X, X]) - np.concatenate([F, F]), atol=1e-4
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"coords": X, "gradient": F}, "gradients are minus the forces; save -gradients as forces"),
        ({"coords_1": X, "coords_10": X, "forces_1": F, "forces_2": F}, "do not say which arrays"),
        ({"coords_0": X, "coords_1": X, "forces_1": F, "forces_2": F}, "do not say which arrays"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_doubtful_forces_of_a_file_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, "t.npz", "t.npz")


def dataset(folder: Path, coords: object, forces: object) -> CGDataset:
    return CGDataset(folder, coords=coords, forces=forces, topology=TOPOLOGY)


def save(folder: Path, names: list[str], frames: np.ndarray, numbers: list[int]) -> None:
    """Each file has frames that carry its number: a shift that the forces must have, too."""
    for name, number in zip(names, numbers, strict=True):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        np.save(folder / name, (frames + number).astype(np.float32))


@pytest.mark.parametrize(
    ("coords", "forces", "patterns"),
    [
        ("coords_{:03d}.npy", "forces_{}.npy", ("coords_*.npy", "forces_*.npy")),
        ("cln2_coords_{}.npy", "{:02d}_cln2_f.npy", ("cln2*.npy", "*_f.npy")),
        ("run{}/coords.npy", "run{}/forces.npy", ("run*/coords.npy", "run*/forces.npy")),
        ("c/{}.npy", "f/{:04d}.npy", ("c/*.npy", "f/*.npy")),
        ("x_T400_{}_pos.npy", "y_T400_{}_frc.npy", ("x_*.npy", "y_*.npy")),
    ],
)
def test_files_are_paired_by_number(
    tmp_path: Path, coords: str, forces: str, patterns: tuple[str, str]
) -> None:
    numbers = list(range(1, 12))
    folder = tmp_path / "set [1] ö"
    folder.mkdir()
    save(folder, [coords.format(k) for k in numbers], X, numbers)
    save(folder, [forces.format(k) for k in numbers], F, numbers)
    found = dataset(folder, *patterns)
    x, f = (np.tile(a, (11, 1, 1)) for a in (X, F))
    np.testing.assert_allclose(found.forces - f, found.frames - x, atol=1e-4)
    assert len(set(found.tables[0].sources)) == 11


@pytest.mark.parametrize(
    ("coords", "forces", "patterns", "message"),
    [
        (
            ["c_0", "c_1"],
            ["f_1", "f_2"],
            ("c_*.npy", "f_*.npy"),
            r"partner: c_0\.npy, f_2\.npy\); give pairs",
        ),
        (["a", "b"], ["p", "q"], ("[ab].npy", "[pq].npy"), "do not say which files belong together"),
        (
            ["c_1", "c_2"],
            ["f_1", "f_2"],
            (["c_2.npy", "c_1.npy"], ["f_1.npy", "f_2.npy"]),
            "different order",
        ),
        (["c_1", "c_2"], ["f_1", "f_2"], (["c_*.npy", "c_1.npy"], "f_*.npy"), "c_1.npy is given twice"),
        (
            ["c_1", "c_2", "c_3"],
            ["f_1", "f_2"],
            ("c_*.npy", "f_*.npy"),
            r"in pairs .*partner: c_3\.npy",
        ),
    ],
)
def test_doubtful_pairs_are_refused(
    tmp_path: Path, coords: list[str], forces: list[str], patterns: tuple[object, object], message: str
) -> None:
    save(tmp_path, [f"{name}.npy" for name in coords], X, list(range(len(coords))))
    save(tmp_path, [f"{name}.npy" for name in forces], F, list(range(len(forces))))
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, *patterns)


def test_listed_files_and_npz_files_pair(tmp_path: Path) -> None:
    save(tmp_path, ["b.npy", "a.npy"], X, [0, 1])
    save(tmp_path, ["p.npy", "q.npy"], F, [0, 1])
    found = dataset(tmp_path, ["b.npy", "a.npy"], ["p.npy", "q.npy"])
    np.testing.assert_allclose(found.forces[6:] - F, 1.0, atol=1e-5)
    np.savez(tmp_path / "both.npz", coords=X, forces=F)
    found = dataset(tmp_path, "both.npz", "both.npz")
    np.testing.assert_array_equal(found.frames, X)
    np.testing.assert_array_equal(found.forces, F)
