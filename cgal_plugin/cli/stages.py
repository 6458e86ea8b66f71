"""Every stage of the loop as a command of its own, on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cgal_plugin.errors import ConfigError, DataError, DynamicsError, OracleError

Out = Annotated[Path, typer.Option("--out", "-o", help="What to write.")]
Molecule = Annotated[
    str,
    typer.Option(
        "--topology", "-t", help="Saved CG topology (.json), structure file, or one-letter sequence."
    ),
]
Mapping = Annotated[str, typer.Option(help="CA, CACB, or a YAML file.")]
Top = Annotated[Path | None, typer.Option("--top", help="Topology file of formats without one (DCD, XTC).")]
Temperature = Annotated[float, typer.Option(min=1e-3, help="K.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random stream.")]


def add_commands(app: typer.Typer) -> None:
    """Add the stages to the command line."""
    for command in (seed, reference, fit_priors, train, export, simulate, select, backmap, label, evaluate):
        app.command()(command)


def seed(
    config: Annotated[Path, typer.Argument(help="Configuration file (YAML).")],
    out: Out,
) -> None:
    """Run the all-atom seed trajectories of a configuration and write a data store."""
    from cgal_plugin.components.build import seed_store
    from cgal_plugin.config import load_yaml

    store = seed_store(load_yaml(config), out)
    typer.echo(f"{len(store.names())} shards in {store.root}")


def reference(
    config: Annotated[Path, typer.Argument(help="Configuration file (YAML); seed_data says what is run.")],
    out: Out,
    interval_ps: Annotated[float, typer.Option(min=1e-3, help="ps between the frames that are kept.")] = 2.0,
) -> None:
    """Run a reference ensemble and show whether it has converged; run again to resume."""
    from cgal_plugin.benchmark.reference import build_reference
    from cgal_plugin.config import load_yaml

    typer.echo(str(build_reference(load_yaml(config), out, interval_ps=interval_ps)))


def fit_priors(
    store: Annotated[Path, typer.Argument(help="Data store.")],
    out: Out,
    terms: Annotated[str, typer.Option(help="Comma-separated terms; pairs needs force matching.")] = (
        "bonds,angles,dihedrals,repulsion"
    ),
    method: Annotated[
        str, typer.Option(help="likelihood, or force_matching: dihedrals and pairs from forces.")
    ] = "likelihood",
    plot: Annotated[Path | None, typer.Option(help="PNG of the fits.")] = None,
) -> None:
    """Fit prior terms to the frames of a data store."""
    from cgal_plugin import register
    from cgal_plugin.data import DataStore
    from cgal_plugin.data.error_weights import frame_weights
    from cgal_plugin.priors import fit_priors as fit
    from cgal_plugin.priors.plot import plot_priors

    if method == "force_matching":
        register()  # before anything imports TorchMD-Net, which has Warp greet the screen
    data = DataStore(store)
    names, frames = tuple(t.strip() for t in terms.split(",") if t.strip()), data.load_all()
    forces = {"forces": frames.forces, "weights": frame_weights(frames), "method": method}
    priors = fit(data.topology, frames.positions, data.temperature, terms=names, **forces)
    priors.save(out)
    if plot is not None:
        plot_priors(priors, plot)
    for row in priors.table():
        typer.echo(json.dumps(row, default=str))


def train(
    store: Annotated[Path, typer.Argument(help="Data store.")],
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="YAML with TorchMD-Net keys (as for cgal-train).")
    ] = None,
    priors: Annotated[Path | None, typer.Option(help="Priors saved by fit-priors.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune from.")] = None,
    seed: Seed = 0,
) -> None:
    """Train CGSchNet on a data store; run again to resume. cgal-train is TorchMD-Net's own command.

    Averaged forces count by their error, as in a run, unless dataset_arg has repeat (a number a source).
    """
    from cgal_plugin.config.load import read_mapping
    from cgal_plugin.priors import PriorSet
    from cgal_plugin.training import train as run
    from cgal_plugin.training.settings import dataset_options

    keys: dict[str, Any] = {} if config is None else dict(read_mapping(config)[0])
    keys |= {"dataset": "CGDataset", "dataset_root": str(store)}
    keys["dataset_arg"] = {"repeat": "error", **dataset_options(keys.get("dataset_arg"))}
    if priors is not None:
        keys["prior_model"] = PriorSet.load(priors).to_prior_model()
    mode = "scratch" if init is None else "finetune"
    result = run(keys, out, init_checkpoint=init, mode=mode, seed=seed, progress=_echo_epoch)
    typer.echo(str(result.checkpoint))


def export(
    checkpoint: Annotated[Path, typer.Argument(help="TorchMD-Net checkpoint.")],
    topology: Molecule,
    out: Out,
    mapping: Mapping = "CA",
    replicas: Annotated[int, typer.Option(min=1, help="Copies in one System.")] = 1,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle the checkpoint even if that can run code in it.")
    ] = False,
) -> None:
    """Write a trained model as self-contained TorchScript for OpenMM."""
    from cgal_plugin import register
    from cgal_plugin.export import export_torchscript
    from cgal_plugin.training import load_model

    register()  # before anything imports TorchMD-Net, which has Warp greet the screen
    model = load_model(checkpoint, trust=True) if trust else checkpoint
    export_torchscript(model, load_topology(topology, mapping), out, n_replicas=replicas)
    typer.echo(str(out))


def simulate(
    potential: Annotated[Path, typer.Option("--potential", "-p", help="Exported potential.")],
    topology: Molecule,
    start: Annotated[Path, typer.Option(help="Start frames: trajectory, npz, npy or data store.")],
    steps: Annotated[int, typer.Option(min=1)],
    out: Out,
    temperature: Temperature = 300.0,
    replicas: Annotated[int, typer.Option(min=1, help="As exported.")] = 1,
    timestep: Annotated[float, typer.Option(min=1e-3, help="fs.")] = 4.0,
    friction: Annotated[float, typer.Option(min=0.0, help="1/ps.")] = 1.0,
    report_interval: Annotated[int, typer.Option(min=1, help="Steps between frames.")] = 100,
    mapping: Mapping = "CA",
    top: Top = None,
    backend: Annotated[str, typer.Option(help="auto, torchforce, pythontorch, python, fast.")] = "auto",
    platform: Annotated[str, typer.Option(help="OpenMM platform: Reference, CUDA, ...")] = "Reference",
    seed: Seed = 0,
) -> None:
    """CG Langevin dynamics; run again to resume."""
    import numpy as np

    from cgal_plugin.data.trajectories import load_trajectories
    from cgal_plugin.dynamics import simulate as run

    molecule = load_topology(topology, mapping)
    frames = np.concatenate(load_trajectories(start, molecule, top=top))
    _warn_of_temperature(potential, temperature)
    rows = np.linspace(0, len(frames) - 1, replicas).round().astype(int)
    result = run(
        potential,
        molecule,
        frames[rows],
        steps=steps,
        timestep_fs=timestep,
        temperature=temperature,
        friction=friction,
        n_replicas=replicas,
        seed=seed,
        out_dir=out,
        report_interval=min(report_interval, steps),
        backend=backend,
        platform=platform,
    )
    for event in result.events:
        typer.echo(f"blow-up: replica {event.replica} at step {event.step}: {event.kind}, {event.detail}")
    typer.echo(
        f"{result.total_frames} frames of {len(result.trajectories)} replicas in {out}"
        f" (backend {result.backend})"
    )
    if not result.total_frames:
        raise DynamicsError(
            "every replica blew up before its first frame: use a smaller --timestep, start frames like "
            "those that the model was trained on, or train longer"
        )


def select(
    candidates: Annotated[
        list[Path], typer.Option("--candidates", "-c", help="Frames to choose from (repeatable).")
    ],
    reference: Annotated[
        list[Path],
        typer.Option(
            "--reference", "-r", help="Frames that are covered: files, data stores, folders (repeatable)."
        ),
    ],
    topology: Molecule,
    out: Out,
    n_select: Annotated[int, typer.Option("-n", min=1, help="Frames to choose.")] = 16,
    strategy: Annotated[str, typer.Option(help="rmsd, coverage or random.")] = "rmsd",
    min_rmsd: Annotated[float, typer.Option(min=0.0, help="Å.")] = 0.0,
    max_rmsd: Annotated[float, typer.Option(min=0.0, help="Å.")] = float("inf"),
    diverse: bool = True,
    mapping: Mapping = "CA",
    top: Top = None,
    seed: Seed = 0,
) -> None:
    """Choose the frames that a reference covers least; writes an npz for `cgal label`.

    The reference may be larger than memory: it is read shard by shard.
    """
    import numpy as np

    from cgal_plugin.components.selectors import make_selector
    from cgal_plugin.data import FrameFiles
    from cgal_plugin.provenance import atomic_write

    molecule = load_topology(topology, mapping)
    pool, covered = _frames(candidates, molecule, top), FrameFiles(reference, molecule, top=top)
    if strategy not in ("rmsd", "coverage", "random"):
        raise ConfigError(f"--strategy {strategy!r} is not known; use rmsd, coverage or random")
    selector = make_selector(
        strategy, n_select, min_rmsd=min_rmsd, max_rmsd=max_rmsd, seed=seed, diverse=diverse
    )
    chosen = selector.fit(covered).select(pool)
    with atomic_write(out) as handle:
        np.savez(handle, positions=pool[chosen.indices], candidate=chosen.indices, distances=chosen.distances)
    for index, distance in zip(chosen.indices, chosen.distances, strict=True):
        typer.echo(f"{index}\t{distance:.3f}")


def backmap(
    frames: Annotated[Path, typer.Argument(help="CG frames: trajectory, npz or npy.")],
    system: Annotated[str, typer.Option(help="One-letter sequence, or PDB file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="All-atom PDB of the frames that worked.")],
    mapping: Mapping = "CA",
    top: Top = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one.")] = 0,
    seed: Seed = 0,
) -> None:
    """Rebuild all atoms from CG frames, screened for wrong stereochemistry."""
    import mdtraj
    import numpy as np

    from cgal_plugin.components.label_files import backmap_frames
    from cgal_plugin.data.trajectories import load_trajectories
    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.provenance import atomic_path
    from cgal_plugin.units import ANGSTROM_PER_NM

    model = AllAtomModel.create(system, mapping)
    beads = np.concatenate(load_trajectories(frames, model.cg_topology, top=top))
    results = backmap_frames(beads, model, seed=seed, workers=workers)
    for i, result in enumerate(results):
        typer.echo(f"{i}\t{result.method}\t{'ok' if result.ok else result.reason}")
    good = [r.positions for r in results if r.ok]
    if not good:
        raise OracleError(f"none of the {len(results)} frames could be backmapped; the reasons are above")
    trajectory = mdtraj.Trajectory(np.array(good) / ANGSTROM_PER_NM, model.mdtraj_topology)
    atomic_path(out, trajectory.save_pdb)


def label(
    frames: Annotated[Path, typer.Argument(help="CG frames: trajectory, npz or npy.")],
    system: Annotated[str, typer.Option(help="One-letter sequence, or PDB file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data store to add to, or to make.")],
    temperature: Temperature = 300.0,
    mode: Annotated[str, typer.Option(help="free, steered or mean_force.")] = "free",
    restraint: Annotated[
        float,
        typer.Option(min=0.0, help="kcal/mol/Å²: springs on the beads (free), or that steer (steered)."),
    ] = 0.0,
    production_ps: Annotated[float, typer.Option(min=0.0, help="ps a start.")] = 5.0,
    solvent: Annotated[str, typer.Option(help="obc2, gbn2 or tip3pfb.")] = "obc2",
    mapping: Mapping = "CA",
    top: Top = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one.")] = 1,
    seed: Seed = 0,
) -> None:
    """Label CG frames with the all-atom oracle; run again to resume."""
    from cgal_plugin.components.label_files import label_file

    done, failed = label_file(
        frames,
        system,
        out,
        top=top,
        workers=workers,
        temperature=temperature,
        mode=mode,
        restraint=restraint,
        production_ps=production_ps,
        solvent=solvent,
        mapping=mapping,
        seed=seed,
    )
    for index, reason in failed:
        typer.echo(f"frame {index} quarantined: {reason}")
    typer.echo(f"{done} frames labelled, {len(failed)} quarantined, in {out}")
    if not done:
        raise OracleError("no frame could be labelled; the reasons are above")


def evaluate(
    model: Annotated[list[Path], typer.Option("--model", "-m", help="CG trajectories (repeatable).")],
    reference: Annotated[list[Path], typer.Option("--reference", "-r", help="Reference (repeatable).")],
    topology: Molecule,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file (default: print).")] = None,
    lag: Annotated[int, typer.Option(min=1, help="TICA lag in frames of the reference.")] = 10,
    temperature: Temperature = 300.0,
    mapping: Mapping = "CA",
    top: Top = None,
    seed: Seed = 0,
) -> None:
    """Compare CG trajectories with a reference: W1 in TICA space and what goes with it."""
    from cgal_plugin.analysis import evaluate as run
    from cgal_plugin.cli.progress import w1_text
    from cgal_plugin.data.trajectories import load_trajectories
    from cgal_plugin.provenance import write_json

    molecule = load_topology(topology, mapping)
    ours, theirs = (
        [t for p in paths for t in load_trajectories(p, molecule, top=top)] for paths in (model, reference)
    )
    result = run(ours, theirs, molecule, lag_frames=lag, temperature=temperature, seed=seed)
    if out is None:
        typer.echo(json.dumps(result.to_dict(surfaces=False), indent=2))
        return
    write_json(out, result.to_dict())
    facts = result.to_dict(surfaces=False)
    for key, name in (("w1", "W1"), ("w1_ucsc", "W1 (ucsc)")):
        if facts.get(key) is not None:
            typer.echo(f"{w1_text(name, facts[key])} ({facts[key]['unit']})")


# ---------------------------------------------------------------------- shared by the commands


def load_topology(text: str, mapping: str) -> Any:
    """A CG topology from a file or a one-letter sequence.

    Raises
    ------
    MappingError
        It is neither, or cannot be mapped.
    """
    from cgal_plugin.mapping import CGTopology

    if Path(text).suffix or Path(text).exists():
        return CGTopology.from_file(text, mapping)
    return CGTopology.from_sequence(text, mapping)


def _warn_of_temperature(potential: Path, temperature: float) -> None:
    """A CG potential is the free energy of one temperature; at another it is an approximation."""
    from cgal_plugin.export import load_metadata

    made_for = load_metadata(potential).get("temperature")
    if made_for is not None and abs(made_for - temperature) > 1e-6:
        typer.echo(f"note: {potential} was made for {made_for:g} K, this is {temperature:g} K", err=True)


def _frames(paths: list[Path], topology: Any, top: Path | None) -> Any:
    import numpy as np

    from cgal_plugin.data.trajectories import load_trajectories

    parts = [t for path in paths for t in load_trajectories(path, topology, top=top)]
    if not parts:
        raise DataError("no frames given")
    return np.concatenate(parts)


def _echo_epoch(epoch: int, epochs: int, metrics: dict[str, Any]) -> None:
    shown = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, float) and k != "epoch")
    typer.echo(f"epoch {epoch}/{epochs}: {shown}")
