"""Imported trajectories in use: a run with labels, explicit solvent, several processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.build import build_components
from cgal_plugin.config import load_yaml
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError, OracleError
from cgal_plugin.exchange.trajectories import import_trajectories
from cgal_plugin.mapping import basic_force_map
from cgal_plugin.oracle import AllAtomModel
from cgal_plugin.oracle.recompute import frame_forces
from tests.driver import stand_ins
from tests.driver.cheap import without_figures
from tests.driver.tiny import SMOKE
from tests.exchange.all_atom import TEMPERATURE, config, simulated
from tests.exchange.test_trajectories import relative

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*left out of the CG topology"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulations, imported by two processes."""
    folder = tmp_path_factory.mktemp("imported")
    paths = [simulated(seed).write(folder / f"run{seed}") / "n.trr" for seed in (1, 2)]
    top = folder / "run1" / "top.pdb"
    import_trajectories(paths, folder / "store", topology=top, config=config(), workers=2)
    return folder / "store"


def test_processes_give_the_same_forces(store: Path, tmp_path: Path) -> None:
    paths = [store.parent / f"run{seed}" / "n.trr" for seed in (1, 2)]
    top = store.parent / "run1" / "top.pdb"
    import_trajectories(paths, tmp_path / "own", topology=top, config=config())
    one, two = DataStore(store).load_all(), DataStore(tmp_path / "own").load_all()
    assert np.array_equal(one.forces, two.forces)
    assert one.sources == ("n.trr", "n.trr")


