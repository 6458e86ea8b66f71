"""``cgal import-model``: trained models of mlcg and TorchMD-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgal_plugin.cli.options import EmbeddingName, Mapping, MaybeTemperature, Out, load_topology


def import_model(
    model: Annotated[Path, typer.Argument(help="Model file of mlcg or TorchMD-Net.")],
    out: Out,
    embedding: EmbeddingName = None,
    topology: Annotated[
        str | None,
        typer.Option(
            "--topology",
            "-t",
            help="Molecule: saved topology, structure file or sequence (default: that in the file, if any).",
        ),
    ] = None,
    mapping: Mapping = "CA",
    temperature: MaybeTemperature = None,
    priors: Annotated[
        Path | None, typer.Option(help="Prior file, for a network whose file has no priors.")
    ] = None,
    cutoff: Annotated[
        float | None, typer.Option(help="State dict: upper cutoff, Å (other files have it).")
    ] = None,
    cutoff_lower: Annotated[float | None, typer.Option(help="State dict: lower cutoff, Å.")] = None,
    activation: Annotated[str | None, typer.Option(help="State dict: activation, such as tanh.")] = None,
    precision: Annotated[int | None, typer.Option(help="32 or 64 bits (default: as in the file).")] = None,
) -> None:
    """Write a trained model of mlcg or TorchMD-Net, with its priors, as a checkpoint for export and training.

    No code in the file is run, and mlcg is not needed. --embedding says how the model numbers bead types.
    """
    from cgal_plugin import register
    from cgal_plugin.models.importing import import_model as read
    from cgal_plugin.priors import PriorSet

    register()  # it silences Warp, which prints when TorchMD-Net is imported
    given = {"cutoff_upper": cutoff, "cutoff_lower": cutoff_lower, "activation": activation}
    found = read(
        model,
        embedding=embedding,
        topology=None if topology is None else load_topology(topology, mapping, embedding),
        temperature=temperature,
        priors=None if priors is None else PriorSet.load(priors),
        hparams={key: value for key, value in given.items() if value is not None},
        precision=precision,
    )
    found.save(out)
    for line in found.describe():
        typer.echo(line)
    typer.echo(str(out))
