"""Structure files: every common format and ending is read, what is left out is named."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.errors import CGALWarning, DataError, MappingError
from cgal_plugin.mapping import CGMapping, CGTopology
from cgal_plugin.mapping.files import load_structure
from cgal_plugin.mapping.residues import canonical_residue
from tests.mapping.peptides import atom, change, peptide, trajectory, write, write_cif

ARTEFACTS = Path(__file__).resolve().parents[2] / "shared/artefacts/torchmd_cg"
if not ARTEFACTS.is_dir():
    ARTEFACTS = Path("/work/shared/artefacts/torchmd_cg")
CHAIN = "AKGWC"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    lines = peptide(CHAIN)
    trajectory(path, lines).save(str(path / "x.gro"))
    write(path / "x.pdb", lines)
    write_cif(path / "x.cif", lines)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "x.pdb",
        "x.PDB",
        "x.ent",
        "x.ENT",
        "x.pdb.gz",
        "x.ent.gz",
        "X.PDB.GZ",
        "x.cif",
        "x.CIF",
        "x.mmcif",
        "x.cif.gz",
        "x.mmcif.gz",
        "x.gro",
        "x.GRO",
        "x.gro.gz",
        "größe.Pdb",
    ],
)
def test_formats_and_endings(folder: Path, tmp_path: Path, name: str) -> None:
    stem = "x.gro" if "gro" in name.lower() else "x.cif" if "cif" in name.lower() else "x.pdb"
    path = tmp_path / name
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress((folder / stem).read_bytes()))
    else:
        shutil.copy(folder / stem, path)
    top = CGTopology.from_file(path)
    assert top.sequence == CHAIN
    assert len(top.bond_index) == 4
    frames = mdtraj.load(str(folder / "x.pdb"))
    frames.save(str(tmp_path / "t.xtc"))
    (beads,) = load_trajectories(tmp_path / "t.xtc", top, top=path)
    np.testing.assert_allclose(beads[0], frames.xyz[0, frames.topology.select("name CA")] * 10, atol=0.02)


@pytest.mark.parametrize("name", ["x.pdb", "x.ent.gz"])
def test_mmcif_under_the_name_of_a_pdb_file(folder: Path, tmp_path: Path, name: str) -> None:
    content = (folder / "x.cif").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert CGTopology.from_file(tmp_path / name).sequence == CHAIN


@pytest.mark.parametrize("cell", ["_cell.length_a ?", "_cell.length_a 1.0", "_cell.length_a ."])
def test_an_mmcif_without_a_real_cell(folder: Path, tmp_path: Path, cell: str) -> None:
    value = cell.split()[1]
    lines = [f"_cell.length_{k} {value}" for k in "abc"]
    lines += [f"_cell.angle_{k} {90.0 if value == '1.0' else value}" for k in ("alpha", "beta", "gamma")]
    path = write_cif(tmp_path / "x.cif", peptide(CHAIN), "\n".join(lines))
    assert CGTopology.from_file(path).sequence == CHAIN


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("x.txt", b"AKGWC", r"ending that is not known; use one of \.pdb"),
        ("x.pdb.gz", b"not gzip", "cannot be read"),
        ("x.cif", b"data_x\n", "cannot be read"),
        ("x.psf", b"nothing", "does not start with PSF"),
        ("y.psf", b"PSF\n\n 5 !NATOM\n", "has no section !NBOND"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MappingError, match=message) as caught:
            CGTopology.from_file(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(MappingError, match="does not exist"):
        CGTopology.from_file(tmp_path / "none.pdb")
    np.save(tmp_path / "frames.npy", np.zeros((1, 5, 3)))
    mdtraj.load(str(write(tmp_path / "ok.pdb", peptide("AA")))).save(str(tmp_path / "t.dcd"))
    with pytest.raises(DataError, match=r"x\.txt.*ending"):
        load_trajectories(tmp_path / "t.dcd", top=tmp_path / "x.txt")


# ------------------------------------------------------------------ PSF


def psf(
    atoms: list[tuple[int, str, str, str, str, float]], bonds: list[tuple[int, int]], wide: bool = False
) -> str:
    """Lines of a PSF: (own number, segment, residue number, residue, atom, mass)."""
    head = "PSF EXT CMAP" if wide else "PSF"
    width = 10 if wide else 8
    rows = [
        f"{n:>{width}d} {s:<8s} {r:<8s} {res:<8s} {a:<8s} {'CT1':<6s} {0.07:>10.6f} {m:>13.4f} {0:>11d}"
        for n, s, r, res, a, m in atoms
    ]
    numbers = [f"{i:>{width}d}{j:>{width}d}" for i, j in bonds]
    lines = ["".join(numbers[k : k + 4]) for k in range(0, len(numbers), 4)]
    count = f"{len(atoms):>{width}d}", f"{len(bonds):>{width}d}", f"{0:>{width}d}"
    first = [head, "", " 1 !NTITLE", " REMARKS a test", "", f"{count[0]} !NATOM", *rows, ""]
    body = [f"{count[1]} !NBOND: bonds", *lines, "", f"{count[2]} !NTHETA: angles", ""]
    return "\n".join([*first, *body])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("segment", ["PROA", "", "1"])
def test_a_psf_is_bonded_as_its_bond_list_says(tmp_path: Path, wide: bool, segment: str) -> None:
    # numbers of atoms have gaps, residue numbers jump at a bond, and a bond is missing where they do not
    residues = [("ALA", "5"), ("GLY", "6"), ("LYS", "20"), ("HSD", "21"), ("TRP", "22")]
    atoms = [(10 * k + 3, segment, n, r, "CA", 12.011) for k, (r, n) in enumerate(residues)]
    path = tmp_path / "x.psf"
    path.write_text(psf(atoms, [(1, 2), (2, 3), (4, 5)], wide))
    with pytest.warns(CGALWarning, match=r"LYS20 and .*HSD21 \(no bond in the topology\)"):
        top = CGTopology.from_file(path)
    assert top.sequence == "AGK:HW"
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [3, 4]]


def test_segments_of_a_psf_are_chains(tmp_path: Path) -> None:
    rows = [(k + 1, "AB"[k // 3], str(k % 3 + 1), "ALA", "CA", 12.011) for k in range(6)]
    path = tmp_path / "x.psf"
    path.write_text(psf(rows, [(1, 2), (2, 3), (4, 5), (5, 6)]))
    top = CGTopology.from_file(path)
    assert top.sequence == "AAA:AAA"
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]


def test_a_psf_with_all_atoms_and_large_numbers(tmp_path: Path) -> None:
    rows, bonds = [], []
    for r in range(3):
        for k, (a, m) in enumerate(
            (("N", 14.007), ("CA", 12.011), ("CB", 12.011), ("C", 12.011), ("O", 15.999))
        ):
            rows.append((99999990 + 5 * r + k, "P", str(r + 1), "ALA", a, m))
        at = 5 * r
        bonds += [(at + 1, at + 2), (at + 2, at + 3), (at + 2, at + 4), (at + 4, at + 5)]
        bonds += [(at - 1, at + 1)] if r else []
    path = tmp_path / "x.psf"
    path.write_text(psf(rows, bonds, wide=True))
    assert CGTopology.from_file(path, "CACB") == CGTopology.from_sequence("AAA", "CACB")
    assert [a.element.symbol for a in list(load_structure(path).atoms)[:5]] == ["N", "C", "C", "C", "O"]
    path.write_text(psf(rows, bonds, wide=True)[:-140])
    with pytest.raises(MappingError, match="cut off: 14 bonds announced"):
        CGTopology.from_file(path)


@pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="the published files are not there")
def test_the_published_psf_files_are_read() -> None:
    sequences = {
        "bba": "EQYTAKYKGRTFRNEKELRDFIEKFKGR", "cln": "YYDPETGTWY", "trp": "DAYAQWLKDGGPSSGRPPPS",
        "bbl": "GSQNNDALSPAIRRLLAEWNLDASAIKGTGVGGRLTREDVEKHLAKA",
        "homeodomain": "RPRTAFSSEQLARLKREFNENRYLTERRRQQLSSELGLNEAQIKIWFQNKRAKI",
        "lambda": "PLTQEQLEDARRLKAIYEKKKNELGLSQESVADKMGMGQSGVGALFNGINALNAYNAALLAKILKVSVEEFSPSIAREIY",
        "ntl9": "MKVIFLKDVKGMGKKGEIKNVADGYANNFLFKQGLAIEA",
        "proteinb": "LKNAIEDAIAELKKAGITSDFYFNAINKAKTVEEVNALVNEILKAHA",
    }  # fmt: skip
    assert {p.stem for p in ARTEFACTS.glob("*.psf")} == set(sequences)
    for stem, sequence in sequences.items():
        path = ARTEFACTS / f"{stem}.psf"
        top = CGTopology.from_file(path)
        assert top.sequence == sequence
        assert top.bond_index.tolist() == [[i, i + 1] for i in range(len(sequence) - 1)]
        (frames,) = load_trajectories(ARTEFACTS / f"{stem}.xtc", top, top=path)
        expected = np.load(ARTEFACTS / f"{stem}_expected.npz")["positions"]
        np.testing.assert_allclose(frames, expected, atol=2e-3)
        # without an expected topology: chains by the bonds of the frames
        (again,) = load_trajectories(ARTEFACTS / f"{stem}.xtc", top=path)
        np.testing.assert_array_equal(again, frames)


# ------------------------------------------------------------------ names


def test_water_and_ions_are_left_out_and_named(tmp_path: Path) -> None:
    rest = [
        atom(90, "ZN", "ZN", 101, (20, 0, 0)), atom(91, "CA", "CA", 102, (25, 0, 0)),
        atom(92, "NA", "NA", 103, (30, 0, 0)), atom(93, "CL", "CL", 104, (33, 0, 0)),
        *(atom(94 + k, "O", "HOH", 105 + k, (36 + 3 * k, 0, 0)) for k in range(3)),
    ]  # fmt: skip
    path = write(tmp_path / "solvated.pdb", peptide("AKG"), rest)
    with pytest.warns(
        CGALWarning, match="left out of the CG topology: 1 CA, 1 CL, 3 HOH, 1 NA, 1 ZN"
    ) as caught:
        top = CGTopology.from_file(path)
    assert [str(w.message) for w in caught if "left out" in str(w.message)] == [
        f"{path}: left out of the CG topology: 1 CA, 1 CL, 3 HOH, 1 NA, 1 ZN"
    ]
    assert top == CGTopology.from_sequence("AKG")
    mapping = CGMapping.from_topology(mdtraj.load(str(path)))
    assert mapping.topology == top
    assert mapping.left_out == {"CA": 1, "CL": 1, "HOH": 3, "NA": 1, "ZN": 1}
    with pytest.warns(CGALWarning, match=r"solvated\.pdb: left out of the CG topology: 1 CA"):
        load_trajectories(path, top)


def test_ligands_and_unknown_residues_are_refused_by_name_and_number(tmp_path: Path) -> None:
    ligand = [atom(90, "C1", "GOL", 201, (20, 0, 0)), atom(91, "C2", "GOL", 201, (21.5, 0, 0))]
    other = [atom(92, "CA", "ORN", 7, (30, 0, 0)), atom(93, "CB", "ORN", 7, (31.5, 0, 0))]
    path = write(tmp_path / "ligand.pdb", peptide("AKG"), ligand, other)
    message = (
        r"2 residues without beads: A:GOL201, A:ORN7\. residue 'GOL' is not known.*ignore=\['GOL', 'ORN'\]"
    )
    with pytest.raises(MappingError, match=message):
        CGTopology.from_file(path)
    with pytest.warns(CGALWarning, match="left out of the CG topology: 1 GOL, 1 ORN"):
        top = CGTopology.from_file(path, ignore=["GOL", "ORN"])
    assert top == CGTopology.from_sequence("AKG")
    assert CGMapping.from_topology(mdtraj.load(str(path)), ignore=["GOL", "ORN"]).topology == top
    # the name of an ion is not enough: a residue of several atoms is no ion
    odd = [atom(90, "C1", "NI", 201, (20, 0, 0)), atom(91, "C2", "NI", 201, (21.5, 0, 0))]
    with pytest.raises(MappingError, match="'NI' is not known"):
        CGTopology.from_file(write(tmp_path / "odd.pdb", peptide("AKG"), odd))


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        *((n, "HIS") for n in ["HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HISD", "HISE", "HISH"]),
        *((n, "HIS") for n in ["HIS1", "HISA", "HISB", "NHID", "CHIE", "NHIS"]),
        *((n, "CYS") for n in ["CYX", "CYM", "CYS2", "CYSH", "CCYX", "NCYS"]),
        *((n, "ASP") for n in ["ASH", "ASPH", "ASPP", "CASP", "NASP"]),
        *((n, "GLU") for n in ["GLH", "GLUH", "GLUP", "NGLU"]),
        *((n, "LYS") for n in ["LYN", "LYSH", "LSN", "CLYS"]),
        *((n, n[1:]) for n in ["NALA", "CALA", "NPRO", "CGLY", "NTRP", "CTYR"]),
        ("hisE ", "HIS"), ("ARN", "ARG"),
    ],
)  # fmt: skip
def test_names_of_residue_variants(name: str, standard: str) -> None:
    assert canonical_residue(name) == standard


@pytest.mark.parametrize(
    "name", ["XALA", "ALAN", "N", "NMSE", "MSE", "NLE", "DAL", "ORN", "AIB", "SEP", "UNK", ""]
)
def test_other_residues_are_not_variants(name: str) -> None:
    with pytest.raises(MappingError, match="is not known"):
        canonical_residue(name)


def test_variants_in_a_gro_file(tmp_path: Path) -> None:
    names = {1: "NALA", 2: "HISE", 3: "CYS2", 4: "LYSH", 5: "GLUH", 6: "CALA"}
    path = tmp_path / "x.gro"
    # the file of GROMACS keeps the names; mdtraj reads them as they are
    trajectory(tmp_path, peptide("AHCKEA")).save(str(path))
    text = path.read_text()
    for number, residue in names.items():
        old = f"{number:>5d}{dict(enumerate(['ALA', 'HIS', 'CYS', 'LYS', 'GLU', 'ALA'], 1))[number]:<5s}"
        text = text.replace(old, f"{number:>5d}{residue:<5s}")
    path.write_text(text)
    assert {r.name for r in mdtraj.load(str(path)).topology.residues} == set(names.values())
    with pytest.warns(CGALWarning, match="CYS23: named as bridged cysteines"):
        top = CGTopology.from_file(path)
    assert top == CGTopology.from_sequence("AHCKEA")
    assert CGTopology.from_file(write(tmp_path / "plain.pdb", change(peptide("AHCKEA")))) == top
