"""Defaults that depend on the beads of the molecule, on the seed data, or on given components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cgal_plugin.components.protocols import ExtendableSampler, RefinableTrainer
from cgal_plugin.config import Config
from cgal_plugin.config.models import OpenMMOracleConfig, Training
from cgal_plugin.config.refine_by_default import common_interval
from cgal_plugin.config.section import Decision
from cgal_plugin.config.training import PriorConfig
from cgal_plugin.data import DataStore
from cgal_plugin.data.dynamics import save_intervals
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors.fit_input import suited_terms

_PRIORS = "training.priors."


def suited(config: Config, topology: CGTopology, given: Mapping[str, Any]) -> Config:
    """Return the configuration with defaults that this molecule and these components can have.

    What the configuration gives itself is not changed, and is checked by the components.

    Parameters
    ----------
    topology
        Beads of the molecule.
    given
        Components that are given as objects, by role.
    """
    if "trainer" not in given:
        config = with_suited_priors(config, topology, own_seeds="seed_source" in given)
    decided = config.decided.get("refinement")
    if config.refinement is None or decided is None:
        return config
    reason = _why_not_refined(config, given)
    if reason is None:
        return config
    rest = {k: d for k, d in config.decided.items() if not k.startswith("refinement")}
    off = config.model_copy(update={"refinement": None})
    return off.with_decided({**rest, "refinement": Decision("off", reason, say=True)})


def with_suited_priors(config: Config, topology: CGTopology, *, own_seeds: bool = False) -> Config:
    """Return the configuration with default prior terms that the molecule has and its data can determine.

    ``own_seeds``: the seed data come from an object, so that their number is not known.
    """
    training, decided = config.training, config.decided
    if not isinstance(training, Training) or training.init is not None or f"{_PRIORS}terms" not in decided:
        return config
    priors = training.priors
    if priors.file is not None:
        return config
    given = f"{_PRIORS}method" not in decided
    n_frames = None if own_seeds or given else _seed_frames(config)
    terms, method, why = suited_terms(topology, priors.terms, priors.method, n_frames, method_given=given)
    if (terms, method) == (priors.terms, priors.method):
        return config
    keys = {k: getattr(priors, k) for k in ("pairs_per_type", "refit") if f"{_PRIORS}{k}" not in decided}
    if f"{_PRIORS}refit" in decided and not (priors.refit and method == "force_matching"):
        keys["refit"] = False
    new = PriorConfig.model_validate({"terms": terms, "method": method, **keys})
    record = dict(decided)
    for key in ("terms", "method", "pairs_per_type", "refit"):
        if f"{_PRIORS}{key}" in decided and getattr(new, key) != getattr(priors, key):
            record[f"{_PRIORS}{key}"] = Decision(getattr(new, key), why, say=True)
    changed = config.model_copy(update={"training": training.model_copy(update={"priors": new})})
    return changed.with_decided(record)


def _seed_frames(config: Config) -> int:
    """Return the number of frames of the seed data."""
    seed = config.seed_data
    if seed.store is None:
        return seed.n_trajectories * round(seed.picoseconds / seed.save_ps)
    store = DataStore(seed.store)
    return sum(int(store.record(name)["n_frames"]) for name in store.names())


def _why_not_refined(config: Config, given: Mapping[str, Any]) -> str | None:
    """Return why a refinement that nobody asked for is left out: it would fail, or may fail."""
    trainer = given.get("trainer")
    if trainer is not None and not isinstance(trainer, RefinableTrainer):
        return f"the trainer {type(trainer).__qualname__} cannot change priors"
    sampler = given.get("sampler")
    if sampler is not None and not isinstance(sampler, ExtendableSampler):
        return f"the length of the dynamics of the sampler {type(sampler).__qualname__} is fixed"
    for role in ("oracle", "seed_source"):
        if role in given:
            return f"whether the {role.replace('_', ' ')} makes unbiased dynamics is not known"
    assert config.refinement is not None
    if isinstance(config.training, Training) and trainer is None:
        if not config.training.refinable:
            return "the priors have no pair energies that are fitted to forces"
        if config.training.priors.file is not None:
            from cgal_plugin.priors import PriorSet

            if "pairs" not in PriorSet.load(config.training.priors.file).terms:
                return f"the priors in {config.training.priors.file} have no pairs"
    if config.seed_data.store is None:
        return None
    return _why_not_with(DataStore(config.seed_data.store), config, config.refinement.lag_ps)


def _why_not_with(store: DataStore, config: Config, lag_ps: float) -> str | None:
    """Return why the dynamics in a store of seed data cannot be refined with."""
    saved = save_intervals(store)
    if isinstance(config.oracle, OpenMMOracleConfig) and config.stopping.rounds > 0:
        saved |= {config.oracle.save_ps}
    if not saved:
        return f"{store.root} holds no unbiased dynamics with known times"
    common = common_interval(saved)
    if common > lag_ps:
        return f"seed data and labels have common frames only every {common:g} ps"
    return None
