"""Wrong files of a user's system: one clear error each, before anything is spent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import app, unit

from cgal_plugin.errors import CGALError, OracleError
from cgal_plugin.oracle.readers import ForceFieldSource
from cgal_plugin.oracle.user_system import load_user_system
from tests.oracle.user_inputs import FORCE_FIELD, WATER, Inputs, with_radii

pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


def refused(kind: str, files: list[str], structure: str | Path, *words: str, **options: Any) -> str:
    """Return the message of the error, which must have these words."""
    include = options.pop("include", None)
    with pytest.raises(CGALError) as error:
        load_user_system(kind, files, include, structure, **options)
    message = str(error.value)
    for word in words:
        assert re.search(word, message), message
    return message


def edited(source: str, folder: Path, change: Callable[[str], str]) -> str:
    """Write a copy of a text file after a change, which must be one."""
    text = Path(source).read_text()
    assert change(text) != text
    path = folder / Path(source).name
    path.write_text(change(text))
    return str(path)


def system_of(inputs: Inputs, folder: Path, change: Callable[[openmm.System], Any]) -> list[str]:
    """Write the serialised System after a change."""
    system = openmm.XmlSerializer.deserialize(Path(inputs.files("system")[0]).read_text())
    change(system)
    path = folder / "changed.xml"
    path.write_text(openmm.XmlSerializer.serialize(system))
    return [str(path)]


# ---------------------------------------------------------------------- parameters and includes


def test_missing_parameters_of_charmm(dry_inputs: Inputs, tmp_path: Path) -> None:
    psf, rtf, prm = dry_inputs.files("charmm")
    short = edited(prm, tmp_path, lambda text: re.sub(r"ANGLES.*?DIHEDRALS", "DIHEDRALS", text, flags=re.S))
    refused("charmm", [psf, rtf, short], dry_inputs.structure("charmm"), "Missing angle", "with the missing")
    refused("charmm", [psf], dry_inputs.structure("charmm"), "parameter files")
    refused("charmm", [rtf, prm], dry_inputs.structure("charmm"), r"one \.psf file")


def test_missing_parameters_of_gromacs(dry_inputs: Inputs, tmp_path: Path) -> None:
    (top,) = dry_inputs.files("gromacs")
    short = edited(top, tmp_path, lambda text: re.sub(r"\[ atomtypes \].*?\n\n", "\n", text, flags=re.S))
    refused("gromacs", [short], dry_inputs.structure("gromacs"), "cannot be used", "x.top")


def test_a_residue_without_template(dry_inputs: Inputs, tmp_path: Path) -> None:
    heavy = edited(
        dry_inputs.structure("system"),
        tmp_path,
        lambda text: "".join(row for row in text.splitlines(True) if row[76:78].strip() != "H"),
    )
    refused("openmm_xml", [FORCE_FIELD], heavy, "No template", "hydrogens included")


def test_an_include_that_is_not_found(dry_inputs: Inputs, tmp_path: Path) -> None:
    (top,) = dry_inputs.files("gromacs")
    including = edited(top, tmp_path, lambda text: f'#include "nowhere/forcefield.itp"\n{text}')
    refused("gromacs", [including], dry_inputs.structure("gromacs"), "nowhere/forcefield.itp", "include")
    refused("gromacs", [top], dry_inputs.structure("gromacs"), "not a folder", include=tmp_path / "no")
    refused("amber", dry_inputs.files("amber"), dry_inputs.structure("amber"), "gromacs", include=tmp_path)


def test_an_include_is_found_in_the_given_folder_and_recorded(dry_inputs: Inputs, tmp_path: Path) -> None:
    (top,) = dry_inputs.files("gromacs")
    types, folder = tmp_path / "own.ff", tmp_path / "top"
    types.mkdir()
    folder.mkdir()
    text = Path(top).read_text()
    block = re.search(r"\[ atomtypes \].*?\n\n", text, flags=re.S)
    assert block is not None
    (types / "types.itp").write_text(block.group())
    including = folder / "x.top"
    including.write_text(text.replace(block.group(), '#include "types.itp"\n\n'))
    prepared = load_user_system("gromacs", [including], types, dry_inputs.structure("gromacs"))
    assert str(types / "types.itp") in dict(prepared.given.hashes)


@pytest.mark.parametrize(
    ("kind", "names"), [("amber", ["no.prmtop"]), ("charmm", ["no.psf", "no.prm"]), ("system", ["no.xml"])]
)
def test_files_that_do_not_exist(dry_inputs: Inputs, kind: str, names: list[str]) -> None:
    refused(kind, names, dry_inputs.structure("system"), "does not exist", "no")


def test_openmm_has_no_such_force_field(dry_inputs: Inputs) -> None:
    refused("openmm_xml", ["amber19/no.xml"], dry_inputs.structure("system"), "amber19/no.xml")


@pytest.mark.parametrize("kind", ["amber", "gromacs", "charmm", "openmm_xml", "system"])
def test_files_that_are_damaged_or_of_another_kind(dry_inputs: Inputs, tmp_path: Path, kind: str) -> None:
    garbage = tmp_path / {"charmm": "x.psf"}.get(kind, "x.any")
    garbage.write_text("this is not a force field\n")
    more = dry_inputs.files("charmm")[1:] if kind == "charmm" else []
    refused(kind, [str(garbage), *more], dry_inputs.structure("system"), kind)


def test_a_file_that_holds_another_object(dry_inputs: Inputs, tmp_path: Path) -> None:
    other = tmp_path / "integrator.xml"
    other.write_text(openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001)))
    refused("system", [str(other)], dry_inputs.structure("system"), "VerletIntegrator", "serialize")


# ---------------------------------------------------------------------- files that do not belong together


def test_coordinates_with_another_number_of_atoms(dry_inputs: Inputs, wet_inputs: Inputs) -> None:
    for kind in ("amber", "gromacs", "system"):
        refused(kind, dry_inputs.files(kind), wet_inputs.structure(kind), r"56", r"\d{4}")


def test_coordinates_of_another_order_of_atoms(dry_inputs: Inputs, tmp_path: Path) -> None:
    def swap(text: str) -> str:
        rows = text.splitlines(True)
        a, b = (next(i for i, r in enumerate(rows) if f" {name} " in r[:20]) for name in ("CA", "HA"))
        rows[a], rows[b] = rows[b], rows[a]
        return "".join(rows)

    gro = edited(dry_inputs.structure("gromacs"), tmp_path, swap)
    refused("gromacs", dry_inputs.files("gromacs"), gro, "CA", "HA", "order of atoms")
    pdb = edited(dry_inputs.structure("system"), tmp_path, swap)
    for kind in ("amber", "charmm", "system"):
        refused(kind, dry_inputs.files(kind), pdb, "order of atoms|belong together")


def test_coordinates_without_names_in_another_order(dry_inputs: Inputs, tmp_path: Path) -> None:
    """An inpcrd has no names: its atoms must be where bonded atoms can be."""
    parmed = pytest.importorskip("parmed")

    restart = parmed.load_file(dry_inputs.structure("amber"))
    xyz = np.asarray(restart.coordinates)[0][::-1]
    path = tmp_path / "reversed.rst7"
    other = parmed.amber.Rst7(natom=len(xyz))
    other.coordinates = xyz
    other.write(str(path))
    refused("amber", dry_inputs.files("amber"), path, "longer than 3", "order of the atoms")


def test_a_system_of_another_molecule_of_the_same_size(dry_inputs: Inputs, tmp_path: Path) -> None:
    def heavier(system: openmm.System) -> None:
        system.setParticleMass(4, 32.0)

    files = system_of(dry_inputs, tmp_path, heavier)
    refused("system", files, dry_inputs.structure("system"), "ALA1", "amu")


def test_structures_without_topology_or_of_unknown_format(dry_inputs: Inputs, tmp_path: Path) -> None:
    for kind in ("system", "openmm_xml"):
        refused(
            kind, dry_inputs.files(kind), dry_inputs.structure("amber"), "PDB or mmCIF", "coordinates only"
        )
    odd = tmp_path / "x.xyz"
    odd.write_text("1\n\nC 0 0 0\n")
    refused("amber", dry_inputs.files("amber"), odd, r"\.xyz", "mmCIF")
    refused("amber", dry_inputs.files("amber"), tmp_path / "no.rst7", "does not exist")


# ---------------------------------------------------------------------- systems that are not supported


def test_virtual_sites_are_refused(dry_inputs: Inputs, tmp_path: Path) -> None:
    def add(system: openmm.System) -> None:
        system.setParticleMass(0, 0.0)
        system.setVirtualSite(0, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5))

    files = system_of(dry_inputs, tmp_path, add)
    refused("system", files, dry_inputs.structure("system"), "virtual site", "three sites")


def test_four_site_water_is_refused(dry_inputs: Inputs, tmp_path: Path) -> None:
    modeller = app.Modeller(
        *(lambda f: (f.topology, f.positions))(app.PDBFile(dry_inputs.structure("system")))
    )
    modeller.addSolvent(
        app.ForceField(FORCE_FIELD, "opc.xml"),
        model="tip4pew",
        boxSize=openmm.Vec3(2.4, 2.4, 2.4) * unit.nanometer,
        neutralize=False,
    )
    path = tmp_path / "opc.pdb"
    with open(path, "w", encoding="utf-8") as handle:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    refused("openmm_xml", [FORCE_FIELD, "opc.xml"], path, "virtual site", cutoff=8.0)


@pytest.mark.parametrize("name", ["amoeba2018.xml", "charmm_polar_2019.xml"])
def test_polarisable_force_fields_are_refused(dry_inputs: Inputs, name: str) -> None:
    refused("openmm_xml", [name], dry_inputs.structure("system"), "polarisable", "fixed charges")


def test_frozen_particles_and_position_restraints_are_refused(dry_inputs: Inputs, tmp_path: Path) -> None:
    files = system_of(dry_inputs, tmp_path, lambda system: system.setParticleMass(3, 0.0))
    refused("system", files, dry_inputs.structure("system"), "mass 0")

    def restrain(system: openmm.System) -> None:
        force = openmm.CustomExternalForce("x^2")
        force.addParticle(0, [])
        system.addForce(force)

    files = system_of(dry_inputs, tmp_path, restrain)
    refused("system", files, dry_inputs.structure("system"), "position restraint", "Remove")


@pytest.mark.parametrize("name", ["CustomCVForce", "CustomCentroidBondForce", "RMSDForce"])
def test_biases_and_restraints_are_refused(dry_inputs: Inputs, tmp_path: Path, name: str) -> None:
    def add(system: openmm.System) -> None:
        rmsd = openmm.RMSDForce([openmm.Vec3(0, 0, 0)] * system.getNumParticles())
        if name == "CustomCentroidBondForce":
            force = openmm.CustomCentroidBondForce(2, "100*distance(g1, g2)")
            force.addBond([force.addGroup([0, 1]), force.addGroup([20, 21])], [])
        elif name == "CustomCVForce":  # as metadynamics adds it
            force = openmm.CustomCVForce("rmsd^2")
            force.addCollectiveVariable("rmsd", rmsd)
        else:
            force = rmsd
        system.addForce(force)

    files = system_of(dry_inputs, tmp_path, add)
    refused("system", files, dry_inputs.structure("system"), name, "bias", "Remove")


def test_an_implicit_solvent_needs_radii(dry_inputs: Inputs) -> None:
    """ParmEd writes radii of 0 for systems of OpenMM; the error came when the first context was made."""
    text = Path(dry_inputs.files("amber")[0]).read_text()
    assert set(re.search(r"%FLAG RADII\s+%FORMAT\S+\s+([^%]*)", text).group(1).split()) == {"0.00000000E+00"}
    structure = dry_inputs.structure("amber")
    for model in ("obc2", "gbn2"):
        refused("amber", dry_inputs.files("amber"), structure, "radii", "mbondi", implicit_solvent=model)


def test_a_prmtop_that_is_cut_short(dry_inputs: Inputs, tmp_path: Path) -> None:
    path = edited(dry_inputs.files("amber")[0], tmp_path, lambda text: text[: len(text) // 2])
    refused("amber", [path], dry_inputs.structure("amber"), "not a whole file")


# ---------------------------------------------------------------------- box and solvent


def test_an_implicit_solvent_beside_water(wet_inputs: Inputs, tmp_path: Path) -> None:
    path = with_radii(wet_inputs.files("amber")[0], tmp_path)
    structure = wet_inputs.structure("amber")
    refused("amber", [path], structure, "Leave out .*implicit_solvent", implicit_solvent="obc2")


def test_water_without_a_box(wet_inputs: Inputs, tmp_path: Path) -> None:
    pdb = edited(wet_inputs.structure("system"), tmp_path, lambda text: re.sub(r"CRYST1.*\n", "", text))
    refused("openmm_xml", wet_inputs.files("openmm_xml"), pdb, "no|neither", "box", "CRYST1")
    vacuum = app.ForceField(FORCE_FIELD, WATER).createSystem(app.PDBFile(pdb).topology)
    path = tmp_path / "vacuum.xml"
    path.write_text(openmm.XmlSerializer.serialize(vacuum))
    refused("system", [str(path)], wet_inputs.structure("system"), "no periodic boundaries", "PME")


def test_a_box_that_is_too_small_for_the_cutoff(wet_inputs: Inputs) -> None:
    files, structure = wet_inputs.files("amber"), wet_inputs.structure("amber")
    refused("amber", files, structure, r"26\.0 Å", "14 Å", "force_field.cutoff", cutoff=14.0)


def test_solvent_before_the_protein(wet_inputs: Inputs, tmp_path: Path) -> None:
    file = app.PDBFile(wet_inputs.structure("system"))
    modeller = app.Modeller(file.topology, file.positions)
    solute = [c for c in modeller.topology.chains() if next(iter(c.residues())).name == "ALA"]
    first = app.Modeller(modeller.topology, modeller.positions)
    first.delete([c for c in first.topology.chains() if c.index in {s.index for s in solute}])
    only = app.Modeller(modeller.topology, modeller.positions)
    only.delete([c for c in only.topology.chains() if c.index not in {s.index for s in solute}])
    first.add(only.topology, only.positions)
    path = tmp_path / "last.pdb"
    with open(path, "w", encoding="utf-8") as handle:
        app.PDBFile.writeFile(first.topology, first.positions, handle, keepIds=True)
    refused("openmm_xml", wet_inputs.files("openmm_xml"), path, "protein first")


def test_residues_that_have_no_beads(dry_inputs: Inputs) -> None:
    from cgal_plugin.mapping import BeadSpec, MapSpec

    spec = MapSpec("own", {"ALA": (BeadSpec("CA", ("CA",), (1.0,)),)}, "CA", {})
    refused("amber", dry_inputs.files("amber"), dry_inputs.structure("amber"), "TYR", mapping=spec)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("namd", ["x"]), "namd.*amber"),
        (("amber", []), "one prmtop file"),
        (("amber", ["a", "b"]), "found 2 files"),
        (("openmm_xml", ["a.xml"], None, 1.0), "cutoff"),
        (("openmm_xml", ["a.xml"], None, None, "obc2"), "implicit/obc2.xml"),
    ],
)
def test_settings_that_do_not_fit(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(OracleError, match=words):
        ForceFieldSource(*arguments)
