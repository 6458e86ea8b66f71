"""Structures are read as they are, or refused with the cause and a remedy that works."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle import AllAtomModel, OpenMMOracle
from cgal_plugin.oracle.options import ReadOptions
from cgal_plugin.oracle.structure import PreparedStructure, read_structure
from tests.oracle.structures import DATA, Line, atom, capped, kept, peptide, position, renamed, text


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PreparedStructure]:
    """Write atoms or a text to a file and read it."""

    def run(content: list[Line] | str, name: str = "x.pdb", **options: object) -> PreparedStructure:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else text(content))
        return read_structure(path, ReadOptions(**options))  # type: ignore[arg-type]

    return run


def names(found: PreparedStructure) -> list[str]:
    return [r.name for r in found.topology.residues()]


def hydrogens(found: PreparedStructure, number: int) -> set[str]:
    residue = list(found.topology.residues())[number - 1]
    return {a.name for a in residue.atoms() if a.element.symbol == "H"}


def fact(found: PreparedStructure, heading: str) -> str:
    return dict(found.record.rows())[heading]


# ---------------------------------------------------------------------- caps and what is left out


@pytest.mark.parametrize("end", ["NME", "NMA"])
@pytest.mark.parametrize("given", [False, True], ids=["heavy atoms", "all atoms"])
def test_caps_are_kept(read: Callable[..., PreparedStructure], end: str, given: bool) -> None:
    found = read(renamed(capped("GAKAG", hydrogens=given), {5: end}))
    assert names(found) == ["ACE", "ALA", "LYS", "ALA", "NME"]
    assert found.topology.getNumAtoms() == 54
    assert fact(found, "caps") == "start ACE, end NME"
    elements = {a.name for r in found.topology.residues() for a in r.atoms()}
    assert "OXT" not in elements
    charges = charge(found)
    assert charges == pytest.approx(1.0, abs=1e-6)  # the lysine only


def charge(found: PreparedStructure) -> float:
    """Total charge in the force field."""
    from openmm import NonbondedForce, app, unit

    system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(found.topology)
    force = next(f for f in system.getForces() if isinstance(f, NonbondedForce))
    n = force.getNumParticles()
    return sum(force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge) for i in range(n))


def test_one_cap_and_amide_end(read: Callable[..., PreparedStructure]) -> None:
    lines = [line for line in capped("GAKAG") if not (line[3] == 5 and line[0] == "C")]
    found = read(renamed(lines, {5: "NH2"}))
    assert names(found)[-1] == "NH2"
    assert hydrogens(found, 5) == {"HN1", "HN2"}
    found = read(kept(capped("GAKAG"), lambda name, number: number > 1))
    assert fact(found, "caps") == "start charged, end NME"


def test_water_and_solvent_ions_are_left_out_and_named(read: Callable[..., PreparedStructure]) -> None:
    extra = [
        atom("O", "HOH", 10, (40, 0, 0), "O"),
        atom("O", "HOH", 11, (44, 0, 0), "O"),
        atom("NA", "NA", 12, (48, 0, 0), "Na"),
    ]
    found = read(peptide("AKA") + extra)
    assert fact(found, "left out") == "2 HOH, 1 NA"


@pytest.mark.parametrize(
    "extra",
    [
        [atom("ZN", "ZN", 10, (40, 0, 0), "ZN")],
        [atom("MG", "MG", 10, (40, 0, 0), "MG")],
        [atom("C1", "GOL", 10, (40, 0, 0), "C"), atom("O1", "GOL", 10, (41.4, 0, 0), "O")],
    ],
    ids=["ZN", "MG", "ligand"],
)
def test_metals_and_ligands_are_refused_until_ignored(
    read: Callable[..., PreparedStructure], extra: list[Line]
) -> None:
    name = extra[0][1]
    with pytest.raises(OracleError, match=rf"{name}10.*system.ignore: \[{name}\]"):
        read(peptide("AKA") + extra)
    found = read(peptide("AKA") + extra, ignore=[name.lower()])
    assert fact(found, "left out") == f"1 {name}"
    assert found.topology.getNumAtoms() == read(peptide("AKA")).topology.getNumAtoms()


def test_a_cap_that_the_force_field_lacks_is_refused(read: Callable[..., PreparedStructure]) -> None:
    lines = renamed(kept(capped("GAKAG"), lambda name, number: name != "CH3"), {1: "FOR"})
    with pytest.raises(OracleError, match=r"FOR1 \(bonded to ALA2\)"):
        read(lines)
    found = read(lines, ignore=["FOR"])
    assert "FOR1 was bonded to ALA2" in fact(found, "left out")
    assert fact(found, "caps") == "start charged, end NME"


@pytest.mark.parametrize("name", ["ORN", "XYZ", "AIB"])
@pytest.mark.parametrize("number", [1, 3, 5], ids=["start", "middle", "end"])
def test_an_unknown_residue_is_never_deleted(
    read: Callable[..., PreparedStructure], name: str, number: int
) -> None:
    lines = renamed(peptide("AKAAK"), {number: name})
    with pytest.raises(OracleError, match=rf"{name}{number}.*system.replace: {{{name}: "):
        read(lines)
    target = "ALA" if "AKAAK"[number - 1] == "A" else "LYS"
    found = read(lines, replace={name: target})
    assert names(found)[number - 1] == target
    assert f"{name}{number} by {target}" in fact(found, "replaced")


def test_selenium_is_replaced_by_sulphur_and_norleucine_by_leucine(
    read: Callable[..., PreparedStructure],
) -> None:
    msm = peptide("AMA")
    mse = [("SE" if a == "SD" else a, r, c, n, x, "SE" if a == "SD" else e) for a, r, c, n, x, e in msm]
    found = read(renamed(mse, {2: "MSE"}), replace={"MSE": "MET"})
    sulphur = next(a for a in found.topology.atoms() if a.name == "SD")
    np.testing.assert_allclose(found.positions[sulphur.index], position(msm, "SD", 2), atol=2e-3)
    nle = [("CD" if a == "SD" else a, r, c, n, x, "C" if a == "SD" else e) for a, r, c, n, x, e in msm]
    found = read(renamed(nle, {2: "NLE"}), replace={"NLE": "LEU"})
    assert {a.name for a in list(found.topology.residues())[1].atoms()} >= {"CD1", "CD2"}
    assert "CD1, CD2 added" in fact(found, "repaired")


def test_a_protonation_state_may_be_asked_for(read: Callable[..., PreparedStructure]) -> None:
    lines = peptide("KHAK", hydrogens=True)
    found = read(renamed(lines, {4: "LYN"}), replace={"LYN": "LYS", "HIS": "HIE"})
    assert names(found) == ["LYS", "HIE", "ALA", "LYS"]
    assert "HE2" in hydrogens(found, 2)
    assert "HZ3" in hydrogens(found, 4)


def mirrored(lines: list[Line], number: int) -> list[Line]:
    """The residue's CB on the side of a D-residue."""
    n, ca, c, cb = (position(lines, a, number) for a in ("N", "CA", "C", "CB"))
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal)
    new = cb - 2 * np.dot(cb - ca, normal) * normal
    return [(a, r, ch, i, tuple(new) if (a, i) == ("CB", number) else x, e) for a, r, ch, i, x, e in lines]