def test_a_run_labels_with_the_map_and_the_library_of_the_store(store: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {k: v for k, v in SMOKE.items() if k not in ("system", "seed_data", "training")}
    settings = config(**changes, seed_data={"store": str(store)})
    given = stand_ins.cheap()
    oracle = build_components(settings, **given).make_oracle()
    assert len(oracle.library) == 450  # type: ignore[attr-defined]
    with without_figures():
        result = run(settings, tmp_path / "run", **given)
    data = DataStore(result.out_dir / "data")
    labels = [name for name in data.names() if name.startswith("r000")]
    assert labels
    assert {data.record(n)["metadata"]["force_map_hash"] for n in data.names()} == {data.force_map_hash}


def test_a_run_with_another_solvent_is_refused(store: Path) -> None:
    other = config(seed_data={"store": str(store)}, oracle={"solvent": "gbn2"})
    with pytest.raises(ConfigError, match=r"forces of solvent obc2; the system of this run has gbn2"):
        build_components(other)


def test_the_users_own_system_needs_no_topology(tmp_path: Path) -> None:
    """A serialised System: trajectories have its atoms, and a run from the store labels with it."""
    from openmm import XmlSerializer

    folder = simulated().write(tmp_path)
    model = AllAtomModel.from_sequence("AYA")
    (tmp_path / "system.xml").write_text(XmlSerializer.serialize(model.make_system()))
    own = {"kind": "system", "files": [str(tmp_path / "system.xml")]}
    system = {"sequence": None, "structure": str(folder / "top.pdb"), "force_field": own}
    settings = config(system=system)
    found = import_trajectories([folder / "f.trr"], tmp_path / "s", config=settings, stride=5)
    assert any("forces agree with those of the run's system" in line for line in found.lines)
    used = config(system=system, seed_data={"store": str(tmp_path / "s")})
    assert build_components(used, **stand_ins.cheap()).make_oracle() is not None
    with pytest.raises(ConfigError, match="a potential of mean force belongs to one system"):
        build_components(config(seed_data={"store": str(tmp_path / "s")}), **stand_ins.cheap())


def test_explicit_solvent_of_the_file_with_its_box(tmp_path: Path) -> None:
    """Water first, atoms wrapped one by one, a box that changes; forces of the file and computed ones "
    "agree."""
    import mdtraj
    from openmm import unit

    from tests.data.trr_files import write_trr

    model = AllAtomModel.from_sequence("AYA", solvent="tip3pfb")
    context = model.context(TEMPERATURE, system=model.make_system(barostat=TEMPERATURE))
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    x, f, boxes, whole_frames = [], [], [], []
    for _ in range(8):
        context.getIntegrator().step(25)
        state = context.getState(getPositions=True, getForces=True)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        xyz = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        whole_frames.append(xyz)
        x.append(xyz - np.floor((xyz + 0.3) @ np.linalg.inv(box)) @ box)
        f.append(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
        boxes.append(box)
    assert len({b[0, 0] for b in boxes}) > 1
    whole = mdtraj.Trajectory(np.array(x), mdtraj.Topology.from_openmm(model.topology))
    solute, water = np.arange(model.n_solute), np.arange(model.n_solute, len(model.positions))
    mixed = whole.atom_slice(water).stack(whole.atom_slice(solute))
    mixed.unitcell_vectors = np.array(boxes)
    mixed[0].save_gro(tmp_path / "top.gro")
    order = np.concatenate([water, solute])
    write_trr(tmp_path / "f.trr", np.array(x)[:, order], f=np.array(f)[:, order], box=np.array(boxes))
    mixed.save_xtc(tmp_path / "x.xtc")
    settings = config(oracle={"solvent": "tip3pfb"})
    settings, top = config(oracle={"solvent": "tip3pfb"}), tmp_path / "top.gro"
    found = import_trajectories([tmp_path / "f.trr"], tmp_path / "s", topology=top, config=settings)
    assert any("forces agree with those of the run's system: rms difference 0.00" in x for x in found.lines)
    given = found.store.load_all()
    mapping = model.mapping
    unwrapped = mapping.map_positions(np.array([w[: model.n_solute] for w in whole_frames]) * 10.0)
    bonds = np.linalg.norm(np.diff(given.positions, axis=1), axis=-1)
    assert np.allclose(bonds, np.linalg.norm(np.diff(unwrapped, axis=1), axis=-1), atol=1e-3)
    rounded = mdtraj.load(tmp_path / "x.xtc", top=top)
    cells = rounded.unitcell_vectors.astype(np.float64) * 10.0
    engine = frame_forces(model, rounded.topology, rounded.xyz[0] * 10.0, cells[0], what="x.xtc")
    forces, _ = engine(rounded.xyz * 10.0, cells)
    exact = np.array(f)[:, : model.n_solute] / 41.84
    mapped = basic_force_map(mapping, model.constraints)
    assert relative(mapped.map_forces(forces), mapped.map_forces(exact)) < 0.4
    # water belongs to the ensemble
    with pytest.raises(OracleError, match=r"waters, but oracle.solvent is obc2"):
        frame_forces(model.implicit, rounded.topology, rounded.xyz[0] * 10.0, cells[0], what="x.xtc")
    dry = rounded.atom_slice(range(len(water), len(order)))
    with pytest.raises(OracleError, match=r"no water, but oracle.solvent is tip3pfb"):
        frame_forces(model, dry.topology, dry.xyz[0] * 10.0, cells[0], what="dry.xtc")
    with pytest.raises(OracleError, match="no periodic box"):
        frame_forces(model, rounded.topology, rounded.xyz[0] * 10.0, None, what="x.pdb")


def test_the_example_makes_a_store_for_its_run(tmp_path: Path) -> None:
    """The commands of examples/own_data; its configuration names the store before it exists."""
    folder = tmp_path / "own_data"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs"))

    def call(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call(sys.executable, "make_trajectory.py", "runs", "--frames", "30")
    line = next(
        x for x in (folder / "README.md").read_text().splitlines() if x.startswith("cgal import-data")
    )
    said = call(sys.executable, "-m", "cgal_plugin.cli.main", *line.split()[1:])
    assert "30 of 30 frames, forces computed by the system of the run" in said
    assert "basic, because 60 frames are too few" in said
    build_components(load_yaml(folder / "run.yaml"))
