"""All-atom trajectories become a data store: forces of files or computed, names, units, blocks, resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest

from cgal_plugin.components import build
from cgal_plugin.config import Config
from cgal_plugin.data import StoredFrames
from cgal_plugin.errors import CGALError, CGALWarning, ConfigError, DataError, MappingError, StateError
from cgal_plugin.exchange import trajectories as importing
from cgal_plugin.exchange import trajectory_pieces
from cgal_plugin.exchange.trajectories import import_trajectories
from cgal_plugin.mapping import ForceMap
from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
from cgal_plugin.oracle.contexts import set_positions
from cgal_plugin.provenance import hash_file, read_json, write_json
from tests.data.trr_files import write_trr
from tests.exchange.all_atom import KJ_NM, TEMPERATURE, Simulation, config, simulated

pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the CG topology")


_ORACLES: dict[str, OpenMMOracle] = {}


@pytest.fixture(autouse=True)
def one_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the model of each configuration once; it takes most of the time of an import of few frames."""

    def cached(settings: Config) -> OpenMMOracle:
        if settings.hash not in _ORACLES:
            _ORACLES[settings.hash] = build.openmm_oracle(settings)
        return _ORACLES[settings.hash]

    monkeypatch.setattr(importing, "openmm_oracle", cached)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated().write(tmp_path_factory.mktemp("all_atom"))


def imported(files: Path, out: Path, *names: str, **options: Any) -> StoredFrames:
    own: dict[str, Any] = {"topology": files / "top.pdb"} | options
    if "config" not in own and "temperature" not in own:
        own["config"] = config()
    return import_trajectories([files / n for n in names], out, **own).store.load_all()


def relative(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(np.square(b))))


def test_forces_of_a_file_and_computed_ones_agree(files: Path, tmp_path: Path) -> None:
    given = imported(files, tmp_path / "f", "f.trr")
    computed = imported(files, tmp_path / "n", "n.trr")
    assert np.array_equal(given.positions, computed.positions)
    assert relative(computed.forces, given.forces) < 1e-4
    assert np.abs(computed.forces - given.forces).max() < 1e-3 * np.sqrt(np.mean(given.forces**2))
    assert len(np.unique(given.block)) == 20


def test_an_xtc_gives_the_forces_of_its_rounded_coordinates(files: Path, tmp_path: Path) -> None:
    given = imported(files, tmp_path / "f", "f.trr")
    found = imported(files, tmp_path / "x", "x.xtc")
    assert np.abs(found.positions - given.positions).max() < 0.01
    rounded = mdtraj.load(files / "x.xtc", top=files / "top.pdb").xyz * 10.0
    model = AllAtomModel.from_sequence("AYA")
    context, forces = model.context(300.0, platform="Reference"), []
    for frame in rounded[::25]:
        set_positions(context, frame)
        force = context.getState(getForces=True).getForces(asNumpy=True)._value
        forces.append(np.array(force) / KJ_NM)
    mapped = ForceMap.load(tmp_path / "x" / "force_map.npz").map_forces(np.array(forces))
    assert relative(found.forces[::25], mapped) < 1e-4
    # the noise of rounding: a test that the two files differ at all, and by how much at most
    assert 0.001 < relative(found.forces, given.forces) < 0.5


def shuffled(simulation: Simulation, folder: Path) -> Path:
    """Write the same simulation with GROMACS names, hydrogens last in each residue, in one chain."""
    names = {"HB2": "HB1", "HB3": "HB2", "HA2": "HA1", "H": "H1", "OXT": "OT2", "O": "OT1"}
    top, order = mdtraj.Topology(), []
    chain = top.add_chain()
    last = simulation.topology.n_residues - 1
    for residue in simulation.topology.residues:
        new = top.add_residue(residue.name, chain, resSeq=residue.resSeq)
        atoms = sorted(residue.atoms, key=lambda a: (a.element.symbol == "H", a.name == "N"))
        for atom in atoms:
            terminal = atom.name in ("O", "OXT", "H")
            name = atom.name if terminal and residue.index != last else names.get(atom.name, atom.name)
            top.add_atom(name, atom.element, new)
            order.append(atom.index)
    folder.mkdir()
    mdtraj.Trajectory(simulation.x[:1][:, order], top).save_gro(folder / "top.gro")
    write_trr(folder / "f.trr", simulation.x[:, order], f=simulation.f[:, order], times=simulation.times)
    return folder


