"""Build the components of the systems of a configuration, without a run."""

from __future__ import annotations

from cgal_plugin._register import register
from cgal_plugin.components.build import Components, build_components
from cgal_plugin.config.systems import OneSystem, SystemsConfig
from cgal_plugin.errors import CGALError, ConfigError
from cgal_plugin.systems.trainer import SharedTrainer


def built_systems(config: SystemsConfig) -> list[tuple[OneSystem, Components]]:
    """Return each system with its components.

    Raises
    ------
    ConfigError
        Whatever is wrong with a system; the message names it.
    """
    register()
    trainer = SharedTrainer(config.main)
    found = []
    for system in config.systems:
        try:
            components = build_components(system.config, trainer=trainer)
            trainer.check(components.seed_source.topology)
        except CGALError as error:
            raise ConfigError(f"system {system.name}: {error}") from error
        found.append((system, components))
    return found
