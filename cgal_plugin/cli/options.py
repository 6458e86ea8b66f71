"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgal_plugin.errors import ConfigError, MappingError

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.oracle.options import ReadOptions

ConfigFile = Annotated[Path, typer.Argument(help="Configuration file (YAML).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output file or folder.")]
Store = Annotated[Path, typer.Argument(help="Data store.")]
Frames = Annotated[Path, typer.Argument(help="CG frames: trajectory, npz or npy.")]
System = Annotated[
    str, typer.Option(help="One-letter sequence, structure file (PDB, mmCIF, .gz), or YAML file of a run.")
]
Ph = Annotated[float, typer.Option("--ph", help="pH for missing hydrogens.")]
Chains = Annotated[list[str] | None, typer.Option("--chain", help="Chain to read (repeatable).")]
Model = Annotated[int | None, typer.Option("--model", help="Number of the model to read.")]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", help="Residue to leave out (repeatable).")]
Replace = Annotated[
    list[str] | None, typer.Option("--replace", help="Residue to replace, as MSE=MET (repeatable).")
]
Repair = Annotated[bool, typer.Option("--repair", help="Add missing side-chain atoms.")]
Molecule = Annotated[
    str,
    typer.Option(
        "--topology",
        "-t",
        "--sequence",
        "--structure",
        help="Saved CG topology (.json), structure file, or one-letter sequence.",
    ),
]
Mapping = Annotated[str, typer.Option(help="CA, CACB, 5bead, or a YAML file.")]
EmbeddingName = Annotated[
    str | None,
    typer.Option(
        "--embedding",
        help="Numbers of the bead types: cgal, mlcg-tk, torchmd-cg, a YAML file with a table, or for files "
        "of mlcg with five beads mlcg-tk-5bead.",
    ),
]
Top = Annotated[Path | None, typer.Option("--top", help="Topology file for DCD and XTC files.")]
Units = Annotated[
    str,
    typer.Option("--units", help="Length unit of npy and npz files: angstrom or nm."),
]
Temperature = Annotated[float, typer.Option(min=1e-3, help="K.")]
MaybeTemperature = Annotated[
    float | None, typer.Option("--temperature", min=1e-3, help="K (default: as recorded in the files).")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Unpickle the checkpoint even if this can run code from it.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]


Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes; 0: this process. Default: one per core that may be used."),
]


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


def load_topology(
    molecule: str, mapping: str, embedding: str | None = None, default: str = "cgal"
) -> CGTopology:
    """Load the CG topology that ``--topology`` names: a file or a one-letter sequence.

    Without ``embedding``, a saved topology keeps its own, and another molecule has ``default``.

    Raises
    ------
    MappingError
        The text is neither, the molecule cannot be mapped, or a saved topology has another embedding.
    """
    from cgal_plugin.mapping import CGTopology, resolve_spec
    from cgal_plugin.mapping.embedding import TABLE, check_given, resolve_embedding

    if embedding is not None and resolve_embedding(embedding).shares:
        embedding = None  # the numbering of a file, which topologies do not have
    if Path(molecule).suffix.lower() == ".json":
        saved = CGTopology.load(molecule)
        check_given(embedding, saved.embedding, f"topology {molecule!r}", MappingError)
        return saved
    if embedding is None and default.startswith(TABLE):
        raise MappingError(
            f"the file numbers bead types by a table ({default}), which is not in it: give the table with "
            "--embedding, or a topology that was saved with it"
        )
    spec = resolve_spec(mapping, default if embedding is None else embedding)
    if Path(molecule).suffix or Path(molecule).exists():
        return CGTopology.from_file(molecule, spec)
    return CGTopology.from_sequence(molecule, spec)


def read_options(
    ph: float,
    chains: list[str] | None,
    model: int | None,
    ignore: list[str] | None,
    replace: list[str] | None,
    repair: bool,
) -> ReadOptions:
    """Return the options of a structure from those of a command.

    Raises
    ------
    ConfigError
        ``--replace`` is not of the form OLD=NEW.
    """
    from cgal_plugin.errors import ConfigError
    from cgal_plugin.oracle.options import ReadOptions

    pairs = [text.partition("=") for text in replace or ()]
    wrong = [old + equal + new for old, equal, new in pairs if not (old and equal and new)]
    if wrong:
        raise ConfigError(f"--replace {wrong[0]!r}: expected OLD=NEW, such as MSE=MET")
    return ReadOptions(ph, ignore or (), {old: new for old, _, new in pairs}, repair, chains or None, model)