def test_d_residues_are_refused_also_under_the_name_of_an_l_residue(tmp_path: Path) -> None:
    path = tmp_path / "d.pdb"
    path.write_text(text(mirrored(peptide("GAG"), 2)))
    with pytest.raises(OracleError, match=r"stereocentre: ALA2-CA.*system.replace"):
        AllAtomModel.from_file(path)
    path.write_text(text(renamed(mirrored(peptide("GAG"), 2), {2: "DAL"})))
    with pytest.raises(OracleError, match="DAL2"):
        AllAtomModel.from_file(path)
    model = AllAtomModel.from_file(path, options=ReadOptions(replace={"DAL": "ALA"}))
    assert model.sequence == "GAG"


# ---------------------------------------------------------------------- protonation


@pytest.mark.parametrize(
    ("sequence", "name", "expected", "others"),
    [
        ("AHA", "HIE", {"HE2"}, {"HD1"}),
        ("AHA", "HSE", {"HE2"}, {"HD1"}),
        ("AHA", "HID", {"HD1"}, {"HE2"}),
        ("AHA", "HSD", {"HD1"}, {"HE2"}),
        ("AHA", "HIP", {"HD1", "HE2"}, set()),
        ("AHA", "HSP", {"HD1", "HE2"}, set()),
        ("AKA", "LYN", {"HZ1", "HZ2"}, {"HZ3"}),
        ("ADA", "ASH", {"HD2"}, set()),
        ("AEA", "GLH", {"HE2"}, set()),
        ("ACA", "CYM", {"HB2"}, {"HG"}),
    ],
)
def test_the_protonation_of_the_name_is_kept(
    read: Callable[..., PreparedStructure], sequence: str, name: str, expected: set[str], others: set[str]
) -> None:
    found = read(renamed(peptide(sequence), {2: name}))
    present = hydrogens(found, 2)
    assert expected <= present
    assert not others & present
    assert names(found)[1] == name
    assert f"{name}2 as" in fact(found, "protonation")
    # with all its hydrogens in the file, under the standard name
    again = [
        (a.name, r.name if r.index != 1 else f"{sequence[1]}", "A", r.index + 1, tuple(x), a.element.symbol)
        for r in found.topology.residues()
        for a in r.atoms()
        for x in [found.positions[a.index]]
    ]
    standard = {"H": "HIS", "K": "LYS", "D": "ASP", "E": "GLU", "C": "CYS"}[sequence[1]]
    second = read(renamed(again, {2: standard}))
    assert hydrogens(second, 2) == present
    assert second.topology.getNumAtoms() == found.topology.getNumAtoms()


