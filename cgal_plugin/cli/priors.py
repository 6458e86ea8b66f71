"""Commands for priors of other programs: read them, and write ours for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgal_plugin.cli.options import EmbeddingName, Mapping, MaybeTemperature, Out, load_topology
from cgal_plugin.errors import ConfigError
from cgal_plugin.priors.tables import FADE_NOTE

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.priors import PriorSet

Format = Annotated[str, typer.Option(help="torchmd-cg (YAML) or mlcg (.pt); auto: by the ending.")]
MaybeMolecule = Annotated[
    str | None,
    typer.Option(
        "--topology",
        "-t",
        help="Molecule to restrict the priors to: saved topology, structure file or sequence (default: any).",
    ),
]
Terms = Annotated[str | None, typer.Option(help="Comma-separated terms (default: all).")]
_FORMATS = {"torchmd-cg": (".yaml", ".yml"), "mlcg": (".pt", ".pth", ".ckpt")}


def import_priors(
    file: Annotated[Path, typer.Argument(help="Prior force field of torchmd-cg, or prior file of mlcg.")],
    out: Out,
    format: Format = "auto",
    embedding: EmbeddingName = None,
    topology: MaybeMolecule = None,
    mapping: Mapping = "CA",
    temperature: MaybeTemperature = None,
    terms: Terms = None,
    repulsion: Annotated[
        str | None, typer.Option(help="torchmd-cg: term of lj, repulsioncg (default) or repulsion.")
    ] = None,
    exclude_bonds: Annotated[
        int | None,
        typer.Option(min=0, help="No repulsion up to so many bonds (default: torchmd-cg 1, mlcg 2)."),
    ] = None,
) -> None:
    """Write priors of torchmd-cg or mlcg as a prior file, for any molecule whose bead types they have.

    The file is for `cgal train --priors`, training.priors.file of a run, and `CGBonds: {file: ...}`.
    """
    from cgal_plugin.priors import read_torchmd_priors

    kind = _format(format, file)
    molecule = None if topology is None else load_topology(topology, mapping, embedding)
    if kind == "mlcg":
        if repulsion is not None:
            raise ConfigError("--repulsion is for torchmd-cg: mlcg has one form of repulsion")
        made = _read_mlcg(file, embedding, temperature, exclude_bonds, molecule)
        made = made if terms is None else made.with_terms(_split(terms))
    else:
        made = read_torchmd_priors(
            file,
            molecule,
            temperature=temperature,
            repulsion=repulsion,
            exclude_bonds=exclude_bonds,
            terms=None if terms is None else _split(terms),
        )
    made.save(out)
    for term in made.terms:
        typer.echo(json.dumps({"term": term, "rows": sum(row["term"] == term for row in made.rows)}))
    typer.echo(str(out))


def export_priors(
    priors: Annotated[Path, typer.Argument(help="Prior file of cgal fit-priors or import-priors.")],
    out: Out,
    format: Format = "auto",
    embedding: EmbeddingName = None,
    topology: MaybeMolecule = None,
    mapping: Mapping = "CA",
    terms: Terms = None,
) -> None:
    """Write a prior file as torchmd's prior force field, or as priors that mlcg loads."""
    from cgal_plugin.priors import PriorSet, write_mlcg_priors, write_torchmd_priors

    kind = _format(format, out)
    found = PriorSet.load(priors)
    if topology is not None:
        found = found.for_topology(load_topology(topology, mapping, embedding), source=str(priors))
    found = found if terms is None else found.with_terms(_split(terms))
    if kind == "mlcg":
        write_mlcg_priors(found, out, _given(embedding, out))
    else:
        write_torchmd_priors(found, out)
    typer.echo(str(out))


def _read_mlcg(
    file: Path,
    embedding: str | None,
    temperature: float | None,
    exclude_bonds: int | None,
    molecule: CGTopology | None,
) -> PriorSet:
    from cgal_plugin import register
    from cgal_plugin.models.mlcg_files import read_mlcg
    from cgal_plugin.priors import priors_from_mlcg
    from cgal_plugin.provenance import hash_file

    register()  # it silences Warp, which prints when TorchMD-Net is imported
    found, numbering = read_mlcg(file), _given(embedding, file)
    if found.state is not None:
        typer.echo(f"note: {file} also has a network: `cgal import-model` reads both", err=True)
    priors = priors_from_mlcg(
        found.parts,
        molecule,
        numbering,
        temperature=temperature,
        exclude_bonds=exclude_bonds,
        source={"file": file.name, "sha256": hash_file(file)},
    )
    if "dihedrals" in priors.terms:
        typer.echo(f"note: {file}: {FADE_NOTE}", err=True)
    return priors


def _given(embedding: str | None, file: Path) -> str:
    if embedding is None:
        raise ConfigError(
            f"{file} numbers bead types, and does not say how: give --embedding mlcg-tk (CA beads of "
            "mlcg-tk), mlcg-tk-5bead, or a table"
        )
    return embedding


def _format(name: str, file: Path) -> str:
    """Return the format that ``--format`` names, or that the ending of the file says.

    Raises
    ------
    ConfigError
        It is not known.
    """
    if name in _FORMATS:
        return name
    found = [f for f, endings in _FORMATS.items() if file.suffix.lower() in endings]
    if name != "auto" or not found:
        what = f"--format {name!r}" if name != "auto" else f"the ending of {str(file)!r}"
        raise ConfigError(f"{what} is not known; use --format {' or '.join(_FORMATS)}")
    return found[0]


def _split(terms: str) -> tuple[str, ...]:
    return tuple(term.strip() for term in terms.split(",") if term.strip())