def test_atoms_are_matched_by_name(files: Path, tmp_path: Path) -> None:
    given = imported(files, tmp_path / "f", "f.trr")
    other = shuffled(simulated(), tmp_path / "gmx")
    found = imported(other, tmp_path / "s", "f.trr", topology=other / "top.gro")
    assert np.array_equal(found.positions, given.positions)
    assert relative(found.forces, given.forces) < 1e-6
    again = imported(other, tmp_path / "r", "f.trr", topology=other / "top.gro", recompute=True)
    assert relative(again.forces, given.forces) < 1e-4


def test_files_with_and_without_forces_go_together(files: Path, tmp_path: Path) -> None:
    sim = simulated()
    half = len(sim.x) // 2
    write_trr(tmp_path / "a.trr", sim.x[:half], f=sim.f[:half], times=sim.times[:half])
    sim.trajectory()[half:].save_dcd(str(tmp_path / "b.dcd"))
    shutil.copy(files / "top.pdb", tmp_path)
    given = imported(files, tmp_path / "f", "f.trr")
    found = imported(tmp_path, tmp_path / "s", "a.trr", "b.dcd")
    assert np.allclose(found.positions, given.positions, atol=1e-4)
    assert relative(found.forces, given.forces) < 1e-3
    assert found.sources == ("a.trr", "b.dcd")
    assert set(np.bincount(found.block).tolist()) <= {11, 12}  # ten blocks in each
    rows = read_json(tmp_path / "s" / "import.json")["trajectories"]
    assert [row["forces"] for row in rows] == [str(tmp_path / "a.trr"), "computed"]


def test_without_a_configuration_forces_of_files_are_enough(files: Path, tmp_path: Path) -> None:
    given = imported(files, tmp_path / "f", "f.trr")
    found = imported(files, tmp_path / "o", "f.trr", temperature=TEMPERATURE)
    assert np.array_equal(found.positions, given.positions)
    assert relative(found.forces, given.forces) < 1e-6
    record = read_json(tmp_path / "o" / "import.json")
    assert record["trajectories"][0]["sha256"] == hash_file(files / "f.trr")
    assert record["temperature"] == TEMPERATURE
    assert any("assumed to be constrained" in line for line in record["lines"])


@pytest.mark.parametrize(("unit", "factor"), [("kJ/mol/nm", 1.0), ("kcal/mol/angstrom", 1 / KJ_NM)])
def test_forces_come_from_a_second_array(files: Path, tmp_path: Path, unit: str, factor: float) -> None:
    np.save(tmp_path / "f1.npy", simulated().f * factor)
    given = imported(files, tmp_path / "f", "f.trr")
    options: dict[str, Any] = {"forces": [tmp_path / "f1.npy"], "force_unit": unit}
    found = imported(files, tmp_path / "a", "n.trr", **options)
    assert relative(found.forces, given.forces) < 1e-5
    assert (
        imported(files, tmp_path / "s", "n.trr", stride=4, force_map="basic", **options).forces.shape[0] == 57
    )


def test_every_frame_of_a_stride_is_the_right_one(files: Path, tmp_path: Path) -> None:
    given = imported(files, tmp_path / "f", "f.trr", force_map="basic")
    found = imported(files, tmp_path / "s", "x.xtc", stride=10, force_map="basic")
    assert np.abs(found.positions - given.positions[::10]).max() < 0.01


