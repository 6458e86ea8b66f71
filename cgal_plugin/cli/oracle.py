"""Commands that run all-atom simulations or rebuild atoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cgal_plugin.cli.options import (
    Chains,
    ConfigFile,
    Frames,
    Ignore,
    Mapping,
    MaybeTemperature,
    Model,
    Out,
    Ph,
    Repair,
    Replace,
    Seed,
    System,
    Top,
    Units,
    Workers,
    length_unit,
    read_options,
)
from cgal_plugin.errors import OracleError


def seed(config: ConfigFile, out: Out) -> None:
    """Run the all-atom seed trajectories of a configuration and write a data store."""
    from cgal_plugin.components.seed_store import seed_store
    from cgal_plugin.config import load_yaml

    store = seed_store(load_yaml(config), out)
    typer.echo(f"{len(store.names())} shards in {store.root}")


def reference(
    config: ConfigFile,
    out: Out,
    interval_ps: Annotated[float, typer.Option(min=1e-3, help="Time between stored frames, ps.")] = 2.0,
) -> None:
    """Run a reference ensemble as seed_data describes it and test its convergence; repeat to resume."""
    from cgal_plugin.benchmark.reference import build_reference
    from cgal_plugin.config import load_yaml

    typer.echo(str(build_reference(load_yaml(config), out, interval_ps=interval_ps)))


def backmap(
    frames: Frames,
    system: System,
    out: Annotated[Path, typer.Option("--out", "-o", help="All-atom PDB of the rebuilt frames.")],
    mapping: Mapping = "CA",
    top: Top = None,
    units: Units = "angstrom",
    workers: Workers = None,
    ph: Ph = 7.0,
    chain: Chains = None,
    model: Model = None,
    ignore: Ignore = None,
    replace: Replace = None,
    repair: Repair = False,
    seed: Seed = 0,
) -> None:
    """Rebuild all atoms from CG frames and check the stereochemistry."""
    from cgal_plugin.components.label_files import backmap_file

    results = backmap_file(
        frames,
        system,
        out,
        mapping=mapping,
        top=top,
        unit=length_unit(units),
        workers="auto" if workers is None else workers,
        seed=seed,
        options=read_options(ph, chain, model, ignore, replace, repair),
        message=lambda text: typer.echo(text, err=True),
    )
    for i, result in enumerate(results):
        typer.echo(f"{i}\t{result.method}\t{'ok' if result.ok else result.reason}")
    if not any(result.ok for result in results):
        raise OracleError(f"none of the {len(results)} frames could be backmapped; the reasons are above")


def label(
    frames: Frames,
    system: System,
    out: Annotated[Path, typer.Option("--out", "-o", help="Data store; new labels are added to it.")],
    temperature: MaybeTemperature = None,
    mode: Annotated[
        str | None,
        typer.Option(help="steered, free or mean_force. Defaults are those of cgal run: steered."),
    ] = None,
    restraint: Annotated[
        float | None, typer.Option(min=0.0, help="Restraint of the beads, kcal/mol/Å² (free, steered).")
    ] = None,
    production_ps: Annotated[float | None, typer.Option(min=0.0, help="Labelled MD per start, ps.")] = None,
    solvent: Annotated[str, typer.Option(help="obc2, gbn2 or tip3pfb.")] = "obc2",
    mapping: Mapping = "CA",
    top: Top = None,
    units: Units = "angstrom",
    workers: Workers = None,
    ph: Ph = 7.0,
    chain: Chains = None,
    model: Model = None,
    ignore: Ignore = None,
    replace: Replace = None,
    repair: Repair = False,
    seed: Seed = 0,
) -> None:
    """Label CG frames with the all-atom oracle; repeat the command to resume."""
    from cgal_plugin.components.label_files import label_file

    done, failed = label_file(
        frames,
        system,
        out,
        top=top,
        unit=length_unit(units),
        workers="auto" if workers is None else workers,
        temperature=temperature,
        mode=mode,
        restraint=restraint,
        production_ps=production_ps,
        solvent=solvent,
        mapping=mapping,
        seed=seed,
        options=read_options(ph, chain, model, ignore, replace, repair),
        message=lambda text: typer.echo(text, err=True),
    )
    for index, reason in failed:
        typer.echo(f"frame {index} quarantined: {reason}")
    typer.echo(f"{done} frames labelled, {len(failed)} quarantined, in {out}")
    if not done:
        raise OracleError("no frame could be labelled; the reasons are above")
