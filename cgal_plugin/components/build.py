"""The parts of the loop, from the configuration or the user's own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.components.checks import check_component
from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.protocols import RefinableTrainer, Sampler, SeedSource, TrainedModel, Trainer
from cgal_plugin.components.sampler import OpenMMSampler
from cgal_plugin.components.seed_data import OpenMMSeeds, StoredSeeds
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import Config
from cgal_plugin.config.models import CustomComponent, OpenMMOracleConfig
from cgal_plugin.data import DataStore
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.provenance import derive_seed
from cgal_plugin.runs.layout import FORCE_MAP

NAMES = ("oracle", "selector", "sampler", "trainer", "seed_source")
#: replicas for a sampler of the user's own that does not say how many it wants (attribute n_replicas)
DEFAULT_REPLICAS = 16


@dataclass
class Components:
    """What the loop works with; see :mod:`cgal_plugin.components.protocols`."""

    config: Config
    seed_source: SeedSource
    trainer: Trainer
    sampler: Sampler
    make_selector: Callable[[TrainedModel, int], Any]
    make_oracle: Callable[[], Any]
    evaluate: ReferenceEvaluator
    oracle: Any = None

    def connect(self) -> None:
        """Make the oracle, once the seed data are there that it needs."""
        self.oracle = self.make_oracle()

    @property
    def n_replicas(self) -> int:
        """Replicas that the sampler runs."""
        return int(getattr(self.sampler, "n_replicas", DEFAULT_REPLICAS))

    @property
    def packed_replicas(self) -> int:
        """Replicas that share one System, and a potential that is exported for so many."""
        return int(getattr(self.sampler, "packed_replicas", self.n_replicas))

    @property
    def ns_per_label(self) -> float:
        """All-atom MD that one label costs, ns; 0 where the oracle does not say."""
        estimate = getattr(self.oracle, "cost_estimate", None)
        return 0.0 if estimate is None else float(estimate(1)["oracle_ns"])

    def selector(self, model: TrainedModel, seed: int) -> Any:
        """The selector for a round."""
        return self.make_selector(model, seed)

    def start_positions(self, frames: np.ndarray, n: int, seed: int) -> np.ndarray:
        """``(n, n_beads, 3)`` Å to start replicas from, out of the training frames."""
        rng = np.random.default_rng(seed)
        if getattr(self.config.simulation, "start", "random") == "random":
            return frames[rng.choice(len(frames), size=n, replace=len(frames) < n)]
        from cgal_plugin.selector import k_centre

        pool = frames[np.sort(rng.choice(len(frames), size=min(len(frames), 5000), replace=False))]
        chosen, _ = k_centre(pool, n)
        return pool[np.resize(chosen, n)]

    def nearest_rmsd(self, frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Coverage: nearest RMSD (Å) of each frame to the reference."""
        from cgal_plugin.selector import nearest_rmsd

        return nearest_rmsd(frames, reference)[0]


def build_components(config: Config, **given: Any) -> Components:
    """The parts that the configuration asks for, with the ``given`` objects in their place.

    Raises
    ------
    ConfigError
        A name that is no part, or a class that cannot be imported or made.
    CGALError
        Whatever a part finds wrong with its settings.
    """
    unknown = sorted(set(given) - set(NAMES))
    if unknown:
        raise ConfigError(f"unknown parts {unknown}; parts are {', '.join(NAMES)}")
    for name, part in given.items():
        check_component(name, part)
    seed_source = given.get("seed_source") or _seed_source(config)
    topology: CGTopology = seed_source.topology

    # what the user wrote is imported and made now: a mistake must not show after hours of work
    if isinstance(config.oracle, CustomComponent) and "oracle" not in given:
        given["oracle"] = load_custom(config.oracle, "oracle")
    if isinstance(config.selector, CustomComponent) and "selector" not in given:
        load_custom(config.selector, "selector")

    def make_oracle() -> Any:
        return given.get("oracle") or _oracle(config, seed_source)

    def make_selector(model: TrainedModel, seed: int) -> Any:
        return given.get("selector") or _selector(config, model, topology, seed)

    trainer = given.get("trainer")
    if trainer is None:
        trainer = TorchMDNetTrainer(config)
        trainer.check(topology)
    if config.refinement is not None and not isinstance(trainer, RefinableTrainer):
        raise ConfigError(
            f"refinement needs a trainer with the methods priors and with_priors, which "
            f"{type(trainer).__qualname__} lacks (see cgal_plugin.components.protocols.RefinableTrainer)"
        )
    evaluator = ReferenceEvaluator(config, topology)
    evaluator.check()
    return Components(
        config,
        seed_source,
        trainer,
        given.get("sampler") or _sampler(config),
        make_selector,
        make_oracle,
        evaluator,
    )


