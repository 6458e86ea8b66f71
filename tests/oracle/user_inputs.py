"""Inputs of AMBER, GROMACS, CHARMM and OpenMM for one peptide, by ParmEd: dry, and in a small box."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEQUENCE = "AYK"
FORCE_FIELD, WATER = "amber19/protein.ff19SB.xml", "amber14/tip3p.xml"
#: Å, edge of the box
EDGE = 26.0
KINDS = ("amber", "gromacs", "charmm", "openmm_xml", "system")


@dataclass(frozen=True)
class Inputs:
    """A folder with the files of every kind."""

    folder: Path
    solvated: bool

    def files(self, kind: str) -> list[str]:
        if kind == "openmm_xml":
            return [FORCE_FIELD, WATER] if self.solvated else [FORCE_FIELD]
        names = {
            "amber": ["x.prmtop"],
            "gromacs": ["x.top"],
            "charmm": ["c.psf", "c.rtf", "c.prm"],
            "system": ["x.xml"],
        }
        return [str(self.folder / name) for name in names[kind]]

    def structure(self, kind: str) -> str:
        names = {"amber": "x.rst7", "gromacs": "x.gro"}
        return str(self.folder / names.get(kind, "x.pdb"))

    def section(self, kind: str) -> dict[str, Any]:
        """Return the section ``system`` of a configuration."""
        return {
            "structure": self.structure(kind),
            "force_field": {"kind": kind, "files": self.files(kind)},
        }


def write_inputs(folder: Path, *, solvated: bool) -> Inputs:
    """Write all files; the CHARMM files are of the dry peptide only."""
    import openmm
    from openmm import app, unit

    from cgal_plugin.oracle.system import AllAtomModel

    peptide = AllAtomModel.from_sequence(SEQUENCE)
    field = app.ForceField(FORCE_FIELD, WATER)
    topology, positions = peptide.topology, peptide.positions / 10 * unit.nanometer
    options: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
    if solvated:
        modeller = app.Modeller(topology, positions)
        state = random.getstate()
        random.seed(1)
        box = openmm.Vec3(1, 1, 1) * EDGE / 10 * unit.nanometer
        modeller.addSolvent(field, boxSize=box, ionicStrength=0.15 * unit.molar)
        random.setstate(state)
        topology, positions = modeller.topology, modeller.positions
        options = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * unit.nanometer}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ParmEd
        parmed = pytest.importorskip("parmed")

        flexible = field.createSystem(topology, rigidWater=False, **options)
        structure = parmed.openmm.load_topology(
            topology, flexible, xyz=np.array(positions.value_in_unit(unit.angstrom))
        )
        if solvated:
            structure.box = [EDGE, EDGE, EDGE, 90, 90, 90]
        for name in ("x.prmtop", "x.rst7", "x.top", "x.gro"):
            structure.save(str(folder / name), overwrite=True)
        if not solvated:
            _write_charmm(parmed, folder)
    with open(folder / "x.pdb", "w", encoding="utf-8") as handle:
        app.PDBFile.writeFile(topology, positions, handle, keepIds=True)
    rigid = field.createSystem(topology, constraints=app.HBonds, **options)
    (folder / "x.xml").write_text(openmm.XmlSerializer.serialize(rigid))
    return Inputs(folder, solvated)


def _write_charmm(parmed: Any, folder: Path) -> None:
    """Write PSF and parameters of the AMBER files: every atom has its own type."""
    structure = parmed.load_file(str(folder / "x.prmtop"), str(folder / "x.rst7"))
    for i, atom in enumerate(structure.atoms):
        kind = parmed.AtomType(f"T{i}", i + 1, atom.mass, atom.atomic_number)
        kind.set_lj_params(atom.epsilon, atom.rmin, atom.epsilon / 2, atom.rmin)
        atom.atom_type, atom.type = kind, kind.name
    for dihedral in structure.dihedrals:
        dihedral.improper = False
    for kind in structure.dihedral_types:
        kind.scee, kind.scnb = 1.2, 2.0
    psf = parmed.charmm.CharmmPsfFile.from_structure(structure)
    psf.save(str(folder / "c.psf"), overwrite=True)
    parameters = parmed.charmm.CharmmParameterSet.from_structure(structure)
    parameters.write(par=str(folder / "c.prm"), top=str(folder / "c.rtf"))


def with_radii(prmtop: str, folder: Path) -> str:
    """Write a copy of a prmtop file with the radii that implicit solvent needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ParmEd
        parmed = pytest.importorskip("parmed")

        structure = parmed.load_file(prmtop)
        parmed.tools.changeRadii(structure, "mbondi2").execute()
        path = str(folder / Path(prmtop).name)
        structure.save(path, overwrite=True)
    return path
