"""The section ``system.force_field``: files of the user's own all-atom system, and their content."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cgal_plugin.config.quantities import Angstrom
from cgal_plugin.config.section import Section
from cgal_plugin.provenance import hash_file

_INCLUDES = {
    "gromacs": re.compile(r"^\s*#\s*include\s+[\"<]([^\">]+)[\">]", re.MULTILINE),
    "openmm_xml": re.compile(r"<Include\s+file\s*=\s*[\"']([^\"']+)[\"']"),
}


def _list(value: Any) -> Any:
    """Accept one name instead of a list."""
    return (value,) if isinstance(value, str | Path) else value


class ForceField(Section):
    """The user's own all-atom system. `system.structure` has its coordinates and its box."""

    kind: Literal["amber", "gromacs", "charmm", "openmm_xml", "system"]
    """Format of the files. openmm_xml and system: the structure (PDB, mmCIF) also gives the topology."""
    files: Annotated[tuple[str, ...], BeforeValidator(_list), Field(min_length=1)]
    """amber: prmtop; gromacs: top; charmm: psf, and parameters (prm, rtf, str); openmm_xml: files of
    a ForceField, also OpenMM's own, such as amber19/protein.ff19SB.xml; system: serialised System."""
    include: Path | None = None
    """gromacs: folder of included files. None: that of the GROMACS installation."""
    cutoff: Annotated[Angstrom, Field(ge=5, le=50)] | None = None
    """Range of Lennard-Jones and of direct electrostatics in a periodic box, Å. None: 9 (amber, openmm_xml),
    10 (gromacs), 12 with a switch from 10 (charmm); system: as in the file."""
    implicit_solvent: Literal["hct", "obc1", "obc2", "gbn", "gbn2"] | None = None
    """amber, charmm: implicit solvent, which their files do not name. None: as in the files (vacuum, or their
    water)."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Content of the files, of what they include, and of the structure; recorded by itself, not given."""

    @model_validator(mode="after")
    def _fitting(self) -> ForceField:
        if self.include is not None and self.kind != "gromacs":
            raise ValueError(f"include is for kind gromacs; this kind is {self.kind}")
        if self.cutoff is not None and self.kind == "system":
            raise ValueError("cutoff: a serialised System has its own; leave it out")
        if self.implicit_solvent is not None and self.kind not in ("amber", "charmm"):
            raise ValueError(
                f"implicit_solvent is for kinds amber and charmm; this kind is {self.kind}"
                + ("; add implicit/obc2.xml to the files" if self.kind == "openmm_xml" else "")
            )
        if self.kind in ("amber", "gromacs", "system") and len(self.files) != 1:
            raise ValueError(f"kind {self.kind} needs exactly one file; {len(self.files)} are given")
        return self


def openmm_file(name: str) -> Path | None:
    """Return the file of OpenMM's own force fields with this name, or None."""
    spec = importlib.util.find_spec("openmm")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "app" / "data" / name
        if path.is_file():
            return path
    return None


def content_hashes(
    kind: str,
    files: Sequence[str | os.PathLike[str]],
    include: str | os.PathLike[str] | None = None,
    others: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, str]:
    """Return file → SHA-256 (hex) of files, of what they include, and of ``others``.

    Includes that do not exist are skipped: they may stand in a branch that is not used.
    """
    found: dict[str, str] = {}
    waiting = [Path(f) if Path(f).is_file() else openmm_file(os.fspath(f)) for f in files]
    folders = [Path(f).parent for f in files] + ([Path(include)] if include is not None else [])
    pattern = _INCLUDES.get(kind)
    while waiting:
        path = waiting.pop(0)
        if path is None or not path.is_file() or str(path) in found:
            continue
        found[str(path)] = hash_file(path)
        if pattern is not None:
            for name in pattern.findall(path.read_text(encoding="utf-8", errors="replace")):
                options = [folder / name for folder in (*folders, path.parent)]
                waiting.append(next((p for p in options if p.is_file()), None))
    for other in others:
        if Path(other).is_file():
            found[str(other)] = hash_file(other)
    return found


def changed(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the files whose content differs from the recorded one."""
    return [name for name, digest in recorded.items() if now.get(name) != digest]
