"""Refuse XML files of OpenMM that hold code: reading them would run it.

``openmm.app.ForceField`` runs the Python of ``<Script>`` and ``<InitializationScript>``, and evaluates
``useDispersionCorrection``. A serialised ``PythonForce`` holds a pickle, a ``TorchForce`` TorchScript.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from cgal_plugin.errors import OracleError
from cgal_plugin.provenance import hash_file

_CODE_FORCES = ("PythonForce", "TorchForce")
_EVALUATED = "useDispersionCorrection"
_TRUTH = ("True", "False", "0", "1")
_OWN_SYSTEM = "build the System in a script that you trust, and give it serialised (kind: system)"


def check_force_field_files(files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse files of ``openmm.app.ForceField`` with code; those of OpenMM and other packages are trusted.

    Files and includes are looked for where ForceField does. A copy of an installed file is accepted.

    Raises
    ------
    OracleError
        A file, or one that it includes, has code.
    """
    from openmm.app import forcefield

    installed = [Path(folder) for folder in forcefield._getDataDirectories()]
    waiting, seen = [os.fspath(name) for name in files], set()
    while waiting:
        name = waiting.pop(0)
        places = [Path(name), *(folder / name for folder in installed)]
        path = next((place for place in places if place.is_file()), None)
        if path is None or path.resolve() in seen:
            continue  # what is missing is said by ForceField
        seen.add(path.resolve())
        root = ElementTree.parse(path).getroot()
        if not _is_installed(path, installed):
            _check_elements(path, root)
        for included in root.findall("Include"):
            wanted = included.attrib["file"]
            beside = path.parent / wanted
            waiting.append(str(beside) if beside.is_file() else wanted)


def check_system_text(text: str, what: str) -> None:
    """Refuse the text of a serialised System that has forces with code.

    Raises
    ------
    OracleError
        It has one; or it has character references, which could hide one.
    """
    for name in _CODE_FORCES:
        if name in text:
            raise OracleError(
                f"{what} has a {name}, whose code would run when the file is read. Leave it out of the System"
            )
    if "&#" in text or "<!" in text:
        raise OracleError(
            f"{what} has character references, comments or declarations, which "
            "openmm.XmlSerializer.serialize(system) does not write: write it again with it"
        )


def _is_installed(path: Path, installed: Sequence[Path]) -> bool:
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in installed):
        return True
    copies = [found for folder in installed for found in folder.rglob(path.name)]
    return bool(copies) and hash_file(path) in {hash_file(found) for found in copies}


def _check_elements(path: Path, root: ElementTree.Element) -> None:
    for element in root.iter():
        if "Script" in str(element.tag):
            raise OracleError(
                f"force field file {str(path)!r} has a <{element.tag}>, whose Python code would run when the "
                f"file is read. Give an installed file by its name, such as charmm36.xml; or {_OWN_SYSTEM}"
            )
        value = element.get(_EVALUATED, "True")
        if value not in _TRUTH:
            raise OracleError(
                f"force field file {str(path)!r} has {_EVALUATED}={value[:40]!r}, which would run as Python "
                f"code; expected one of {', '.join(_TRUTH)}"
            )
