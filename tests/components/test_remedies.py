"""Damaged files outside a run: they are made again by the same command, or the printed remedy works."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.build import build_components
from cgal_plugin.components.label_files import label_file
from cgal_plugin.components.seed_store import seed_store
from cgal_plugin.config import Config, parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import CGALError, CGALWarning, ConfigError, DataError
from cgal_plugin.oracle import AllAtomModel
from cgal_plugin.provenance import hash_file, read_sealed, write_sealed
from tests.damage import cut, empty, flip
from tests.driver import stand_ins
from tests.driver.cheap import cheap_run, without_figures

HARMS = {"flipped": flip, "truncated": cut, "emptied": empty, "deleted": Path.unlink}


def _config(**changes: Any) -> Config:
    data = {"n_trajectories": 1, "picoseconds": 0.4, "equilibration_ps": 0.1, "force_map": "basic"}
    system = {"sequence": "GYG", "temperature": 400.0}
    return parse_config({"system": system, "seed_data": data, "executor": {"workers": 0}, **changes})


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `cgal seed`."""
    root = tmp_path_factory.mktemp("seeds") / "store"
    seed_store(_config(), root)
    return root


def _content(root: Path) -> dict[str, str]:
    """SHA-256 of the files; of the start structure without what this call put aside."""
    paths = [p for p in root.rglob("*") if p.is_file() and "damaged" not in p.parts and p.name != ".lock"]
    return {p.relative_to(root).as_posix(): hash_file(p) for p in sorted(paths)}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(0, id="some"),
        *(pytest.param(n, marks=pytest.mark.integration, id=h) for n, h in enumerate(HARMS)),
    ],
)
def test_the_files_of_seed_data_are_made_again(
    first: int, request: pytest.FixtureRequest, seeds: Path, tmp_path: Path
) -> None:
    """Nothing damaged is taken over, also where no manifest has its checksum."""
    expected = _content(seeds)
    names = [n for n in expected if n != "seed/settings.json"]
    assert {Path(n).name for n in names} > {"native.pdb", "library.npz", "force_map.npz", "structure.json"}
    some = request.node.callspec.id == "some"
    for number, name in enumerate(names):
        harm = "flipped" if some else list(HARMS)[(first + number) % len(HARMS)]
        if some and name not in ("seed/native.pdb", "seed/library.npz", "force_map.npz"):
            continue
        root = tmp_path / name.replace("/", "_")
        shutil.copytree(seeds, root)
        HARMS[harm](root / name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seed_store(_config(), root)
        assert _content(root).keys() == expected.keys(), name
        same = {k for k, v in _content(root).items() if v == expected[k]}
        assert set(expected) - same <= {"store.json", "seed/library.npz"} | {
            n for n in names if "shards" in n
        }
        assert DataStore(root).digest(["seed_000"]) == DataStore(seeds).digest(["seed_000"])
        told = [str(w.message) for w in caught if issubclass(w.category, CGALWarning)]
        quiet = harm == "deleted" or name.endswith(
            "structure.json"
        )  # what was read is known without the file
        assert quiet or any(Path(name).name.split(".")[0] in text and "again" in text for text in told), name


def test_damaged_settings_of_seed_data_are_named_and_the_remedy_works(seeds: Path, tmp_path: Path) -> None:
    for number, harm in enumerate((flip, lambda path: path.write_text("[]"))):
        root = tmp_path / str(number)
        shutil.copytree(seeds, root)
        harm(root / "seed" / "settings.json")
        with pytest.raises(CGALError, match=r"settings\.json is damaged") as error:
            seed_store(_config(), root)
        deleted = re.search(r"delete (\S+) and repeat the command", str(error.value))
        assert deleted is not None
        Path(deleted[1]).unlink()
        seed_store(_config(), root)
        assert _content(root) == _content(seeds)


# ---------------------------------------------------------------------- stores that others use


@pytest.mark.parametrize(
    "name",
    [
        "seed/library.npz",
        pytest.param("force_map.npz", marks=pytest.mark.integration),
        pytest.param("store.json", marks=pytest.mark.integration),
    ],
)
def test_a_run_names_a_damaged_file_of_its_seed_store(name: str, seeds: Path, tmp_path: Path) -> None:
    shutil.copytree(seeds, tmp_path / "store")
    flip(tmp_path / "store" / name)
    config = _config(seed_data={"store": str(tmp_path / "store")})
    with pytest.raises((ConfigError, DataError), match="Repeat the command that wrote this store") as error:
        build_components(config)
    assert str(tmp_path / "store" / name) in str(error.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_store(_config(), tmp_path / "store")  # the remedy
    build_components(config)
    if "library" in name:  # and the other one
        flip(tmp_path / "store" / name)
        assert f"delete {tmp_path / 'store' / name} to backmap without" in str(error.value)
        (tmp_path / "store" / name).unlink()
        build_components(config)


def _label(folder: Path, out: Path) -> tuple[int, list[tuple[int, str]]]:
    model = AllAtomModel.create("GYG", "CA")
    np.save(folder / "frames.npy", model.mapping.map_positions(np.array(model.positions)[None]))
    options = {"temperature": 400.0, "production_ps": 0.2, "relax_ps": 0.1, "methods": ("library",)}
    return label_file(folder / "frames.npy", "GYG", out, workers=0, **options)


def test_a_damaged_force_map_of_labels_is_written_again(tmp_path: Path) -> None:
    _label(tmp_path, tmp_path / "out")
    before = hash_file(tmp_path / "out" / "force_map.npz")
    flip(tmp_path / "out" / "force_map.npz")
    with pytest.warns(CGALWarning, match=r"force_map\.npz.*and written again"):
        assert _label(tmp_path, tmp_path / "out")[0] == 1
    assert hash_file(tmp_path / "out" / "force_map.npz") == before


def test_labels_are_not_added_with_another_map_than_the_damaged_one(seeds: Path, tmp_path: Path) -> None:
    """Of a store whose map the oracle does not know."""
    shutil.copytree(seeds, tmp_path / "store")
    path = tmp_path / "store" / "store.json"
    content = read_sealed(path)
    write_sealed(path, {**content, "force_map_hash": "of another map"})
    flip(tmp_path / "store" / "force_map.npz")
    with pytest.raises(DataError, match=r"force_map\.npz.*restore the file from a copy"):
        _label(tmp_path, tmp_path / "store")


# ---------------------------------------------------------------------- manifests that are made again


def test_a_manifest_that_is_made_again_lists_seed_shards_only(tmp_path: Path) -> None:
    config = stand_ins.config(tmp_path)
    with without_figures():
        cheap_run(tmp_path / "run", config)
        for stage in ("seed", "priors"):
            before = read_sealed(tmp_path / "run" / stage / "manifest.json")
            (tmp_path / "run" / stage / "manifest.json").unlink()
            cheap_run(tmp_path / "run", config)
            after = read_sealed(tmp_path / "run" / stage / "manifest.json")
            assert (after["inputs"], after["results"]) == (before["inputs"], before["results"]), stage


@pytest.mark.integration
def test_a_paused_run_takes_over_no_damaged_seed_file(tmp_path: Path) -> None:
    """Killed before the seed stage had its manifest, and damaged meanwhile."""
    config = _config(stopping={"rounds": 1})
    parts = stand_ins.cheap()
    with without_figures(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(config, tmp_path / "run", **parts)
        expected = read_sealed(tmp_path / "run" / "seed" / "manifest.json")["outputs"]
        (tmp_path / "run" / "seed" / "manifest.json").unlink()
        flip(tmp_path / "run" / "seed" / "native.pdb")
        run(config, tmp_path / "run", **parts)
    assert read_sealed(tmp_path / "run" / "seed" / "manifest.json")["outputs"] == expected
