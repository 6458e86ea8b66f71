"""Build the components of all systems, and check that one potential can serve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cgal_plugin._register import register
from cgal_plugin.components.build import Components, build_components
from cgal_plugin.components.resources import TRAINING, training_device
from cgal_plugin.components.suited import with_suited_priors
from cgal_plugin.config.models import Config, Training
from cgal_plugin.config.selector import SelectorSettings
from cgal_plugin.config.systems import OneSystem, SystemsConfig
from cgal_plugin.errors import CGALError, ConfigError
from cgal_plugin.systems.trainer import SharedTrainer

if TYPE_CHECKING:
    from cgal_plugin.mapping import CGTopology


@dataclass(frozen=True, eq=False)
class BuiltSystems:
    """The components of each system by name, their trainer, and the device that it trains on."""

    systems: Mapping[str, Components]
    trainer: SharedTrainer
    platforms: Mapping[str, str]


def build_systems(
    config: SystemsConfig,
    *,
    platforms: Mapping[str, Mapping[str, str]] | None = None,
    trained_on: Mapping[str, str] | None = None,
) -> BuiltSystems:
    """Build the components of all systems; nothing is written.

    Parameters
    ----------
    platforms
        What a run has used so far by system; see :func:`~cgal_plugin.components.build.build_components`.
    trained_on
        The same for the shared training.

    Raises
    ------
    ConfigError
        Whatever is wrong with a system; the message names it. Or two systems are one molecule, a system to
        test on has residues that no system to train on has, or the trainer is not the built-in one.
    """
    register()  # it silences Warp, which prints when TorchMD-Net is imported
    if not isinstance(config.main.training, Training):
        raise ConfigError("systems need the built-in trainer (training.kind torchmdnet)")
    device = training_device(config.main, trained_on or {})
    trainer = SharedTrainer(config.main, device[TRAINING])
    found = {}
    for system in config.systems:
        try:
            used = (platforms or {}).get(system.name)
            found[system.name] = build_components(_own(config, system), platforms=used, trainer=trainer)
        except CGALError as error:
            raise ConfigError(f"system {system.name!r}: {error}") from error
    topologies = {name: built.seed_source.topology for name, built in found.items()}
    _check_molecules(config, topologies)
    largest = max((s.name for s in config.of_role("train")), key=lambda name: topologies[name].n_beads)
    adapted = with_suited_priors(found[largest].config, topologies[largest])
    for built in found.values():
        same = built.config.model_copy(update={"training": adapted.training})
        decided = {k: d for k, d in adapted.decided.items() if k.startswith("training.")}
        built.config = same.with_decided({**built.config.decided, **decided})
    trainer.config = found[config.systems[0].name].config
    trainer.check_all(
        {s.name: topologies[s.name] for s in config.of_role("train")},
        {s.name: topologies[s.name] for s in config.of_role("test")},
    )
    return BuiltSystems(found, trainer, device)


def _own(config: SystemsConfig, system: OneSystem) -> Config:
    """Return the configuration of a system, whose selector may want all labels of a round."""
    selector = system.config.selector
    assert isinstance(selector, SelectorSettings)  # checked when the configuration was read
    most = config.n_select if system.most is None else min(system.most, config.n_select)
    changed = system.config.model_copy(update={"selector": selector.model_copy(update={"n_select": most})})
    return changed.with_decided(system.config.decided)


def _check_molecules(config: SystemsConfig, topologies: Mapping[str, CGTopology]) -> None:
    first: dict[CGTopology, OneSystem] = {}
    for system in config.systems:
        other = first.setdefault(topologies[system.name], system)
        if other is system:
            continue
        remedy = (
            "make them one system, with seed_data.n_trajectories and seed_data.start (mixed, diverse)"
            if other.role == system.role
            else "a molecule that is trained on is no test of what the potential does on others"
        )
        raise ConfigError(
            f"systems {other.name!r} ({other.role}) and {system.name!r} ({system.role}) are the same "
            f"molecule: {remedy}"
        )