def seed_store(config: Config, out_dir: str | os.PathLike[str]) -> DataStore:
    """The seed data of a configuration as a data store, outside a run; called again, it goes on.

    Raises
    ------
    CGALError
        The molecule or the settings are wrong, or the dynamics failed.
    """
    out = Path(out_dir)
    source = build_components(config).seed_source
    folder = out / "seed"
    folder.mkdir(parents=True, exist_ok=True)
    source.prepare(folder)
    store = DataStore.create(
        out,
        source.topology,
        temperature=config.system.temperature,
        force_map_hash=source.force_map_hash,
        config_hash=config.hash,
    )
    source.fill(store)
    return store


# ---------------------------------------------------------------------- from the configuration


def _seed_source(config: Config) -> SeedSource:
    system = config.system
    if config.seed_data.store is not None:
        if system.sequence is not None:
            topology = CGTopology.from_sequence(system.sequence, system.mapping)
        else:
            topology = CGTopology.from_file(system.pdb, system.mapping)
        return StoredSeeds(config, topology)
    return OpenMMSeeds(config, _openmm_oracle(config))


def _openmm_oracle(config: Config) -> Any:
    from cgal_plugin.oracle import OpenMMOracle

    system = config.system
    settings = config.oracle if isinstance(config.oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    return OpenMMOracle(
        system.sequence if system.sequence is not None else system.pdb,
        temperature=system.temperature,
        mapping=system.mapping,
        solvent=settings.solvent,
        mode=settings.mode,
        production_ps=settings.production_ps,
        relax_ps=settings.relax_ps,
        save_ps=settings.save_ps,
        n_starts=settings.n_starts,
        restraint=settings.restraint,
        release_ps=settings.release_ps,
        methods=settings.backmap,
        platform=settings.platform,
        seed=derive_seed(config.seed, "oracle"),
    )


def _oracle(config: Config, seed_source: SeedSource) -> Any:
    if isinstance(seed_source, OpenMMSeeds):
        return seed_source.oracle  # with the force map and the library of the seed data
    from cgal_plugin.mapping.forces import ForceMap

    path = Path(config.seed_data.store or "") / FORCE_MAP
    if not path.is_file():
        raise ConfigError(
            f"oracle.kind openmm has to map forces as the seed data's were, but {path} is not there; "
            "leave out seed_data.store to run seed trajectories, or give an oracle of your own (kind: custom)"
        )
    return _openmm_oracle(config).with_force_map(ForceMap.load(path))


def _selector(config: Config, model: TrainedModel, topology: CGTopology, seed: int) -> Any:
    from cgal_plugin.selector import make_selector

    settings = config.selector
    if isinstance(settings, CustomComponent):
        return load_custom(settings, "selector")
    members = None
    if settings.kind == "committee":
        from cgal_plugin.training import load_model

        members = [load_model(p) for p in (model.checkpoint, *model.committee)]
    return make_selector(
        settings.kind,
        settings.n_select,
        min_rmsd=settings.min_rmsd,
        max_rmsd=np.inf if settings.max_rmsd is None else settings.max_rmsd,
        seed=seed,
        diverse=settings.diverse if settings.kind == "rmsd" or settings.kind == "committee" else True,
        members=members,
        types=topology.types,
    )


def _sampler(config: Config) -> Sampler:
    if isinstance(config.simulation, CustomComponent):
        return load_custom(config.simulation, "simulation")
    if config.simulation.blocks == 1:  # blocks run on workers, which may have what this machine has not
        from cgal_plugin.dynamics.force import resolve_backend
        from cgal_plugin.dynamics.system import find_platform

        # what is missing must not show after hours of training
        find_platform(config.simulation.platform)
        resolve_backend(config.simulation.backend)
    return OpenMMSampler(config.simulation, config.executor)


def load_custom(part: CustomComponent, where: str) -> Any:
    """Import ``module:Class`` and call it with ``args``.

    Raises
    ------
    ConfigError
        The module or class is not there, does not accept the arguments, or lacks a method.
    """
    module_name, _, class_name = part.target.partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"{where}.class = {part.target!r} cannot be imported: {error}. "
            "Install its package, or put its folder on PYTHONPATH"
        ) from error
    try:
        made = cls(**part.args)
    except TypeError as error:
        raise ConfigError(f"{where}.class {part.target} does not accept {part.args}: {error}") from error
    check_component("sampler" if where == "simulation" else where, made)
    return made
