"""XML files of OpenMM run no code when they are read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openmm
import pytest
from openmm import app

from cgal_plugin.config.force_field import openmm_file
from cgal_plugin.errors import OracleError
from cgal_plugin.oracle import AllAtomModel
from cgal_plugin.oracle.user_system import load_user_system
from cgal_plugin.oracle.xml_code import check_force_field_files

FORCE_FIELD = "amber19/protein.ff19SB.xml"


class Runs:
    """A potential whose pickle creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return eval, (f"__import__('pathlib').Path({str(self.mark)!r}).touch() or print",)

    def __call__(self, state: Any) -> Any:
        return 0.0, None


@pytest.fixture(scope="module")
def structure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("x") / "x.pdb"
    peptide = AllAtomModel.from_sequence("AYK")
    with path.open("w") as handle:
        app.PDBFile.writeFile(peptide.topology, peptide.positions / 10 * openmm.unit.nanometer, handle)
    return path


@pytest.fixture(scope="module")
def system_text(structure: Path) -> str:
    topology = app.PDBFile(str(structure)).topology
    return str(openmm.XmlSerializer.serialize(app.ForceField(FORCE_FIELD).createSystem(topology)))


def _alone(system: openmm.System, force: openmm.Force) -> None:
    system.addForce(force)


def _inside(system: openmm.System, force: openmm.Force) -> None:
    outer = openmm.CustomCVForce("a")
    outer.addCollectiveVariable("a", force)
    system.addForce(outer)


@pytest.mark.parametrize("add", [_alone, _inside])
def test_a_serialised_python_force_is_not_unpickled(
    add: Callable[[Any, Any], None], structure: Path, system_text: str, tmp_path: Path
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "system.xml"
    system = openmm.XmlSerializer.deserialize(system_text)
    add(system, openmm.PythonForce(Runs(mark), {}))
    text = openmm.XmlSerializer.serialize(system)
    assert "PythonForce" in text
    for changed in (text, text.replace("<Forces>", "<Forces><!-- > -->")):
        path.write_text(changed)
        mark.unlink(missing_ok=True)
        with pytest.raises(OracleError, match="PythonForce"):
            load_user_system("system", [path], None, structure)
        assert not mark.exists()


@pytest.mark.parametrize("hidden", ["&#80;ythonForce", "<!-- a > -->", "<!DOCTYPE a>"])
def test_what_could_hide_one_is_refused(
    hidden: str, structure: Path, system_text: str, tmp_path: Path
) -> None:
    path = tmp_path / "system.xml"
    path.write_text(system_text.replace("<Forces>", f"<Forces>{hidden}", 1))
    with pytest.raises(OracleError, match="serialize"):
        load_user_system("system", [path], None, structure)
    path.write_text(system_text)
    assert load_user_system("system", [path], None, structure).topology.getNumAtoms() > 40


def _code(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()"


FILES: dict[str, tuple[str, str]] = {
    "script": ("<ForceField><Script>{code}</Script></ForceField>", "<Script>"),
    "at the start": (
        "<ForceField><InitializationScript>{code}</InitializationScript></ForceField>",
        "<InitializationScript>",
    ),
    "evaluated": (
        '<ForceField><LennardJonesForce lj14scale="1" useDispersionCorrection="{code}"/></ForceField>',
        "useDispersionCorrection",
    ),
}


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_scripts_of_a_force_field_do_not_run(
    name: str, include: bool, structure: Path, tmp_path: Path
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "field.xml"
    text, word = FILES[name]
    path.write_text(text.format(code=_code(mark)))
    if include:
        (tmp_path / "outer.xml").write_text('<ForceField><Include file="field.xml"/></ForceField>')
    given = tmp_path / ("outer.xml" if include else "field.xml")
    with pytest.raises(OracleError, match=re.escape(word)) as error:
        load_user_system("openmm_xml", [FORCE_FIELD, str(given)], None, structure)
    assert str(path) in str(error.value)
    assert not mark.exists()


def test_installed_files_and_copies_of_them_are_read(tmp_path: Path) -> None:
    check_force_field_files(["charmm36.xml", "implicit/obc2.xml", FORCE_FIELD])
    own = openmm_file("implicit/obc2.xml")
    assert own is not None
    assert "<Script>" in own.read_text()
    copy = tmp_path / "obc2.xml"
    shutil.copy(own, copy)
    check_force_field_files([copy])
    copy.write_text(copy.read_text().replace("<Script>", "<Script>\nprint(1)\n", 1))
    with pytest.raises(OracleError, match="charmm36"):
        check_force_field_files([copy])