def test_hydrogens_of_the_file_keep_their_places(read: Callable[..., PreparedStructure]) -> None:
    lines = peptide("AKHSA", hydrogens=True)
    moved = [(a, r, c, n, (x[0] + 0.1, x[1], x[2]) if e == "H" else x, e) for a, r, c, n, x, e in lines]
    found = read(moved)
    assert fact(found, "hydrogens").startswith(f"{sum(e == 'H' for *_, e in lines)} of the source, 0 added")
    for name, number in (("HA", 2), ("HB2", 3), ("HG", 4)):
        residue = list(found.topology.residues())[number - 1]
        index = next(a.index for a in residue.atoms() if a.name == name)
        np.testing.assert_allclose(found.positions[index], position(moved, name, number), atol=2e-3)


def test_hydrogens_after_all_other_atoms_and_old_names(read: Callable[..., PreparedStructure]) -> None:
    lines = peptide("AKHSA", hydrogens=True)
    late = [x for x in lines if x[5] != "H"] + [x for x in lines if x[5] == "H"]
    found = read(late)
    assert fact(found, "hydrogens").endswith("0 added at pH 7")
    old = {"HB2": "HB1", "HB3": "HB2", "HG2": "HG1", "HG3": "HG2"}  # CHARMM counts from 1
    charmm = [(old.get(a, a) if r == "LYS" else a, r, c, n, x, e) for a, r, c, n, x, e in lines]
    found = read(charmm)
    assert fact(found, "hydrogens").endswith("0 added at pH 7")
    deuterated = [(a, r, c, n, x, "D" if e == "H" else e) for a, r, c, n, x, e in lines]
    assert read(deuterated).topology.getNumAtoms() == found.topology.getNumAtoms()


def test_missing_hydrogens_follow_the_ph(read: Callable[..., PreparedStructure]) -> None:
    lines = peptide("ADHEKA")
    acid, basic = read(lines, ph=3.0), read(lines, ph=11.0)
    assert "HD2" in hydrogens(acid, 2)
    assert {"HD1", "HE2"} <= hydrogens(acid, 3)
    assert "HZ3" not in hydrogens(basic, 5)
    assert "GLU4 as GLH (pH 3)" in fact(acid, "protonation")
    given = read(renamed(lines, {3: "HIE"}), ph=3.0)  # the name decides
    assert "HD1" not in hydrogens(given, 3)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (renamed(peptide("AHA", hydrogens=True), {2: "HIP"}), r"HIP2 is named HIP, but .* HID"),
        (renamed(peptide("KAAK"), {4: "LYN"}), r"LYN4 at the end.*ACE, NME.*system.replace: {LYN: LYS}"),
        (renamed(peptide("ACA"), {2: "CYX"}), r"CYX2 .*no other SG"),
        (kept(peptide("AAA", hydrogens=True), lambda a, n: (a, n) != ("H3", 1)), "neutral chain start"),
        (kept(peptide("AYA", hydrogens=True), lambda a, n: a != "HH"), "charged tyrosine"),
        (kept(peptide("ARA", hydrogens=True), lambda a, n: a != "HH11"), "neutral arginine"),
        (
            [*peptide("AAA", hydrogens=True), ("HX", "ALA", "A", 2, (60.0, 0.0, 0.0), "H")],
            "HX of ALA2 is .* from the nearest",
        ),
    ],
    ids=["contradiction", "neutral end", "no bridge", "neutral start", "tyrosine", "arginine", "far"],
)
def test_states_without_parameters_are_refused(
    read: Callable[..., PreparedStructure], lines: list[Line], match: str
) -> None:
    with pytest.raises(OracleError, match=match):
        read(lines)


