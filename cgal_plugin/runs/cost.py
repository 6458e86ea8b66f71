"""Plan and approximate cost of a run, from its configuration."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from cgal_plugin.config import Config
from cgal_plugin.config.executor import ParslExecutor
from cgal_plugin.config.models import ExternalComponent, OpenMMOracleConfig, Simulation, Training
from cgal_plugin.config.refine_by_default import rungs_used
from cgal_plugin.data.error_weights import MOST
from cgal_plugin.execution.resources import available_cores, resolve_threads
from cgal_plugin.mapping.spec import resolve_spec
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.runs.rates import Molecule, Rates

#: shapes of the all-atom starts of the seed data, and of the labels: compact frames and coils
_SEEDS = {
    "folded": ("folded",),
    "extended": ("extended",),
    "mixed": ("folded", "extended"),
    "diverse": ("folded", "coil", "coil", "extended"),
}
_LABELS = ("folded", "coil")
#: ps of heating before the seed trajectories of start ``diverse``, in turn
_HEATING = (0.0, 200.0, 100.0, 0.0)
#: time step of labels with frozen beads, relative to that of free dynamics
_FROZEN_SHARE = 0.5
_FOLDED = "YYDPETGTWY"


@dataclass(frozen=True)
class Cost:
    """Cost of a run: all-atom MD (ns), CG replica-steps, number of labels, minutes.

    ``labels`` is None if the selector does not say how many frames it returns; the cost is then without
    labels.
    """

    oracle_ns: float
    cg_steps: int
    labels: int | None
    minutes: float


def estimate(config: Config, molecule: Molecule | None = None) -> Cost:
    """Estimate the cost of a run that completes all rounds, within a factor of about two on a CPU.

    Parameters
    ----------
    config
        Configuration.
    molecule
        Its size; default: from the sequence, or from the structure file.
    """
    if molecule is None:
        molecule = Molecule.of(_topology(config))
    rounds = config.stopping.rounds
    seed, oracle, training = config.seed_data, config.oracle, config.training
    known = isinstance(oracle, OpenMMOracleConfig)
    settings = oracle if isinstance(oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    rates = Rates(molecule, settings.solvent, _platform(config, settings))
    seed_ps = 0.0 if seed.store else seed.n_trajectories * (seed.picoseconds + seed.equilibration_ps)
    if seed.start == "diverse" and not seed.store:
        seed_ps += sum(_HEATING[i % len(_HEATING)] for i in range(seed.n_trajectories))
    selected = _selected(config)
    labels = (selected or 0) * rounds
    per_label = settings.n_starts * (settings.relax_ps + settings.production_ps) if known else 0.0
    if config.stopping.oracle_ns is not None and per_label > 0:
        labels = min(labels, max(0, int((1000 * config.stopping.oracle_ns - seed_ps) / per_label + 1e-6)))
    label_ps = labels * per_label
    shapes = _SEEDS[_start(config)]
    seed_seconds = rates.md_seconds(seed_ps, shapes) / _at_once(config, seed.n_trajectories)
    timestep = molecule.timestep_fs * (_FROZEN_SHARE if settings.mode == "mean_force" else 1.0)
    label_seconds = 0.0
    if known:
        label_seconds = rates.md_seconds(label_ps, _LABELS, timestep_fs=timestep)
        label_seconds += labels * settings.n_starts * rates.backmap_seconds()
        label_seconds /= _at_once(config, selected or 1)
    size, training_seconds = 1.0, 0.0  # unknown for external trainers
    if isinstance(training, Training):
        size = training.model.embedding_dimension**2 * training.model.num_layers / (64**2 * 2)
        frames = _training_frames(config, training, settings, selected or 0)
        training_seconds = rates.training_seconds(frames * training.committee, size)
        if training.committee > 1 and config.executor.training_threads in (1, "auto"):
            training_seconds /= _at_once(config, training.committee)
    cg_steps, cg_seconds = 0, 0.0
    if isinstance(config.simulation, Simulation):
        steps = config.simulation.steps * (rounds + 1)
        if config.refinement is not None:
            steps += config.refinement.steps * (config.refinement.iterations + 1)
        cg_steps = config.simulation.n_replicas * steps
        cg_seconds = rates.cg_seconds(cg_steps, size, fast=_is_fast(config.simulation), gpu=_on_gpu(config))
        cg_seconds /= _at_once(config, config.simulation.blocks)
        cg_steps, more = _with_test(config, cg_steps)
        test_seconds = rates.cg_seconds(more, size, fast=_is_fast(config.simulation), gpu=_on_gpu(config))
        threads = config.executor.training_threads if _is_fast(config.simulation) else 1
        cg_seconds += test_seconds / resolve_threads(threads, available_cores())
    build = 0.0 if seed.store and not known else 2 * rates.build_seconds()  # here, and on each worker
    seconds = seed_seconds + label_seconds + training_seconds + cg_seconds + build + 10 * (rounds + 1) + 30
    counted = labels if selected is not None else None
    return Cost((seed_ps + label_ps) / 1000, cg_steps, counted, seconds / 60)


def _with_test(config: Config, cg_steps: int) -> tuple[int, int]:
    """Return the replica-steps with those of the model tests, and those of the model tests."""
    test = config.tested
    if test is None:
        return cg_steps, 0
    models = config.stopping.rounds + 1 + (config.refinement is not None)
    steps = test.n_walkers * test.steps * models
    return cg_steps + steps, steps


def _topology(config: Config) -> CGTopology:
    system = config.system
    spec = resolve_spec(system.mapping, system.embedding)
    if system.sequence is not None:
        return CGTopology.from_sequence(system.sequence, spec)
    return CGTopology.from_file(system.source, spec)


def _start(config: Config) -> str:
    start, system = config.seed_data.start, config.system
    if start != "auto":
        return start
    return "folded" if system.sequence is None or system.sequence == _FOLDED else "extended"


def _at_once(config: Config, tasks: int) -> int:
    """Return how many of these tasks run at the same time."""
    return max(1, min(resolve_threads(config.executor.workers, tasks), tasks))


def _workers(config: Config) -> int:
    return resolve_threads(config.executor.workers, available_cores())


def _selected(config: Config) -> int | None:
    """Return the number of frames that are selected in a round; None if the selector does not say it."""
    selector = config.selector
    found = selector.args.get("n_select") if isinstance(selector, ExternalComponent) else selector.n_select
    return found if isinstance(found, int) else None


def _is_fast(simulation: Simulation) -> bool:
    return simulation.backend in ("fast", "cpu") or (
        simulation.backend == "auto" and importlib.util.find_spec("numba") is not None
    )


def _on_gpu(config: Config) -> bool:
    return isinstance(config.simulation, Simulation) and config.simulation.platform in ("CUDA", "OpenCL")


def _training_frames(config: Config, training: Training, oracle: OpenMMOracleConfig, selected: int) -> float:
    seed = config.seed_data
    data: float = seed.n_trajectories * seed.picoseconds / seed.save_ps
    per_label: float = oracle.n_starts * oracle.production_ps / oracle.save_ps
    if oracle.mode == "mean_force":
        per_label = min(MOST, per_label)  # one row, repeated according to its weight
    new = selected * per_label
    total = data * training.epochs
    later = training.epochs if training.mode == "scratch" else training.finetune_epochs
    for _ in range(config.stopping.rounds):
        data += new
        total += later * (data + (training.replay_weight - 1) * new * (training.mode == "replay"))
    return total


def plan(config: Config, molecule: Molecule | CGTopology | None = None) -> str:
    """Format the plan and the cost of a run; ``molecule`` is its size or its topology, if it is known."""
    if not isinstance(molecule, Molecule):
        molecule = Molecule.of(_topology(config) if molecule is None else molecule)
    cost = estimate(config, molecule)
    rounds = config.stopping.rounds
    seed = config.seed_data
    source = (
        f"data store {seed.store}"
        if seed.store
        else f"{seed.n_trajectories} x {seed.picoseconds:g} ps all-atom MD, start {seed.start}"
    )
    simulation = config.simulation
    dynamics = (
        f"{simulation.n_replicas} replicas x {simulation.steps} steps of {simulation.timestep_fs:g} fs"
        + _ladder(simulation)
        if isinstance(simulation, Simulation)
        else simulation.name
    )
    oracle = config.oracle
    labels = (
        f"{oracle.solvent}, {oracle.mode}, "
        f"{oracle.n_starts} x ({oracle.relax_ps:g} + {oracle.production_ps:g}) ps"
        if isinstance(oracle, OpenMMOracleConfig)
        else oracle.name
    )
    training, selector, selected = config.training, config.selector, _selected(config)
    models = (
        f"{training.model.form}, {training.model.embedding_dimension} features, "
        f"{training.model.num_layers} blocks; {training.epochs} epochs, then {training.mode}"
        if isinstance(training, Training)
        else training.name
    )
    lines = [
        f"{config.name}: {config.system.source}, {config.system.temperature:g} K",
        f"  seed data    {source}",
        f"  training     {models}",
        f"  simulation   {dynamics}",
        f"  selection    {selector.name if isinstance(selector, ExternalComponent) else selector.kind}, "
        + ("as many frames per round as it returns" if selected is None else f"{selected} frames per round"),
        f"  oracle       {labels}",
        f"  rounds       {rounds}, then a final training on all data and its evaluation",
    ]
    refinement, test = config.refinement, config.tested
    if refinement is not None:
        rungs = rungs_used(refinement, simulation) if isinstance(simulation, Simulation) else 1
        ladders = f", ladders of {rungs} temperatures" if rungs > 1 else ""
        lines.append(
            f"  refinement   {refinement.iterations} corrections of populations, "
            f"{refinement.n_states} states, lag {refinement.lag_ps:g} ps{ladders}"
        )
    lines.append(
        "  test         "
        + ("none: " + ("test is null" if config.test is None else "evaluation.reference is empty"))
        if test is None
        else f"  test         each model from fixed starts, {test.n_replicas} replicas x {test.rungs} "
        f"temperatures x {test.steps} steps"
    )
    counted = "labels of unknown number (not in the cost)" if cost.labels is None else f"{cost.labels} labels"
    unknown = [name for name, part in _parts(config) if isinstance(part, ExternalComponent)]
    without = f"; without {', '.join(unknown)}, whose cost is not known" if unknown else ""
    lines.append(
        f"cost: {cost.oracle_ns:.3f} ns of all-atom MD, {counted}, {cost.cg_steps:,} CG replica-steps, about "
        f"{_time(cost.minutes)} with {_workers(config)} workers on one core each (rough, for "
        f"{molecule.n_residues} residues, {molecule.n_atoms} atoms{_where(config)}{without})"
    )
    return "\n".join(lines)


def _ladder(simulation: Simulation) -> str:
    t = simulation.temperatures
    if not t:
        return ""
    return (
        f", parallel tempering: {simulation.n_replicas // len(t)} ladder(s) of {len(t)} temperatures from "
        f"{t[0]:g} to {t[-1]:g} K"
    )


def _parts(config: Config) -> list[tuple[str, object]]:
    return [("oracle", config.oracle), ("training", config.training), ("simulation", config.simulation)]


def _where(config: Config) -> str:
    oracle = config.oracle
    if not isinstance(oracle, OpenMMOracleConfig):
        return ""
    return f", {oracle.solvent} on {_platform(config, oracle)}"


def _platform(config: Config, oracle: OpenMMOracleConfig) -> str:
    """Return the platform of the labels; ``auto`` counts as a CPU, unless the workers have GPUs."""
    gpus = isinstance(config.executor, ParslExecutor) and config.executor.template == "slurm_gpu"
    return oracle.platform if oracle.platform != "auto" else "CUDA" if gpus else "CPU"


def _time(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 72 * 60 else f"{minutes / 1440:.0f} days"
