"""Values of the keys that a configuration leaves out and that follow the molecule."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgal_plugin.config.evaluation import Stopping
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.oracle import OpenMMOracleConfig
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.residues import count_residues
from cgal_plugin.config.scale import RULES
from cgal_plugin.config.section import MEASURED, Decision, Section, filled, without_auto
from cgal_plugin.config.selector import (
    CommitteeSelectorConfig,
    CoverageSelectorConfig,
    RandomSelectorConfig,
    RMSDSelectorConfig,
)
from cgal_plugin.config.simulation import Simulation
from cgal_plugin.config.system import SeedData
from cgal_plugin.config.training import Training

#: key of the validation context: folder that relative paths start from
BASE = "base"
#: the kind of a section that does not say it
DEFAULT_KINDS = {
    "oracle": "openmm",
    "training": "torchmdnet",
    "simulation": "openmm",
    "selector": "rmsd",
    "executor": "local",
}
#: sections with keys that follow others: section and kind (None: it has none) -> model
_MODELS: Mapping[tuple[str, str | None], type[Section]] = {
    ("seed_data", None): SeedData,
    ("oracle", "openmm"): OpenMMOracleConfig,
    ("training", "torchmdnet"): Training,
    ("simulation", "openmm"): Simulation,
    ("selector", "rmsd"): RMSDSelectorConfig,
    ("selector", "coverage"): CoverageSelectorConfig,
    ("selector", "random"): RandomSelectorConfig,
    ("selector", "committee"): CommitteeSelectorConfig,
    ("stopping", None): Stopping,
    ("refinement", None): Refinement,
    ("test", None): ModelTest,
}


def decide_sections(
    data: Mapping[str, Any], base: str | os.PathLike[str]
) -> tuple[dict[str, Any], dict[str, Decision]]:
    """Return the content of a configuration with the keys that follow the molecule, and what was decided.

    A section that is a model, built in Python, is left as it is: it has values for 10 residues.

    Parameters
    ----------
    data
        Content of a configuration; not modified. Wrong values are left to the checks.
    base
        Folder that the path of the structure starts from.
    """
    found, decided = dict(data), dict[str, Decision]()
    size: int | None = None
    asked = False
    for (section, kind), model in _MODELS.items():
        # a refinement that is not given may be off, see default_refinement
        content = data.get(section, None if section == "refinement" else {})
        if not isinstance(content, dict) or content.get("kind", DEFAULT_KINDS.get(section)) != kind:
            continue
        given = without_auto(model, content)
        if not asked and model.decide(given, MEASURED):
            size, asked = count_residues(data.get("system"), Path(base)), True
        values = model.decide(given, size or MEASURED)
        if asked and size is None and isinstance(data.get("system"), Mapping):
            values = {k: _unknown(f"{section}.{k}", d) for k, d in values.items()}
        found[section] = filled(given, {key: d.value for key, d in values.items()})
        decided |= {f"{section}.{key}": decision for key, decision in values.items()}
    return found, decided


def default_refinement(
    data: Mapping[str, Any], base: str | os.PathLike[str]
) -> tuple[Refinement, dict[str, Decision]]:
    """Return the refinement of a configuration that does not mention it, and what was decided."""
    own = Refinement.decide({}, residues_of(data, base))
    settings = Refinement(**{key: d.value for key, d in own.items()})
    on = Decision("on", "the priors and the labels of this run allow it")
    return settings, {"refinement": on, **{f"refinement.{key}": d for key, d in own.items()}}


def residues_of(data: Mapping[str, Any], base: str | os.PathLike[str]) -> int:
    """Return the number of residues of the molecule; 10 if it cannot be told."""
    return count_residues(data.get("system"), Path(base)) or MEASURED


def _unknown(key: str, decision: Decision) -> Decision:
    """Say of a value that follows the size of the molecule that the size is not known."""
    if key not in RULES:
        return decision
    rule = f"as for {MEASURED} residues, because those of system.structure could not be counted"
    return Decision(decision.value, rule, say=True)


def decision_lines(decided: Mapping[str, Decision]) -> list[str]:
    """Return what was decided, one line per key."""
    return [f"{key}: {_value(key, d.value)} ({d.rule})" for key, d in decided.items()]


def _value(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    unit = RULES[key].unit if key in RULES else ""
    return (f"{value:g}" if isinstance(value, float) else str(value)) + (f" {unit}" if unit else "")