# ---------------------------------------------------------------------- chains, gaps, bridges


def test_a_gap_is_refused_and_its_remedy_works(read: Callable[..., PreparedStructure]) -> None:
    lines = kept(peptide("AAGAA"), lambda name, number: number != 3)
    with pytest.raises(OracleError, match=r"gap.*ALA2 – ALA4 .*1 residue missing.*TER"):
        read(lines)
    end = ("TER", "", "", 0, (0, 0, 0), "")
    found = read([x for x in lines if x[3] < 3] + [end] + [x for x in lines if x[3] > 3])
    assert found.topology.getNumChains() == 2
    assert "ALA2: OXT added" in fact(found, "repaired")


def test_a_gap_made_by_ignore_names_it_and_its_remedy_works(read: Callable[..., PreparedStructure]) -> None:
    lines = renamed(peptide("AKAAK"), {2: "CAS", 4: "ORN"})
    cause = r"gap.*through CAS2, ORN4, left out by ignore.*system.replace: {CAS: CYS, ORN: LYS} instead"
    with pytest.raises(OracleError, match=cause):
        read(lines, ignore=["CAS", "ORN"])
    assert names(read(lines, replace={"CAS": "CYS", "ORN": "LYS"})) == ["ALA", "CYS", "ALA", "LYS", "LYS"]


def test_a_modified_residue_is_replaced_by_its_parent(read: Callable[..., PreparedStructure]) -> None:
    for name, parent in (("M3L", "LYS"), ("HIC", "HIS"), ("XXX", "ALA")):
        with pytest.raises(OracleError, match=f"system.replace: {{{name}: {parent}}}"):
            read(renamed(peptide("AKA"), {2: name}))


def test_numbers_may_jump_where_the_chain_is_whole(read: Callable[..., PreparedStructure]) -> None:
    lines = [(a, r, c, n + 10 * (n > 2), x, e) for a, r, c, n, x, e in peptide("AKGAA")]
    assert read(lines).topology.getNumChains() == 1


def test_chains_without_names_end_where_the_file_says(read: Callable[..., PreparedStructure]) -> None:
    two = peptide("AKA", chain=" ") + peptide("AEA", chain=" ", shift=15)
    assert read(two).topology.getNumChains() == 2  # OXT, and numbers that restart


def test_chains_and_models_are_chosen_and_said(read: Callable[..., PreparedStructure]) -> None:
    two = peptide("AKA") + peptide("AEA", chain="B", shift=15)
    assert read(two).topology.getNumChains() == 2
    found = read(two, chains=["B"])
    assert names(found) == ["ALA", "GLU", "ALA"]
    assert "chain 'A' with 3 residues" in fact(found, "left out")
    with pytest.raises(OracleError, match=r"no chain 'C'; its chains are 'A', 'B'"):
        read(two, chains=["C"])
    models = "".join(
        f"MODEL     {i:4d}\n{text(peptide(s), end='ENDMDL')}" for i, s in ((1, "AKA"), (2, "AEA"))
    )
    assert names(read(models))[1] == "LYS"
    assert "model 1 (2 in the file, the first)" in fact(read(models), "notes")
    assert names(read(models, model=2))[1] == "GLU"
    with pytest.raises(OracleError, match="no model 3; it has models 1 to 2"):
        read(models, model=3)


