"""The all-atom model that a configuration describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.config import Config, load_yaml
from cgal_plugin.config.models import OpenMMOracleConfig
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import resolve_spec

if TYPE_CHECKING:
    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.oracle.options import ReadOptions
    from cgal_plugin.oracle.user_system import PreparedSystem


def all_atom_model(config: Config) -> AllAtomModel:
    """Return the minimised all-atom model of a configuration: ff14SB, or the user's own system.

    Raises
    ------
    CGALError
        The molecule, or a file of the force field, cannot be used.
    """
    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.oracle.options import ReadOptions

    system = config.system
    if system.force_field is not None:
        return AllAtomModel.from_system(user_system(config))
    options = ReadOptions(
        ph=system.ph,
        ignore=system.ignore,
        replace=system.replace,
        repair=system.repair,
        chains=system.chains,
        model=system.model,
    )
    settings = config.oracle if isinstance(config.oracle, OpenMMOracleConfig) else OpenMMOracleConfig()
    spec = resolve_spec(system.mapping, system.embedding)
    return AllAtomModel.create(system.source, spec, settings.solvent, options)


def named_model(
    system: str, mapping: Any = "CA", solvent: str = "obc2", options: ReadOptions | None = None
) -> AllAtomModel:
    """Return the model of a sequence, of a structure file, or of the configuration file (YAML) of a run.

    A configuration brings its own mapping, solvent and options, so that these must have their defaults.

    Raises
    ------
    CGALError
        The molecule cannot be used, or options are given beside a configuration.
    """
    from cgal_plugin.oracle import AllAtomModel
    from cgal_plugin.oracle.options import ReadOptions

    if Path(system).suffix.lower() not in (".yaml", ".yml"):
        return AllAtomModel.create(system, mapping, solvent, options)
    given = ["mapping"] * (mapping != "CA") + ["solvent"] * (solvent != "obc2")
    given += ["options of a structure"] * (options not in (None, ReadOptions()))
    if given:
        raise ConfigError(f"{', '.join(given)}: {system} has its own; set them there, or leave them out here")
    return all_atom_model(load_yaml(system))


def user_system(config: Config) -> PreparedSystem:
    """Read the user's own system of a configuration, not minimised.

    Raises
    ------
    CGALError
        The configuration has none, or a file cannot be used.
    """
    from cgal_plugin.oracle.user_system import load_user_system

    system, own = config.system, config.system.force_field
    if own is None or system.structure is None:
        raise ConfigError("system.force_field is not set; this configuration uses ff14SB")
    return load_user_system(
        own.kind,
        own.files,
        own.include,
        system.structure,
        mapping=resolve_spec(system.mapping, system.embedding),
        ignore=system.ignore,
        cutoff=own.cutoff,
        implicit_solvent=own.implicit_solvent,
    )
