"""Build the components of a run from the configuration, or use given objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin._register import register
from cgal_plugin.components.all_atom import all_atom_model, user_system
from cgal_plugin.components.checks import ROLES, check_component
from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.external import load_external
from cgal_plugin.components.protocols import (
    Oracle,
    OracleSeedSource,
    PackedSampler,
    PricedOracle,
    PricedSeedSource,
    RecordedSeedSource,
    RecordedTrainer,
    RefinableTrainer,
    ReplicaSampler,
    Sampler,
    SeedSource,
    Selector,
    StructureSource,
    TrainedModel,
    Trainer,
)
from cgal_plugin.components.resources import (
    BACKEND,
    ORACLE,
    PLATFORM,
    TRAINING,
    Resources,
    oracle_platform,
    settle,
    with_workers,
)
from cgal_plugin.components.sampler import OpenMMSampler
from cgal_plugin.components.seed_data import OpenMMSeeds, StoredSeeds, check_system, with_library_of
from cgal_plugin.components.sizes import check_sizes
from cgal_plugin.components.starts import StartSet, needs_reserved, without_withheld
from cgal_plugin.components.suited import suited
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import Config
from cgal_plugin.config.models import ExternalComponent, OpenMMOracleConfig, Simulation
from cgal_plugin.config.selector import CommitteeSelectorConfig, RMSDSelectorConfig
from cgal_plugin.data import DataStore
from cgal_plugin.data.store import MAKE_AGAIN
from cgal_plugin.errors import ConfigError, MappingError
from cgal_plugin.execution.map_tasks import ExecutorSettings
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.layout import FORCE_MAP
from cgal_plugin.runs.rates import Molecule

if TYPE_CHECKING:
    from cgal_plugin.oracle import OpenMMOracle

#: number of replicas for a sampler that is not a ReplicaSampler
DEFAULT_REPLICAS = 16


@dataclass
class Components:
    """The components of a run; see :mod:`cgal_plugin.components.protocols`.

    ``config`` has the defaults that this molecule and these components can have, see
    :mod:`cgal_plugin.components.suited`.
    """

    config: Config
    seed_source: SeedSource
    trainer: Trainer
    sampler: Sampler
    #: selector for a round, from its model and a seed
    selector: Callable[[TrainedModel, int], Selector]
    make_oracle: Callable[[], Oracle]
    evaluate: ReferenceEvaluator
    resources: Resources
    #: what provides start structures of the model test
    structures: StructureSource | None = None
    #: starts of the model test, with their digest; known after the first test
    starts: tuple[StartSet, str] | None = None
    oracle: Oracle | None = None

    def connect(self, store: DataStore) -> None:
        """Create the oracle. It needs the seed data, which must exist."""
        from cgal_plugin.oracle import OpenMMOracle

        oracle = self.make_oracle()
        self.oracle = without_withheld(oracle, store) if isinstance(oracle, OpenMMOracle) else oracle

    @property
    def reserve(self) -> bool:
        """Whether frames of the seed data are kept back as starts of the model test."""
        return needs_reserved(self.config, self.structures)

    @property
    def what_was_read(self) -> list[str]:
        """What was read from the structure or sequence and by the trainer, one line per heading."""
        source, trainer = self.seed_source, self.trainer
        lines = source.record.lines() if isinstance(source, RecordedSeedSource) else []
        return [*lines, *(trainer.what_was_read if isinstance(trainer, RecordedTrainer) else [])]

    @property
    def executor(self) -> ExecutorSettings:
        """The executor for labels, with the number of its workers."""
        return with_workers(self.config.executor, self.resources.platforms.get(ORACLE))

    @property
    def molecule(self) -> Molecule:
        """Size of the molecule, and of its all-atom system if the user brings one."""
        size, source = Molecule.of(self.seed_source.topology), self.seed_source
        model = source.oracle.model if isinstance(source, OpenMMSeeds) else None
        if model is None or model.given is None:
            return size
        return replace(
            size,
            n_atoms=model.n_solute,
            n_particles=model.topology.getNumAtoms(),
            timestep_fs=model.timestep_fs,
        )

    @property
    def n_replicas(self) -> int:
        """Number of replicas that the sampler runs."""
        return int(self.sampler.n_replicas) if isinstance(self.sampler, ReplicaSampler) else DEFAULT_REPLICAS

    @property
    def packed_replicas(self) -> int:
        """Number of replicas that an exported potential evaluates in one call."""
        if isinstance(self.sampler, PackedSampler):
            return int(self.sampler.packed_replicas)
        return self.n_replicas

    @property
    def seed_ns(self) -> float:
        """All-atom MD of the seed data, ns; 0 if the source does not report it."""
        source = self.seed_source
        return float(source.oracle_ns) if isinstance(source, PricedSeedSource) else 0.0

    @property
    def ns_per_label(self) -> float:
        """All-atom MD per label, ns; 0 if the oracle does not report it."""
        if not isinstance(self.oracle, PricedOracle):
            return 0.0
        return float(self.oracle.cost_estimate(1)["oracle_ns"])

    @property
    def spread_starts(self) -> bool:
        """Whether replicas start from frames spread by RMSD, rather than random ones."""
        simulation = self.config.simulation
        return isinstance(simulation, Simulation) and simulation.start == "spread"


def build_components(
    config: Config, *, platforms: Mapping[str, str] | None = None, **given: Any
) -> Components:
    """Build the components that the configuration names; ``given`` objects replace them, by role.

    ``platforms`` are those that the run has used so far (:meth:`RunDirectory.platforms`); they are kept where
    the configuration says ``auto``.

    Raises
    ------
    ConfigError
        A name is not a role, a class cannot be imported or created, or the trainer does not support the
        refinement.
    CGALError
        A component refuses its settings, or a platform is missing.
    """
    unknown = sorted(set(given) - set(ROLES))
    if unknown:
        raise ConfigError(f"unknown components {unknown}; components are {', '.join(ROLES)}")
    for role, component in given.items():
        check_component(role, component)
    own_oracle = isinstance(config.oracle, OpenMMOracleConfig) and "oracle" not in given
    openmm, recorded = None, platforms or {}
    if "seed_source" in given:
        seed_source: SeedSource = given["seed_source"]
    else:
        # now, so that a molecule that cannot be simulated is an error before anything is spent
        openmm = openmm_oracle(config, recorded) if own_oracle or config.seed_data.store is None else None
        seed_source = _seed_source(config, openmm)
        if own_oracle:  # also whether the force map of a store fits it
            _oracle(config, seed_source, openmm)
    topology = seed_source.topology
    config = suited(config, topology, given)
    check_sizes(config, topology, own_sampler="sampler" in given)
    if isinstance(seed_source, OpenMMSeeds):
        seed_source.config = config
    labels_on = None if openmm is None else openmm.settings.platform
    resources = settle(config, topology.n_beads, labels_on, recorded, given)

    # external components are created now, so that their errors do not appear after hours of work
    if isinstance(config.oracle, ExternalComponent) and "oracle" not in given:
        given["oracle"] = load_external(config.oracle, "oracle")
    if isinstance(config.selector, ExternalComponent) and "selector" not in given:
        load_external(config.selector, "selector")

    def oracle() -> Oracle:
        return given["oracle"] if "oracle" in given else _oracle(config, seed_source, openmm)

    def selector(model: TrainedModel, seed: int) -> Selector:
        return given["selector"] if "selector" in given else _selector(config, model, topology, seed)

    trainer: Trainer = (
        given["trainer"] if "trainer" in given else _trainer(config, topology, resources.platforms)
    )
    if config.refinement is not None and not isinstance(trainer, RefinableTrainer):
        raise ConfigError(
            f"refinement needs a trainer with the methods priors and with_priors, which "
            f"{type(trainer).__qualname__} lacks (see cgal_plugin.components.protocols.RefinableTrainer)"
        )
    evaluator = ReferenceEvaluator(config, topology)
    evaluator.check()
    sampler: Sampler = given["sampler"] if "sampler" in given else _sampler(config, resources.platforms)
    structures = _structures(seed_source, given.get("oracle"), openmm)
    parts = seed_source, trainer, sampler, selector, oracle, evaluator, resources, structures
    return Components(config, *parts)


# ---------------------------------------------------------------------- from the configuration


def _seed_source(config: Config, oracle: OpenMMOracle | None) -> SeedSource:
    system = config.system
    if oracle is not None:
        if config.seed_data.store is None:
            return OpenMMSeeds(config, oracle)
        return StoredSeeds(config, oracle.topology, oracle.model.record)
    if system.force_field is not None:
        prepared = user_system(config)
        return StoredSeeds(config, prepared.mapping.topology, prepared.record)
    spec = resolve_spec(system.mapping, system.embedding)
    if system.sequence is not None:
        return StoredSeeds(config, CGTopology.from_sequence(system.sequence, spec))
    return StoredSeeds(config, CGTopology.from_file(system.source, spec))


def _structures(source: SeedSource, *oracles: object) -> StructureSource | None:
    """Return the first of these that provides start structures."""
    own = (source.oracle,) if isinstance(source, OracleSeedSource) else ()
    return next((o for o in (*own, *oracles) if isinstance(o, StructureSource)), None)


def openmm_oracle(config: Config, platforms: Mapping[str, str] | None = None) -> OpenMMOracle:
    """Build the all-atom oracle of a configuration; without the section ``oracle``, with its defaults.

    ``platforms``: see :func:`build_components`.
    """
    from cgal_plugin.oracle import OpenMMOracle

    settings = config.oracle if isinstance(config.oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    model = all_atom_model(config)
    return OpenMMOracle(
        model,
        temperature=config.system.temperature,
        mode=settings.mode,
        production_ps=settings.production_ps,
        relax_ps=settings.relax_ps,
        save_ps=settings.save_ps,
        n_starts=settings.n_starts,
        restraint=settings.restraint,
        release_ps=settings.release_ps,
        methods=settings.backmap,
        platform=oracle_platform(config, model.topology.getNumAtoms(), platforms),
        seed=derive_seed(config.seed, "oracle"),
    )


def _oracle(config: Config, seed_source: SeedSource, made: OpenMMOracle | None) -> Oracle:
    if isinstance(seed_source, OracleSeedSource):
        return seed_source.oracle  # with the force map and the library of the seed data
    from cgal_plugin.mapping.forces import ForceMap

    oracle = made or openmm_oracle(config)
    if config.seed_data.store is None:
        return oracle
    path = Path(config.seed_data.store) / FORCE_MAP
    if not path.is_file():
        if config.stopping.rounds == 0:
            return oracle  # no label is made
        raise ConfigError(
            f"oracle.kind openmm needs the force map of the seed data, but {path} does not exist; "
            "leave out seed_data.store to run seed trajectories, or give your own oracle (kind: custom)"
        )
    check_system(DataStore(path.parent), oracle.model)
    try:
        found = ForceMap.load(path)
    except MappingError as error:
        raise ConfigError(f"{error}. {MAKE_AGAIN}") from error
    try:
        return with_library_of(oracle, path.parent).with_force_map(found)
    except MappingError as error:
        raise ConfigError(
            f"{path} does not fit the all-atom system of this run: {error}. Import the trajectories with the "
            "configuration of this run (cgal import-data --config)"
        ) from error


def _selector(config: Config, model: TrainedModel, topology: CGTopology, seed: int) -> Selector:
    from cgal_plugin.selector import make_selector

    settings = config.selector
    if isinstance(settings, ExternalComponent):
        selector: Selector = load_external(settings, "selector")
        return selector
    options: dict[str, Any] = {}
    if isinstance(settings, RMSDSelectorConfig | CommitteeSelectorConfig):
        options["diverse"] = settings.diverse
    if isinstance(settings, CommitteeSelectorConfig):
        from cgal_plugin.training import load_model

        options["members"] = [load_model(p) for p in (model.checkpoint, *model.committee)]
        options["types"] = topology.types
    return make_selector(
        settings.kind,
        settings.n_select,
        min_rmsd=settings.min_rmsd,
        max_rmsd=math.inf if settings.max_rmsd is None else settings.max_rmsd,
        seed=seed,
        **options,
    )


def _trainer(config: Config, topology: CGTopology, platforms: Mapping[str, str]) -> Trainer:
    if isinstance(config.training, ExternalComponent):
        external: Trainer = load_external(config.training, "training")
        return external
    register()  # it silences Warp, which prints when TorchMD-Net is imported
    trainer = TorchMDNetTrainer(config, platforms[TRAINING])
    trainer.check(topology)
    return trainer


def _sampler(config: Config, platforms: Mapping[str, str]) -> Sampler:
    simulation = config.simulation
    if isinstance(simulation, ExternalComponent):
        external: Sampler = load_external(simulation, "simulation")
        return external
    settled = {"platform": platforms[PLATFORM], "backend": platforms[BACKEND]}
    return OpenMMSampler(simulation.model_copy(update=settled), config.executor)