def test_models_with_other_numbers_are_listed(read: Callable[..., PreparedStructure]) -> None:
    models = "".join(
        f"MODEL     {i:4d}\n{text(peptide(s), end='ENDMDL')}" for i, s in ((1, "AKA"), (3, "AEA"))
    )
    found = read(models, model=3)
    assert names(found)[1] == "GLU"
    assert "model 3 (2 in the file)" in fact(found, "notes")
    with pytest.raises(OracleError, match="no model 2; it has models 1, 3 "):
        read(models, model=2)


def test_disulfides_are_bonds_and_recorded(read: Callable[..., PreparedStructure]) -> None:
    content = (DATA / "two_bridges.pdb").read_text()
    found = read(content)
    bridges = {
        (a.residue.index, b.residue.index) for a, b in found.topology.bonds() if {a.name, b.name} == {"SG"}
    }
    assert {tuple(sorted(b)) for b in bridges} == {(1, 6), (2, 12)}
    assert "CYS2 – CYS7" in fact(found, "bridges")
    assert names(read(content.replace("CYS", "CYX")))[1] == "CYX"
    rows = content.splitlines()
    index = next(i for i, row in enumerate(rows) if row[12:16].strip() == "SG")
    x, y, z = (float(rows[index][i : i + 8]) for i in (30, 38, 46))
    hg = (
        rows[index][:12]
        + " HG "
        + rows[index][16:30]
        + f"{x:8.3f}{y:8.3f}{z + 1.34:8.3f}  1.00  0.00           H"
    )
    with pytest.raises(OracleError, match=r"SG of CYS2 and SG of CYS7 are 2.0\d Å apart, but"):
        read("\n".join([*rows[: index + 1], hg, *rows[index + 1 :]]))
    ssbond = "SSBOND   1 CYS A    2    CYS A   13                          1555   1555  2.03\n"
    with pytest.raises(OracleError, match="declares a disulfide of A:2 and A:13"):
        read(ssbond + content)


def test_a_bridge_cannot_be_stretched(tmp_path: Path) -> None:
    oracle = OpenMMOracle(DATA / "two_bridges.pdb", temperature=300.0)
    with pytest.raises(OracleError, match="linked"):
        oracle.run("extended", 0.1, seed=1)
    assert len(oracle.run("auto", 0.2, seed=1, save_ps=0.04, equilibrate_ps=0.0)) == 5


def test_other_bonds_between_residues_are_refused(read: Callable[..., PreparedStructure]) -> None:
    lines = peptide("AKGGA")
    target = position(lines, "NZ", 2)
    moved = [
        (a, r, c, n, tuple(target + np.array([1.3, 0, 0])) if (a, n) == ("CB", 5) else x, e)
        for a, r, c, n, x, e in lines
    ]
    with pytest.raises(OracleError, match=r"NZ of LYS2 and CB of ALA5 are 1.30 Å apart"):
        read(moved)


def test_a_cis_peptide_bond_of_the_structure_is_kept() -> None:
    from openmm import app

    from cgal_plugin.oracle.pull import Puller
    from cgal_plugin.oracle.screen import omega_degrees, screen
    from cgal_plugin.oracle.stereo import stereo_tables

    trans = AllAtomModel.from_sequence("GAPG")
    tables = stereo_tables(trans.mdtraj_topology)
    xyz = trans.positions.copy()
    names_ = [(a.residue.index, a.name) for a in trans.topology.atoms()]
    c, n = names_.index((1, "C")), names_.index((2, "N"))
    axis = xyz[n] - xyz[c]
    axis /= np.linalg.norm(axis)
    turned = [i for i, (r, name) in enumerate(names_) if r >= 2]
    v = xyz[turned] - xyz[c]
    xyz[turned] = xyz[c] - v + 2 * np.outer(v @ axis, axis)  # by 180° about C–N
    assert isinstance(trans.topology, app.Topology)
    xyz = trans.minimise(xyz)
    assert min(abs(omega_degrees(xyz, tables))) < 30
    assert not screen(xyz, tables)
    assert screen(xyz, stereo_tables(trans.mdtraj_topology, xyz))
    cis = AllAtomModel(trans.topology, xyz, trans.mapping)
    assert Puller(cis).tables.cis.sum() == 1
    assert not screen(trans.positions, Puller(cis).tables)  # the other isomer is another molecule


# ---------------------------------------------------------------------- files


def cif(lines: list[Line]) -> str:
    structure = gemmi.read_pdb_string(text(lines))
    structure.setup_entities()
    return structure.make_mmcif_document().as_string()


