"""Small loops with the user's own system, real in every part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.components.build import build_components
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import CGALError
from cgal_plugin.provenance import read_json
from cgal_plugin.runs.cost import plan
from tests.driver.cheap import without_figures
from tests.driver.tiny import SMOKE
from tests.oracle.user_inputs import KINDS, Inputs, write_inputs

pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
#: few frames: basic force map
SHORT: dict[str, Any] = {
    **SMOKE,
    "seed_data": {
        **{"n_trajectories": 2, "picoseconds": 4.0, "equilibration_ps": 0.1, "save_ps": 0.02},
        **{"force_map": "basic", "start": "folded"},
    },
    "oracle": {
        "mode": "free",
        "production_ps": 0.2,
        "relax_ps": 0.1,
        "save_ps": 0.04,
        "backmap": ["library"],
    },
    "training": {**SMOKE["training"], "priors": {"terms": ["bonds"]}},
    "simulation": {"n_replicas": 4, "steps": 60, "timestep_fs": 2.0, "report_interval": 20},
    "selector": {"n_select": 2, "min_rmsd": 0.0, "max_rmsd": None},
}


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("dry"), solvated=False)


@pytest.fixture(scope="module")
def wet(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("wet"), solvated=True)


def configured(inputs: Inputs, kind: str, **changes: Any) -> dict[str, Any]:
    return {**SHORT, "system": {"temperature": 300.0, **inputs.section(kind)}, **changes}


def check_run(config: dict[str, Any], root: Path, kind: str) -> None:
    with without_figures():
        result = run(parse_config(config), root)
    assert result.potential.exists()
    store = DataStore(root / "data")
    labels = [n for n in store.names() if not n.startswith("seed")]
    assert labels
    metadata = store.record(labels[0])["metadata"]
    assert metadata["solvent"] == "files"
    assert metadata["force_field"].startswith(f"{kind}: ")
    read = read_json(root / "seed" / "structure.json")
    assert read["force field"][0].startswith(f"{kind}: ")
    assert "SHA-256" in read["files"][0]


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_with_each_kind(dry: Inputs, tmp_path: Path, kind: str) -> None:
    check_run(configured(dry, kind), tmp_path / "run", kind)


@pytest.mark.integration
def test_a_loop_in_the_solvent_of_the_files(wet: Inputs, tmp_path: Path) -> None:
    """Explicit water: the bead forces come from the whole system."""
    seeds = SHORT["seed_data"] | {"n_trajectories": 1, "picoseconds": 0.72, "save_ps": 0.012}
    training = SHORT["training"] | {"priors": {"terms": ["bonds"]}}
    oracle = SHORT["oracle"] | {"production_ps": 0.08, "relax_ps": 0.08}
    selector = SHORT["selector"] | {"n_select": 1}
    config = configured(wet, "amber", seed_data=seeds, oracle=oracle, training=training, selector=selector)
    check_run(config, tmp_path / "run", "amber")


@pytest.mark.integration
def test_the_plan_knows_the_size_and_the_time_step(wet: Inputs) -> None:
    config = parse_config(configured(wet, "system", seed_data={**SHORT["seed_data"], "picoseconds": 50.0}))
    built = build_components(config)
    size = built.molecule
    assert (size.n_residues, size.timestep_fs) == (3, 2.0)
    assert size.n_particles > 1000 > size.n_atoms
    assert f"{size.n_atoms} atoms" in plan(config, size)
    read = "\n".join(built.what_was_read)
    for words in ("force field: system: x.xml", "HOH", "box: 26.0 x 26.0 x 26.0", "time step 2 fs"):
        assert words in read


def test_a_store_needs_no_dynamics_of_the_own_system(dry: Inputs, tmp_path: Path) -> None:
    """With seed data from a store and an oracle of the user, only the topology is read."""
    from cgal_plugin.components.all_atom import user_system

    config = parse_config(configured(dry, "gromacs"))
    topology = user_system(config).mapping.topology
    DataStore.create(tmp_path / "store", topology, temperature=300.0, force_map_hash="", config_hash="")
    other = parse_config(
        configured(
            dry,
            "gromacs",
            seed_data={"store": str(tmp_path / "store")},
            oracle={"kind": "custom", "class": "tests.driver.stand_ins:Springs"},
        )
    )
    with pytest.raises(CGALError, match="has no frames"):  # and not that the structure cannot be read
        build_components(other)


def test_frames_are_backmapped_with_the_molecule_of_a_run(dry: Inputs, tmp_path: Path) -> None:
    import numpy as np
    import yaml

    from cgal_plugin.components.label_files import backmap_file
    from cgal_plugin.oracle.user_system import load_user_system

    kind = "gromacs"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(configured(dry, kind)))
    prepared = load_user_system(kind, dry.files(kind), None, dry.structure(kind))
    beads = prepared.mapping.map_positions(prepared.positions)
    np.save(tmp_path / "frames.npy", beads[None])
    said: list[str] = []
    results = backmap_file(tmp_path / "frames.npy", str(path), tmp_path / "out.pdb", message=said.append)
    assert [r.ok for r in results] == [True]
    assert any(line.startswith("force field: gromacs") for line in said)
    with pytest.raises(CGALError, match=r"mapping: .*run\.yaml has its own"):
        backmap_file(tmp_path / "frames.npy", str(path), tmp_path / "out.pdb", mapping="CACB")


def test_caps_and_bridges_are_kept(tmp_path: Path) -> None:
    """Two bridges and caps, written as a System: they are those of the molecule."""
    import openmm
    from openmm import app, unit

    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.oracle.user_system import load_user_system
    from tests.oracle import structures

    (tmp_path / "capped.pdb").write_text(structures.text(structures.capped("AYA", hydrogens=False)))
    bridged = Path(structures.__file__).parent / "data" / "two_bridges.pdb"
    for source in (tmp_path / "capped.pdb", bridged):
        usual = AllAtomModel.from_file(source)
        system = app.ForceField("amber14-all.xml").createSystem(usual.topology, constraints=app.HBonds)
        (tmp_path / "s.xml").write_text(openmm.XmlSerializer.serialize(system))
        with open(tmp_path / "s.pdb", "w", encoding="utf-8") as handle:
            app.PDBFile.writeFile(usual.topology, usual.positions / 10 * unit.nanometer, handle, keepIds=True)
        own = load_user_system("system", [tmp_path / "s.xml"], None, tmp_path / "s.pdb")
        assert own.mapping.topology == usual.cg_topology
        assert own.topology.getNumBonds() == usual.topology.getNumBonds()
        assert own.given.system.getNumConstraints() == len(usual.constraints)
