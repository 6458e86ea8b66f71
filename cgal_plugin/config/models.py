"""The configuration of a run: strict, frozen pydantic models with units in the descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cgal_plugin.config.decisions import BASE, DEFAULT_KINDS, decide_sections, default_refinement
from cgal_plugin.config.evaluation import Evaluation, Stopping
from cgal_plugin.config.executor import ExecutorConfig, LocalExecutor, ParslExecutor
from cgal_plugin.config.external import CustomComponent, ExternalComponent, InstalledComponent
from cgal_plugin.config.ladder import check_temperatures
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.oracle import OpenMMOracleConfig, OracleConfig
from cgal_plugin.config.preset import check_name, with_preset
from cgal_plugin.config.quantities import SeedNumber
from cgal_plugin.config.refine_by_default import refinement_problem, why_not_refined
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.section import AUTO, Auto, Decision, Section
from cgal_plugin.config.selector import CommitteeSelectorConfig, RMSDSelectorConfig, SelectorConfig
from cgal_plugin.config.simulation import SamplerConfig, Simulation
from cgal_plugin.config.system import SeedData, System
from cgal_plugin.config.training import TrainerConfig, Training
from cgal_plugin.errors import ConfigError
from cgal_plugin.plain_text import has_control
from cgal_plugin.provenance import hash_object

__all__ = [
    "Config",
    "CustomComponent",
    "ExternalComponent",
    "InstalledComponent",
    "OpenMMOracleConfig",
    "Section",
    "Simulation",
    "Training",
]


def _solvent_of_files(data: dict[str, Any]) -> dict[str, Any]:
    """Set ``oracle.solvent`` to ``files`` if the system has its own force field and the key is not given."""
    system, oracle = data.get("system"), data.get("oracle", {})
    if isinstance(system, System):
        own = system.force_field
    else:
        own = system.get("force_field") if isinstance(system, dict) else None
    if (
        own is not None
        and isinstance(oracle, OpenMMOracleConfig)
        and "solvent" not in oracle.model_fields_set
    ):
        return {**data, "oracle": oracle.model_copy(update={"solvent": "files"})}
    if own is None or not isinstance(oracle, dict) or oracle.get("kind", "openmm") != "openmm":
        return data
    return {**data, "oracle": {"solvent": "files", **oracle}}


class Config(Section):
    """One active-learning run."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = "run"
    """Title of the report."""
    seed: SeedNumber = 0
    """Seed of the run; all random numbers are derived from it."""
    preset: str | None = None
    """Named values that this file starts from; its own keys win. paper: the recipe of arXiv 2509.17208."""
    system: System
    seed_data: SeedData = SeedData()
    oracle: OracleConfig = OpenMMOracleConfig()
    training: TrainerConfig = Training()
    simulation: SamplerConfig = Simulation()
    selector: SelectorConfig = RMSDSelectorConfig()
    evaluation: Evaluation = Evaluation()
    test: ModelTest | None = ModelTest()
    """Test of each round's model against `evaluation.reference`. None: no test, and no W1."""
    refinement: Annotated[Refinement | None, Auto("on if the priors and the labels of the run allow it")] = (
        Refinement()
    )
    """Correction of the final model. null: the final model is that of the last round."""
    stopping: Stopping = Stopping()
    executor: ExecutorConfig = LocalExecutor()
    _decided: dict[str, Decision] = PrivateAttr(default_factory=dict)

    @property
    def decided(self) -> Mapping[str, Decision]:
        """Values of keys that were not given or ``auto``, and by which rule; the keys have dots."""
        return self._decided

    def with_decided(self, decided: Mapping[str, Decision]) -> Config:
        """Return this configuration with another record of what was decided."""
        found = self.model_copy()
        found._decided = dict(decided)
        return found

    def __eq__(self, other: object) -> bool:
        """Compare the values, whether given or decided."""
        return isinstance(other, Config) and self.resolved() == other.resolved()

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if has_control(name):
            raise ValueError("it has control characters, or more than one line; use plain text")
        return name

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return None if name is None else check_name(name)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _solvent_of_files(data)
        sections = {k: data[k] for k in DEFAULT_KINDS if isinstance(data.get(k), dict)}
        return {**data, **{k: {"kind": DEFAULT_KINDS[k], **section} for k, section in sections.items()}}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        own = self.system.force_field is not None
        if isinstance(self.oracle, OpenMMOracleConfig) and own != (self.oracle.solvent == "files"):
            raise ValueError(
                f"oracle.solvent {self.oracle.solvent} cannot be used with system.force_field: the solvent "
                "is that of its files; leave oracle.solvent out"
                if own
                else "oracle.solvent files needs system.force_field; use obc2, gbn2 or tip3pfb"
            )
        if isinstance(self.selector, CommitteeSelectorConfig):
            if not isinstance(self.training, Training):
                raise ValueError("selector.kind committee needs the models of training.kind torchmdnet")
            if self.training.committee < 2:
                raise ValueError("selector.kind committee needs training.committee of 2 or more")
        simulation = self.simulation
        if isinstance(simulation, Simulation) and simulation.temperatures:
            try:
                check_temperatures(simulation.temperatures, self.system.temperature)
            except ValueError as error:
                raise ValueError(f"simulation.temperatures, system.temperature: {error}") from None
        gpus = isinstance(self.executor, ParslExecutor) and self.executor.template == "slurm_gpu"
        if gpus and isinstance(self.oracle, OpenMMOracleConfig) and self.oracle.platform == "CPU":
            raise ValueError("executor.template slurm_gpu requests GPUs: set oracle.platform to CUDA or auto")
        return self

    @model_validator(mode="after")
    def _refinable(self) -> Config:
        if self.refinement is None:
            return self
        rounds = self.stopping.rounds
        problem = refinement_problem(self.refinement, self.training, self.simulation, self.oracle, rounds)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _decide(cls, data: Any, handler: ModelWrapValidatorHandler[Config], info: ValidationInfo) -> Config:
        """Set the keys that follow the molecule or other sections; the last validator, around the others."""
        if not isinstance(data, dict):
            return handler(data)
        base = (info.context or {}).get(BASE, ".")
        data, decided = decide_sections(with_preset(data), base)
        if data.get("refinement", AUTO) == AUTO:
            plain = handler({**data, "refinement": None})
            settings, its_own = default_refinement(data, base)
            p = plain
            reason = why_not_refined(
                settings, p.training, p.simulation, p.oracle, p.stopping.rounds, p.seed_data
            )
            found = plain if reason else handler({**data, "refinement": settings})
            decided |= {"refinement": Decision("off", reason, say=True)} if reason else its_own
        else:
            found = handler(data)
        found._decided = decided
        return found

    @property
    def tested(self) -> ModelTest | None:
        """The test of each model; None if it is off or there is no reference to compare with."""
        return self.test if self.evaluation.reference else None

    @property
    def torchmdnet(self) -> Training:
        """The section ``training`` of the built-in trainer.

        Raises
        ------
        ConfigError
            The configuration names another trainer.
        """
        if not isinstance(self.training, Training):
            raise ConfigError(f"training.kind is {self.training.kind!r}; this needs kind torchmdnet")
        return self.training

    def resolved(self) -> dict[str, Any]:
        """Return every key with its value, ready for YAML or JSON."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved configuration."""
        return hash_object(self.resolved())