@pytest.mark.parametrize(
    "name", ["x.cif", "x.CIF", "x.mmcif", "x.cif.gz", "x.pdb.gz", "X.PDB", "x.ent", "x.PDB.GZ"]
)
def test_formats_by_name(tmp_path: Path, name: str) -> None:
    lines = peptide("AKA")
    content = cif(lines) if "cif" in name.lower() else text(lines)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.lower().endswith("gz") else content.encode())
    found = read_structure(path)
    assert names(found) == ["ALA", "LYS", "ALA"]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.gro", "title\n", "gmx editconf"),
        ("x.psf", "PSF\n", "no coordinates"),
        ("x.pdb", "", "no protein"),
        ("x.pdb", "\x00\x01\x02", "not a text file"),
        ("x.cif", "data_x\n_cell.a 1\n", "no _atom_site"),
        ("x.cif", "garbage {", "cannot be read as mmCIF"),
    ],
)
def test_other_files_are_named(
    read: Callable[..., PreparedStructure], name: str, content: str, match: str
) -> None:
    with pytest.raises(OracleError, match=match):
        read(content, name)


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb.gz"
    path.write_bytes(gzip.compress(text(peptide("AKA")).encode())[:-20])
    with pytest.raises(OracleError, match="cannot be read"):
        read_structure(path)


def test_the_most_occupied_alternative_is_used(read: Callable[..., PreparedStructure]) -> None:
    rows = text(peptide("AKA")).splitlines()
    index = next(i for i, row in enumerate(rows) if row[12:16].strip() == "NZ")
    first = rows[index][:16] + "A" + rows[index][17:54] + "  0.30" + rows[index][60:]
    second = rows[index][:16] + "B" + rows[index][17:30] + f"{20.0:8.3f}" + rows[index][38:54] + "  0.70"
    second += rows[index][60:]
    found = read("\n".join([*rows[:index], first, second, *rows[index + 1 :]]))
    nz = next(a.index for a in found.topology.atoms() if a.name == "NZ")
    assert found.positions[nz][0] == pytest.approx(20.0, abs=1e-3)
    assert "alternative locations the most occupied one is used: LYS2" in fact(found, "notes")


def test_missing_side_chain_atoms_are_added_on_request(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    path.write_text(text(kept(peptide("AKFA"), lambda name, number: name not in ("NZ", "CE", "CZ", "CE1"))))
    with pytest.raises(OracleError, match=r"LYS2 lacks CE NZ.*system.repair: true"):
        AllAtomModel.from_file(path)
    model = AllAtomModel.from_file(path, options=ReadOptions(repair=True))
    assert model.record is not None
    assert "LYS2: CE, NZ added" in dict(model.record.rows())["repaired"]
    path.write_text(text(kept(peptide("AKFA"), lambda name, number: (name, number) != ("CA", 2))))
    with pytest.raises(OracleError, match="backbone must be complete"):
        AllAtomModel.from_file(path, options=ReadOptions(repair=True))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ph": 15.0}, "between 0 and 14"),
        ({"ignore": "ZN"}, "not a list"),
        ({"ignore": ["ALA"]}, "amino acids: ALA.*chains"),
        ({"replace": {"MSE": "XXX"}}, "'XXX' is not a standard residue"),
        ({"chains": []}, "empty list"),
    ],
)
def test_options_are_checked(options: dict[str, object], match: str) -> None:
    with pytest.raises(OracleError, match=match):
        ReadOptions(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- starts


def test_folded_needs_a_fold() -> None:
    oracle = OpenMMOracle("GAGA", temperature=300.0)
    with pytest.raises(OracleError, match=r"needs a fold.*system.structure.*auto"):
        oracle.run("folded", 0.1, seed=1)
    assert AllAtomModel.from_sequence("YYDPETGTWY").folded
    assert AllAtomModel.from_sequence("GAGA", phi=[-60] * 3, psi=[-45] * 3).folded
    assert not oracle.model.folded


def test_a_box_around_a_long_stretched_chain_is_refused() -> None:
    """60 residues would need a million atoms of water."""
    with pytest.raises(OracleError, match=r"million atoms. Give a folded structure"):
        AllAtomModel.from_sequence("GA" * 25, solvent="tip3pfb")
