"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgal_plugin.errors import ConfigError

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology

ConfigFile = Annotated[Path, typer.Argument(help="Configuration file (YAML).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output file or folder.")]
Store = Annotated[Path, typer.Argument(help="Data store.")]
Frames = Annotated[Path, typer.Argument(help="CG frames: trajectory, npz or npy.")]
System = Annotated[str, typer.Option(help="One-letter sequence, or PDB file.")]
Molecule = Annotated[
    str,
    typer.Option(
        "--topology", "-t", help="Saved CG topology (.json), structure file, or one-letter sequence."
    ),
]
Mapping = Annotated[str, typer.Option(help="CA, CACB, or a YAML file.")]
Top = Annotated[Path | None, typer.Option("--top", help="Topology file for DCD and XTC files.")]
Units = Annotated[
    str,
    typer.Option("--units", help="Length unit of npy and npz files: angstrom or nm."),
]
Temperature = Annotated[float, typer.Option(min=1e-3, help="K.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]


def length_unit(units: str) -> str:
    """Return the length unit that ``--units`` names.

    Raises
    ------
    ConfigError
        The unit is not known.
    """
    name = {"å": "angstrom", "a": "angstrom", "angstroms": "angstrom", "nanometer": "nm"}.get(
        units.lower(), units.lower()
    )
    if name not in ("angstrom", "nm"):
        raise ConfigError(f"--units {units!r} is not known; use angstrom or nm")
    return name


def load_topology(molecule: str, mapping: str) -> CGTopology:
    """Load the CG topology that ``--topology`` names: a file or a one-letter sequence.

    Raises
    ------
    MappingError
        The text is neither, or the molecule cannot be mapped.
    """
    from cgal_plugin.mapping import CGTopology

    if Path(molecule).suffix or Path(molecule).exists():
        return CGTopology.from_file(molecule, mapping)
    return CGTopology.from_sequence(molecule, mapping)
