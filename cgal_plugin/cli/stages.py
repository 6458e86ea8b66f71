"""Commands for training, CG dynamics, selection and evaluation, on files."""

from __future__ import annotations

import json
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import Annotated, Any

import typer

from cgal_plugin.cli.options import (
    EmbeddingName,
    Mapping,
    MaybeTemperature,
    Molecule,
    Out,
    Seed,
    Store,
    Top,
    Trust,
    Units,
    length_unit,
    load_topology,
)
from cgal_plugin.errors import ConfigError, DynamicsError


def fit_priors(
    store: Store,
    out: Out,
    terms: Annotated[
        str | None, typer.Option(help="Comma-separated terms; angle_series and pairs need force_matching.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="force_matching or likelihood. Terms and method are by default as in a run."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the fits.")] = None,
) -> None:
    """Fit prior terms to the frames of a data store."""
    from cgal_plugin import register
    from cgal_plugin.components.store_priors import fit_store_priors
    from cgal_plugin.data import DataStore
    from cgal_plugin.priors.plot import plot_priors

    register()  # before TorchMD-Net is imported: its import of Warp prints a banner
    priors = fit_store_priors(
        DataStore(store),
        terms=None if terms is None else tuple(t.strip() for t in terms.split(",") if t.strip()),
        method=method,
        message=lambda text: typer.echo(text, err=True),
    )
    priors.save(out)
    if plot is not None:
        plot_priors(priors, plot)
    for row in (*priors.table(), *({"rejected": record} for record in priors.rejected)):
        typer.echo(json.dumps(row, default=str))