def test_forces_in_another_order_than_their_files_are_refused(files: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write_trr(tmp_path / f"run{number}.trr", simulated().x[number::2])
        np.save(tmp_path / f"run{number}_forces.npy", simulated().f[number::2])
    paths = [tmp_path / "run1.trr", tmp_path / "run2.trr"]
    swapped = [tmp_path / "run2_forces.npy", tmp_path / "run1_forces.npy"]
    options: dict[str, Any] = {"topology": files / "top.pdb", "temperature": 400.0, "force_unit": "kJ/mol/nm"}
    with pytest.raises(DataError, match=r"run1.trr would belong to run2_forces.npy by order"):
        import_trajectories(paths, tmp_path / "s", forces=swapped, **options)
    found = import_trajectories(paths, tmp_path / "s", forces=swapped[::-1], **options)
    assert found.n_frames == 224


@pytest.mark.filterwarnings("ignore:.*netCDF4")
@pytest.mark.parametrize("name", ["x.dcd", "x.nc", "x.pdb", "ä.XTC"])
def test_other_formats_and_names(files: Path, tmp_path: Path, name: str) -> None:
    made = tmp_path / name.lower().replace("ä", "a")
    simulated().trajectory()[:40].save(str(made))
    shutil.move(made, tmp_path / name)
    shutil.copy(files / "top.pdb", tmp_path)
    found = imported(tmp_path, tmp_path / "s", name, stride=3)
    own = simulated().topology.select("name CA")
    assert np.abs(found.positions - simulated().x[:40:3, own] * 10).max() < 0.0101


def test_few_frames_get_the_basic_map_and_it_is_said(files: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    imported(files, tmp_path / "s", "f.trr", stride=10, message=lines.append)
    assert any("basic, because 23 frames are too few" in line for line in lines)
    assert ForceMap.load(tmp_path / "s" / "force_map.npz").kind == "basic"


def test_the_map_of_other_data_can_be_given(files: Path, tmp_path: Path) -> None:
    imported(files, tmp_path / "f", "f.trr")
    path = tmp_path / "f" / "force_map.npz"
    imported(files, tmp_path / "s", "n.trr", stride=10, force_map=path)
    assert ForceMap.load(tmp_path / "s" / "force_map.npz").hash == ForceMap.load(path).hash
    wrong = ForceMap.load(path)
    ForceMap("optimal", wrong.matrix, "0" * 64).save(tmp_path / "wrong.npz")
    with pytest.raises(MappingError, match="is for mapping 000"):
        imported(files, tmp_path / "w", "n.trr", stride=10, force_map=tmp_path / "wrong.npz")


def test_frames_without_forces_and_a_torn_end_are_left_out_and_said(files: Path, tmp_path: Path) -> None:
    sim = simulated()
    path = write_trr(
        tmp_path / "a.trr", sim.x[:60], f=sim.f[:60], times=sim.times[:60], without={4: "f", 8: "x"}
    )
    path.write_bytes(path.read_bytes()[:-17])
    lines: list[str] = []
    shutil.copy(files / "top.pdb", tmp_path)
    found = imported(tmp_path, tmp_path / "s", "a.trr", message=lines.append)
    assert len(found) == 57
    assert any("2 of 59 frames lack positions or forces" in line for line in lines)
    assert any("last frame is incomplete" in line for line in lines)
    assert len(np.unique(found.block)) > 20  # a missing frame is a gap in time


def test_a_broken_frame_is_left_out_and_said(files: Path, tmp_path: Path) -> None:
    sim = simulated()
    f, x = sim.f[:60].copy(), sim.x[:60].copy()
    f[5, 2, 1], x[17, 4] = np.nan, x[17, 4] + 3.0
    write_trr(tmp_path / "a.trr", x, f=f, times=sim.times[:60])
    shutil.copy(files / "top.pdb", tmp_path)
    lines: list[str] = []
    found = imported(tmp_path, tmp_path / "s", "a.trr", message=lines.append)
    assert len(found) == 58
    assert any("2 of 60 frames are left out" in line for line in lines)


def test_a_killed_import_goes_on(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory_pieces, "_MOST_FRAMES", 50)
    whole = imported(files, tmp_path / "whole", "n.trr")

    def end(done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    out = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        imported(files, out, "n.trr", progress=end)
    pieces = sorted((out / "work" / "frames").iterdir())
    assert len(pieces) == 2
    pieces[1].write_bytes(pieces[1].read_bytes()[:1000])  # damaged: made again
    before = pieces[0].stat().st_mtime_ns, pieces[0].read_bytes()
    seen: list[int] = []

    def count(done: int, total: int) -> None:
        seen.append(done)
        if pieces[0].exists():
            assert (pieces[0].stat().st_mtime_ns, pieces[0].read_bytes()) == before

    with pytest.warns(CGALWarning, match=r"cannot be read.* and made again"):
        found = imported(files, out, "n.trr", progress=count)
    assert seen[0] == 50
    assert seen[-1] == 225
    assert np.array_equal(found.forces, whole.forces)
    assert not (out / "work").exists()
    lines: list[str] = []
    imported(files, out, "n.trr", message=lines.append)
    assert "nothing is computed again" in lines[-1]


def test_an_import_that_ended_between_its_shards_goes_on(files: Path, tmp_path: Path) -> None:
    """Files may have moved, but the map of the shards that are written is kept."""
    sim, out = simulated(), tmp_path / "s"
    half = len(sim.x) // 2
    for name, part in (("a.trr", slice(None, half)), ("b.trr", slice(half, None))):
        write_trr(tmp_path / name, sim.x[part], f=sim.f[part], times=sim.times[part])
    shutil.copy(files / "top.pdb", tmp_path)
    whole = imported(tmp_path, out, "a.trr", "b.trr")
    for path in (*(out / "shards").glob("t0001*"), out / "library.npz"):
        path.unlink()
    record = read_json(out / "import.json")
    del record["finished"]
    write_json(out / "import.json", record)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.trr", "b.trr", "top.pdb"):
        shutil.move(tmp_path / name, moved / name)
    before = hash_file(out / "force_map.npz")
    found = imported(moved, out, "a.trr", "b.trr")
    assert np.array_equal(found.forces, whole.forces)
    assert hash_file(out / "force_map.npz") == before
    assert (out / "library.npz").is_file()
    (out / "import.json").write_text("{")
    with pytest.raises(StateError, match="is damaged"):
        imported(moved, out, "a.trr", "b.trr")


def test_a_store_takes_one_import(files: Path, tmp_path: Path) -> None:
    imported(files, tmp_path / "s", "f.trr", stride=10)
    with pytest.raises(StateError, match="stride"):
        imported(files, tmp_path / "s", "f.trr", stride=5)
    with pytest.raises(StateError, match="trajectories"):
        imported(files, tmp_path / "s", "n.trr", stride=10)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="contains other files"):
        imported(files, tmp_path / "other", "f.trr")


def wrong_forces(tmp_path: Path, factor: float) -> dict[str, Any]:
    np.save(tmp_path / "f1.npy", simulated().f * factor)
    return {"forces": [tmp_path / "f1.npy"]}


@pytest.mark.parametrize(
    ("factor", "unit", "with_config", "match"),
    [
        (1.0, "kcal/mol/angstrom", True, "may be .*kJ/mol/nm"),
        (1.0, "kcal/mol/angstrom", False, "may be .*kJ/mol/nm"),
        (1 / KJ_NM, "kJ/mol/nm", False, "may be .*kcal/mol/angstrom"),
        (0.1, "kcal/mol/angstrom", True, r"10 times|4\.184 times.*kJ/mol/angstrom|unit may be"),
        (1 / KJ_NM / 23.0605, "kJ/mol/nm", True, "may be .*eV/angstrom"),
        (4.184 / KJ_NM, "kcal/mol/angstrom", True, "4.184 times .* give --force-unit kJ/mol/angstrom"),
        (-1.0, "kJ/mol/nm", True, "gradients"),
        (1.0, None, True, "no unit"),
        (1.0, "newton", True, "'newton', which is not known"),
        (np.nan, "kJ/mol/nm", True, "not finite"),
    ],
)
def test_the_unit_of_forces_is_checked(
    files: Path, tmp_path: Path, factor: float, unit: str | None, with_config: bool, match: str
) -> None:
    options = wrong_forces(tmp_path, factor) | {"force_unit": unit}
    options |= {} if with_config else {"temperature": TEMPERATURE}
    with pytest.raises(DataError, match=match):
        imported(files, tmp_path / "s", "n.trr", **options)
    assert not (tmp_path / "s").exists()


def test_forces_of_another_system_are_refused(files: Path, tmp_path: Path) -> None:
    rolled = np.roll(simulated().f, 1, axis=0)  # those of other frames
    np.save(tmp_path / "f1.npy", rolled)
    options: dict[str, Any] = {"forces": [tmp_path / "f1.npy"], "force_unit": "kJ/mol/nm"}
    with pytest.raises(DataError, match="another force field or solvent"):
        imported(files, tmp_path / "s", "n.trr", **options)
    imported(files, tmp_path / "s", "n.trr", stride=10, recompute=True)


def test_what_does_not_fit_is_refused_before_anything_is_spent(files: Path, tmp_path: Path) -> None:
    sim, out = simulated(), tmp_path / "s"
    shutil.copy(files / "f.trr", tmp_path / "copy.trr")
    np.save(tmp_path / "short.npy", sim.f[:-1])
    np.save(tmp_path / "atoms.npy", sim.f[:, :-1])
    np.save(tmp_path / "f.npy", sim.f)
    first = {"f.trr": files / "f.trr", "n.trr": files / "n.trr", "x.xtc": files / "x.xtc"}
    gro = simulated().trajectory()[0].atom_slice(range(sim.topology.n_atoms - 1))
    gro.save_pdb(tmp_path / "less.pdb")
    unit = {"force_unit": "kJ/mol/nm"}
    cases: list[tuple[list[Path], dict[str, Any], type[CGALError], str]] = [
        ([], {}, DataError, "no trajectory"),
        ([tmp_path / "missing.xtc"], {}, DataError, "missing.xtc' does not exist"),
        ([first["f.trr"]] * 2, {}, DataError, "given twice"),
        ([first["f.trr"], tmp_path / "copy.trr"], {}, DataError, "the same content"),
        ([first["f.trr"], first["x.xtc"]], {}, DataError, "end with the same frame"),
        (
            [first["n.trr"]],
            {"config": None, "temperature": 400.0},
            DataError,
            "has no forces: give the config",
        ),
        ([first["f.trr"]], {"config": None}, ConfigError, "temperature"),
        ([first["f.trr"]], {"temperature": 300.0}, DataError, "300 K.*400 K"),
        ([first["f.trr"]], {"topology": None}, ConfigError, "--topology"),
        ([first["f.trr"]], {"topology": tmp_path / "less.pdb"}, DataError, "44 atoms.*has 43"),
        ([first["x.xtc"]], {"topology": tmp_path / "less.pdb"}, DataError, "44 atoms.*has 43"),
        ([first["f.trr"]], {"config": config(system={"sequence": "AYG"})}, MappingError, "residue 3 is ALA"),
        ([first["f.trr"]], {"config": config(system={"sequence": "AYAA"})}, MappingError, "3 residues"),
        ([first["n.trr"]], {"forces": [tmp_path / "short.npy"], **unit}, DataError, r"\(225, 44, 3\)"),
        ([first["n.trr"]], {"forces": [tmp_path / "atoms.npy"], **unit}, DataError, r"\(225, 44, 3\)"),
        ([first["n.trr"]], {"forces": [tmp_path / "f.npy"] * 2, **unit}, DataError, "one force file per"),
        ([first["n.trr"]], {"forces": [tmp_path / "no.npy"], **unit}, DataError, "no.npy' does not exist"),
        ([first["f.trr"]], {"force_unit": "eV/angstrom"}, DataError, "TRR files are in kJ/mol/nm"),
        ([first["x.xtc"]], unit, DataError, "no file has forces"),
        ([first["f.trr"]], {"stride": 0}, DataError, "stride"),
        ([first["f.trr"]], {"mapping": "CACB"}, ConfigError, "system.mapping"),
        ([tmp_path / "f.npy"], {}, DataError, "cannot be read"),
        ([first["f.trr"]], {"force_map": "slice"}, MappingError, "'slice' is neither optimal, basic"),
        ([first["f.trr"]], {"force_map": tmp_path / "f.npy"}, MappingError, "not a saved force map"),
    ]
    for paths, options, error, match in cases:
        own: dict[str, Any] = {"topology": files / "top.pdb", "config": config()} | options
        with pytest.raises(error, match=match):
            import_trajectories(paths, out, **own)
        assert not out.exists(), match


@pytest.mark.parametrize(("kelvin", "right"), [(400.0, True), (300.0, False)])
def test_velocities_tell_the_temperature(files: Path, tmp_path: Path, kelvin: float, right: bool) -> None:
    sim = simulated()
    rng = np.random.default_rng(0)
    mass = np.array([a.element.mass for a in sim.topology.atoms])
    v = rng.normal(size=sim.x.shape) * np.sqrt(8.314462618e-3 * kelvin / mass)[:, None]
    write_trr(tmp_path / "v.trr", sim.x, f=sim.f, v=v, times=sim.times)
    shutil.copy(files / "top.pdb", tmp_path)
    if right:
        imported(tmp_path, tmp_path / "s", "v.trr", stride=10)
        return
    with pytest.raises(DataError, match=r"velocities are those of (28|29|30|31)\d K .* temperature is 400 K"):
        imported(tmp_path, tmp_path / "s", "v.trr", stride=10)


def test_bonds_of_heavy_atoms_that_are_constrained_have_no_force_map(files: Path, tmp_path: Path) -> None:
    """GROMACS with constraints = all-bonds: its forces lack those along every bond."""
    sim = simulated()
    x = np.repeat(sim.x[:1], 40, axis=0).astype(np.float64)
    # turn and move: all bonds keep their length, angles change
    rng = np.random.default_rng(0)
    for frame in x:
        axis = frame[0]
        angle = rng.uniform(0, 6)
        c, s = np.cos(angle), np.sin(angle)
        frame[:] = (frame - axis) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) + axis
    shutil.copy(files / "top.pdb", tmp_path)
    write_trr(tmp_path / "a.trr", x, f=sim.f[:40])
    with pytest.raises(MappingError, match=r"bonds between heavy atoms have a constant length.*h-bonds"):
        imported(tmp_path, tmp_path / "s", "a.trr", temperature=TEMPERATURE)


def test_protonation_that_differs_is_named(files: Path, tmp_path: Path) -> None:
    sim = simulated()
    keep = [a.index for a in sim.topology.atoms if (a.residue.index, a.name) != (1, "HH")]
    part = Simulation(sim.topology.subset(keep), sim.x[:, keep], sim.f[:, keep], sim.times)
    folder = part.write(tmp_path / "part")
    with pytest.raises(MappingError, match=r"TYR2, OH has 0 hydrogens, expected 1"):
        imported(folder, tmp_path / "s", "f.trr")
