"""Plan and approximate cost of a run, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from cgal_plugin.config import Config
from cgal_plugin.config.models import OpenMMOracleConfig, Simulation, Training
from cgal_plugin.data.error_weights import MOST


@dataclass(frozen=True)
class Rates:
    """Throughput of one core on chignolin (166 atoms, 10 beads).

    Measured with ``tests/benchmarks/bench_rates.py``; the rates of gbn2 and tip3pfb are rough estimates.

    Attributes
    ----------
    oracle_ns_per_day
        All-atom MD, per solvent.
    backmap_seconds
        Per frame and all-atom start.
    training_frames_per_second
        With ``features`` 64 and ``blocks`` 2.
    replica_steps_per_second
        CG dynamics of 16 replicas with that network.
    """

    oracle_ns_per_day: tuple[tuple[str, float], ...] = (("obc2", 270.0), ("gbn2", 60.0), ("tip3pfb", 10.0))
    backmap_seconds: float = 2.5
    training_frames_per_second: float = 2000.0
    replica_steps_per_second: float = 2300.0


@dataclass(frozen=True)
class Cost:
    """Cost of a run: all-atom MD (ns), CG replica-steps, number of labels, minutes."""

    oracle_ns: float
    cg_steps: int
    labels: int
    minutes: float


def estimate(config: Config, rates: Rates | None = None) -> Cost:
    """Estimate the cost of a run that completes all rounds.

    The rates are those of chignolin, scaled only by the size of the network; a larger molecule costs more.
    """
    rates = rates or Rates()
    rounds = config.stopping.rounds
    workers = max(1, config.executor.workers)
    seed, oracle, training = config.seed_data, config.oracle, config.training
    known = isinstance(oracle, OpenMMOracleConfig)
    settings = oracle if isinstance(oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    per_day = dict(rates.oracle_ns_per_day)[settings.solvent]
    seed_ns = 0.0 if seed.store else seed.n_trajectories * (seed.picoseconds + seed.equilibration_ps) / 1000
    labels = getattr(config.selector, "n_select", 1) * rounds
    per_label = settings.n_starts * (settings.relax_ps + settings.production_ps) / 1000 if known else 0.0
    if config.stopping.oracle_ns is not None and per_label > 0:
        labels = min(labels, max(0, int((config.stopping.oracle_ns - seed_ns) / per_label + 1e-6)))
    label_ns = labels * per_label
    oracle_seconds = (
        seed_ns + label_ns
    ) / per_day * 86400 + labels * settings.n_starts * rates.backmap_seconds
    size, training_seconds = 1.0, 0.0  # unknown for external trainers
    if isinstance(training, Training):
        size = training.model.embedding_dimension**2 * training.model.num_layers / (64**2 * 2)
        frames = _training_frames(config, training, settings) * training.committee
        training_seconds = frames * size / rates.training_frames_per_second
    cg_steps = 0
    if isinstance(config.simulation, Simulation):
        steps = config.simulation.steps * (rounds + 1)
        if config.refinement is not None:
            steps += config.refinement.steps * (config.refinement.iterations + 1)
        cg_steps = config.simulation.n_replicas * steps
    cg_seconds = cg_steps * size / rates.replica_steps_per_second
    seconds = oracle_seconds / workers + training_seconds + cg_seconds + 10 * (rounds + 1) + 30
    return Cost(seed_ns + label_ns, cg_steps, labels, seconds / 60)


def _training_frames(config: Config, training: Training, oracle: OpenMMOracleConfig) -> float:
    seed = config.seed_data
    data: float = seed.n_trajectories * seed.picoseconds / seed.save_ps
    per_label: float = oracle.n_starts * oracle.production_ps / oracle.save_ps
    if oracle.mode == "mean_force":
        per_label = min(MOST, per_label)  # one row, repeated according to its weight
    new = getattr(config.selector, "n_select", 1) * per_label
    total = data * training.epochs
    later = training.epochs if training.mode == "scratch" else training.finetune_epochs
    for _ in range(config.stopping.rounds):
        data += new
        total += later * (data + (training.replay_weight - 1) * new * (training.mode == "replay"))
    return total


def plan(config: Config) -> str:
    """Format the plan and the cost of a run."""
    cost = estimate(config)
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
    training, selector = config.training, config.selector
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
        f"  selection    {selector.kind}, {getattr(selector, 'n_select', '?')} frames per round",
        f"  oracle       {labels}",
        f"  rounds       {rounds}, then a final training on all data and its evaluation",
    ]
    refinement = config.refinement
    if refinement is not None:
        lines.append(
            f"  refinement   {refinement.iterations} corrections of populations, "
            f"{refinement.n_states} states, lag {refinement.lag_ps:g} ps"
        )
    lines.append(
        f"cost: {cost.oracle_ns:.3f} ns of all-atom MD, {cost.labels} labels, "
        f"{cost.cg_steps:,} CG replica-steps, about {cost.minutes:.0f} min with "
        f"{config.executor.workers} workers (rough: rates of chignolin on one core each)"
    )
    return "\n".join(lines)