def train(
    stores: Annotated[list[Path], typer.Argument(help="Data stores; they may be of different molecules.")],
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="YAML with TorchMD-Net keys (as for cgal-train).")
    ] = None,
    priors: Annotated[Path | None, typer.Option(help="Priors saved by fit-priors.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune from.")] = None,
    trust: Trust = False,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores; the result is the same. Default: all that may be used.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train CGSchNet on data stores; repeat the command to resume.

    Mean forces are weighted by their error, as in `cgal run`, unless dataset_arg sets repeat. cgal-train is
    TorchMD-Net's own command line.
    """
    from cgal_plugin.config.load import read_mapping
    from cgal_plugin.priors import PriorSet
    from cgal_plugin.training import train as run
    from cgal_plugin.training.plain_copy import plain_copy
    from cgal_plugin.training.settings import store_keys

    given: dict[str, Any] = {} if config is None else dict(read_mapping(config)[0])
    keys = store_keys(given, stores, None if priors is None else PriorSet.load(priors))
    if init is not None and trust:
        init = plain_copy(init, out / "init.ckpt")
    mode = "scratch" if init is None else "finetune"
    result = run(
        keys, out, init_checkpoint=init, mode=mode, seed=seed, progress=_echo_epoch, cores=cores or "auto"
    )
    typer.echo(str(result.checkpoint))


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="TorchMD-Net checkpoint, or an exported TorchScript file.")
    ],
    topology: Molecule,
    out: Out,
    mapping: Mapping = "CA",
    replicas: Annotated[int, typer.Option(min=1, help="Copies in one System (TorchScript).")] = 1,
    trust: Trust = False,
    temperature: MaybeTemperature = None,
    embedding: EmbeddingName = None,
    form: Annotated[
        str, typer.Option("--format", help="torchscript, portable, or auto: portable for the suffix .npz.")
    ] = "auto",
) -> None:
    """Write a trained model as a self-contained potential for OpenMM, with its temperature.

    A TorchScript file is for TorchForce, and for the given --replicas. A portable file is for the other
    backends and any number of replicas; an exported TorchScript file can be given in place of a checkpoint to
    make one. Without --embedding, the bead types of a structure or sequence are numbered as in the model.
    """
    from cgal_plugin import register
    from cgal_plugin.export import export_potential
    from cgal_plugin.export.loading import convert_potential, is_exported, load_metadata
    from cgal_plugin.export.potential import resolve_form
    from cgal_plugin.training import load_model

    form = resolve_form(form, out)  # before TorchMD-Net is imported, which takes seconds
    if is_exported(checkpoint) and form == "portable":
        known = load_metadata(checkpoint).get("embedding") or "cgal"
        molecule = load_topology(topology, mapping, embedding, known)
        convert_potential(checkpoint, out, molecule, temperature=temperature)
        typer.echo(str(out))
        return

    register()  # it silences Warp, which prints when TorchMD-Net is imported
    model: Any = load_model(checkpoint, trust=trust)
    molecule = load_topology(topology, mapping, embedding, model.cgal_embedding)
    names = {type(prior).__name__ for prior in model.prior_model or ()}
    if len(molecule.bridge_index) and "CGBonds" in names and "CGBridges" not in names:
        typer.echo(
            f"warning: {molecule!r} has disulfide bridges, and the priors of {checkpoint} have none: nothing "
            "but the network holds them",
            err=True,
        )
    made = export_potential(model, molecule, out, form=form, n_replicas=replicas, temperature=temperature)
    if made["temperature"] is None:
        typer.echo(
            f"warning: {checkpoint} does not record the temperature of its training data, and so does {out}: "
            "export with --temperature, or give it to cgal simulate",
            err=True,
        )
    typer.echo(str(out))


def simulate(
    potential: Annotated[Path, typer.Option("--potential", "-p", help="Exported potential.")],
    topology: Molecule,
    start: Annotated[Path, typer.Option(help="Start frames: trajectory, npz, npy or data store.")],
    steps: Annotated[int, typer.Option(min=1)],
    out: Out,
    temperature: MaybeTemperature = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Of all temperatures (default: 1 of each); TorchScript: as exported."),
    ] = None,
    temperatures: Annotated[
        str, typer.Option(help="Parallel tempering: temperatures in K, ascending, as 400,460,530.")
    ] = "",
    exchange_interval: Annotated[
        int | None, typer.Option(min=1, help="Steps between attempts to exchange (default: between frames).")
    ] = None,
    timestep: Annotated[float, typer.Option(min=1e-3, help="fs.")] = 4.0,
    friction: Annotated[float, typer.Option(min=0.0, help="1/ps.")] = 1.0,
    report_interval: Annotated[int, typer.Option(min=1, help="Steps between frames.")] = 100,
    mapping: Mapping = "CA",
    top: Top = None,
    units: Units = "angstrom",
    backend: Annotated[
        str, typer.Option(help="auto, cpu, fast, gpu, torchforce, pythontorch, python.")
    ] = "auto",
    platform: Annotated[str, typer.Option(help="OpenMM platform: Reference, CUDA, ...")] = "Reference",
    embedding: EmbeddingName = None,
    seed: Seed = 0,
) -> None:
    """Run CG Langevin dynamics; repeat the command to resume.

    Without --embedding, the bead types of a structure or sequence are numbered as in the potential.

    With --temperatures, a walker is a replica whose temperature changes by exchanges. Frames are written by
    walker, and by temperature in OUT/temperatures; energies for MBAR in OUT/energies.npz.
    """
    from cgal_plugin.dynamics.potential_metadata import read_metadata
    from cgal_plugin.dynamics.simulate_file import parse_temperatures, simulate_file
    from cgal_plugin.dynamics.tempering_report import report_lines

    ladder = parse_temperatures(temperatures)
    known = read_metadata(potential).get("embedding") or "cgal"
    result = simulate_file(
        potential,
        load_topology(topology, mapping, embedding, known),
        start,
        top=top,
        unit=length_unit(units),
        steps=steps,
        timestep_fs=timestep,
        temperature=temperature,
        friction=friction,
        n_replicas=(len(ladder) or 1) if replicas is None else replicas,
        temperatures=ladder,
        exchange_interval=exchange_interval,
        seed=seed,
        out_dir=out,
        report_interval=min(report_interval, steps),
        backend=backend,
        platform=platform,
        message=lambda text: typer.echo(text, err=True),
    )
    for event in result.events:
        typer.echo(f"blow-up: replica {event.replica} at step {event.step}: {event.kind}, {event.detail}")
    typer.echo(
        f"{result.total_frames} frames of {len(result.trajectories)} replicas in {out}"
        f" (backend {result.backend})"
    )
    if ladder:
        result.save_temperatures()
        for line in report_lines(result.tempering):
            typer.echo(line)
        typer.echo(f"frames by temperature in {out / 'temperatures'}, energies in {result.energies_file}")
    if not result.total_frames:
        raise DynamicsError(
            "every replica blew up before its first frame: use a smaller --timestep, start frames similar to "
            f"the training data, or train longer. {out} keeps it: use another --out"
        )


def select(
    candidates: Annotated[
        list[Path], typer.Option("--candidates", "-c", help="Frames to select from (repeatable).")
    ],
    reference: Annotated[
        list[Path],
        typer.Option("--reference", "-r", help="Known frames: files, data stores, folders (repeatable)."),
    ],
    topology: Molecule,
    out: Out,
    n_select: Annotated[int, typer.Option("-n", min=1, help="Number of frames to select.")] = 16,
    strategy: Annotated[str, typer.Option(help="rmsd, coverage or random.")] = "rmsd",
    min_rmsd: Annotated[float, typer.Option(min=0.0, help="Å.")] = 0.0,
    max_rmsd: Annotated[float, typer.Option(min=0.0, help="Å.")] = float("inf"),
    diverse: bool = True,
    mapping: Mapping = "CA",
    top: Top = None,
    units: Units = "angstrom",
    seed: Seed = 0,
) -> None:
    """Select the frames that the reference covers least; writes an npz for `cgal label`.

    The reference is read shard by shard and may be larger than memory.
    """
    from cgal_plugin.selector import make_selector
    from cgal_plugin.selector.select_files import select_files

    molecule = load_topology(topology, mapping)
    if strategy not in ("rmsd", "coverage", "random"):
        raise ConfigError(f"--strategy {strategy!r} is not known; use rmsd, coverage or random")
    selector = make_selector(
        strategy, n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, diverse=diverse
    )
    chosen = select_files(selector, candidates, reference, molecule, out, top=top, unit=length_unit(units))
    for index, distance in zip(chosen.indices, chosen.distances, strict=True):
        typer.echo(f"{index}\t{distance:.3f}")


def evaluate(
    model: Annotated[list[Path], typer.Option("--model", "-m", help="CG trajectories (repeatable).")],
    reference: Annotated[list[Path], typer.Option("--reference", "-r", help="Reference (repeatable).")],
    topology: Molecule,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file (default: print).")] = None,
    lag: Annotated[
        int | None, typer.Option(min=1, help="TICA lag in frames of the reference (default: 10).")
    ] = None,
    lag_ps: Annotated[float | None, typer.Option(min=1e-3, help="TICA lag in ps, instead of --lag.")] = None,
    interval_ps: Annotated[
        float | None,
        typer.Option(min=1e-3, help="Time between reference frames, ps (default: from the files)."),
    ] = None,
    temperature: MaybeTemperature = None,
    mapping: Mapping = "CA",
    top: Top = None,
    units: Units = "angstrom",
    seed: Seed = 0,
) -> None:
    """Compare CG trajectories with a reference: W1 in TICA space, observables, free energies."""
    from cgal_plugin.analysis.evaluate_files import evaluate_files
    from cgal_plugin.data.temperature import common_temperature
    from cgal_plugin.provenance import write_json
    from cgal_plugin.runs.w1_text import w1_text

    if lag is not None and lag_ps is not None:
        raise ConfigError("give --lag (frames) or --lag-ps, not both")
    molecule = load_topology(topology, mapping)
    temperature = common_temperature([*model, *reference], temperature)
    result = evaluate_files(
        model,
        reference,
        molecule,
        lag_frames=lag,
        lag_ps=lag_ps,
        interval_ps=interval_ps,
        top=top,
        unit=length_unit(units),
        temperature=300.0 if temperature is None else temperature,
        seed=seed,
        on_failure="record",
    )
    if temperature is None:
        typer.echo(
            "warning: the files record no temperature; free energies are for 300 K: give --temperature",
            err=True,
        )
    for name, reason in result.failures.items():
        typer.echo(f"{name} not computed: {reason}", err=True)
    if out is None:
        typer.echo(json.dumps(result.to_dict(surfaces=False), indent=2))
        return
    write_json(out, result.to_dict())
    facts = result.to_dict(surfaces=False)
    for key, name in (("w1", "W1"), ("w1_ucsc", "W1 (ucsc)")):
        if facts.get(key) is not None:
            typer.echo(f"{w1_text(name, facts[key])} ({facts[key]['unit']})")


def _echo_epoch(epoch: int, epochs: int, metrics: MappingType[str, Any]) -> None:
    shown = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, float) and k != "epoch")
    typer.echo(f"epoch {epoch}/{epochs}: {shown}")
