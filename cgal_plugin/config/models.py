"""The configuration of a run: strict, frozen pydantic models with units in the descriptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from cgal_plugin.config.evaluation import Evaluation, Stopping
from cgal_plugin.config.executor import ExecutorConfig, LocalExecutor, ParslExecutor
from cgal_plugin.config.external import CustomComponent, ExternalComponent, InstalledComponent
from cgal_plugin.config.ladder import check_temperatures
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.oracle import OpenMMOracleConfig, OracleConfig
from cgal_plugin.config.quantities import CountOrZero
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.section import Section
from cgal_plugin.config.selector import CommitteeSelectorConfig, RMSDSelectorConfig, SelectorConfig
from cgal_plugin.config.simulation import SamplerConfig, Simulation
from cgal_plugin.config.system import SeedData, System
from cgal_plugin.config.training import TrainerConfig, Training
from cgal_plugin.errors import ConfigError
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

_DEFAULT_KINDS = {
    "oracle": "openmm",
    "training": "torchmdnet",
    "simulation": "openmm",
    "selector": "rmsd",
    "executor": "local",
}


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
    seed: CountOrZero = 0
    """Seed of the run; all random numbers are derived from it."""
    system: System
    seed_data: SeedData = SeedData()
    oracle: OracleConfig = OpenMMOracleConfig()
    training: TrainerConfig = Training()
    simulation: SamplerConfig = Simulation()
    selector: SelectorConfig = RMSDSelectorConfig()
    evaluation: Evaluation = Evaluation()
    test: ModelTest | None = ModelTest()
    """Test of each round's model against `evaluation.reference`. None: no test, and no W1."""
    refinement: Refinement | None = None
    """Correction of the final model. None: the final model is that of the last round."""
    stopping: Stopping = Stopping()
    executor: ExecutorConfig = LocalExecutor()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _solvent_of_files(data)
        sections = {k: data[k] for k in _DEFAULT_KINDS if isinstance(data.get(k), dict)}
        return {**data, **{k: {"kind": _DEFAULT_KINDS[k], **section} for k, section in sections.items()}}

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
            interval = simulation.exchange_interval or simulation.report_interval
            if self.refinement is not None and interval > self.refinement.steps:
                raise ValueError(
                    f"refinement.steps {self.refinement.steps} is less than the {interval} steps between "
                    "exchanges of temperatures: raise it, or lower simulation.exchange_interval"
                )
        gpus = isinstance(self.executor, ParslExecutor) and self.executor.template == "slurm_gpu"
        if gpus and isinstance(self.oracle, OpenMMOracleConfig) and self.oracle.platform == "CPU":
            raise ValueError("executor.template slurm_gpu requests GPUs: set oracle.platform to CUDA or auto")
        return self

    @model_validator(mode="after")
    def _refinable(self) -> Config:
        if self.refinement is None:
            return self
        # of another trainer the method priors shows it, see components.build
        if isinstance(self.training, Training) and not self.training.refinable:
            if self.training.init is not None:
                raise ValueError(
                    "refinement changes pair energies that the run has fitted, and training.init brings "
                    "priors of its own: remove one of them"
                )
            raise ValueError(
                "refinement changes pair energies fitted to forces: set training.priors.method to "
                "force_matching and add pairs to training.priors.terms"
            )
        oracle = self.oracle
        if not isinstance(oracle, OpenMMOracleConfig) or self.stopping.rounds == 0:
            return self
        if oracle.free_ps <= self.refinement.lag_ps:
            raise ValueError(
                f"refinement needs labels with more than lag_ps = {self.refinement.lag_ps} ps of dynamics "
                f"without a restraint; these labels have {oracle.free_ps} ps: set oracle.mode free without "
                "restraint, or steered with release_ps, or a longer production_ps"
            )
        return self

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
